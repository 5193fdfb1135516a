"""Work spread over machines by Ray (https://ray.io): connecting, resources, retries.

What its users share, experiments (:mod:`mlis.experiments.ray_engine`) and extraction
(:mod:`mlis.features.images.ray_shards`). The process that asks, the driver, hands out jobs as Ray
tasks and takes in what they return; only the driver writes results. A task whose worker or node
dies is begun anew by Ray, on any node, up to `retries` times. Nothing is reported to Ray's makers.
"""

import contextlib
import importlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mlis.errors import SettingsError

logger: logging.Logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Item = TypeVar("Item")
POLL = 0.5  # seconds between looks at what cannot be begun yet
PATIENCE = 30.0  # seconds without a node that is large enough before that is said
FAREWELL = 5.0  # seconds that cancelled tasks have to tidy up


@dataclass(frozen=True)
class Cluster:
    """Where tasks are run, and with what.

    Attributes:
        address: "HOST:PORT" of a cluster, or "auto" on one of its machines; None: one on this
            machine alone, for as long as it is needed.
        cores: of each task; PyTorch has as many threads.
        gpus: of each task; may be a share of one.
        retries: how often a task is begun anew when its worker or node dies.
    """

    address: str | None = None
    cores: int = 1
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        if self.cores < 1 or self.gpus < 0 or self.retries < 0:
            raise SettingsError(
                f"expected cores ≥ 1, gpus ≥ 0 and retries ≥ 0, but got {self.cores}, {self.gpus} "
                f"and {self.retries}"
            )


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator["Pool"]:
    """Connect to a cluster, or start one here; a connection that is there already is used.

    Raises:
        SettingsError: Ray is not installed, there is no such cluster, or none of its nodes has the
            cores and GPUs of one task.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _start(ray, cluster.address)
    try:
        pool = Pool(ray, cluster)
        pool.check_room()
        yield pool
    finally:
        if ours:
            ray.shutdown()


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when a cluster is started
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise SettingsError(
            "the engine `ray` needs the extra `ray`: pip install 'mlis[ray]'"
        ) from error


def _start(ray: Any, address: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"address": "local", "include_dashboard": False}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(
            f"no Ray cluster at {address or 'this machine'}: {reason}. Start one with `ray start`, "
            "or leave out the address to use this machine alone"
        ) from error


class Pool:
    """A cluster that is connected.

    Args:
        ray: the module.
        cluster: resources of each task, and retries.
    """

    def __init__(self, ray: Any, cluster: Cluster):
        self._ray, self._cluster = ray, cluster
        self._remote = ray.remote(_on_worker).options(
            num_cpus=cluster.cores, num_gpus=cluster.gpus, max_retries=cluster.retries
        )
        self._last_room = time.monotonic()

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out `work(*arguments)`, a function of a module; return the reference of its result.

        References among the arguments arrive as such, for `fetch`.
        """
        return self._remote.remote(
            self._cluster.cores, work.__module__, work.__qualname__, arguments
        )

    def put(self, value: Any) -> Any:
        """Copy a value into the object store, once for all tasks; return its reference."""
        return self._ray.put(value)

    def spread(
        self,
        jobs: "deque[Job]",
        begin: Callable[[Job], Any | None],
        end: Callable[[Job, Any], Iterable[Item]],
    ) -> Iterator[Item]:
        """Run jobs; give what `end` makes of each, in the order in which they finish.

        When it is left half way (Ctrl-C, or the consumer wants no more), `end` is called for those
        that have finished by then, so that it should keep what it is given, and may be called
        twice for one; the others are cancelled.

        Args:
            jobs: `end` may add to them.
            begin: submits a job and returns the reference; None: it cannot be begun yet.
            end: is given a job and what it returned, or the `RayError` that says why Ray gave up.
        """
        running: dict[Any, Job] = {}
        try:
            while jobs or running:
                self._begin_some(jobs, running, begin)
                for reference in self._finished(running):
                    yield from end(running[reference], self._result(reference))
                    del running[reference]
        except BaseException:
            for reference in self._finished(running, wait=0.0):
                with contextlib.suppress(Exception):
                    list(end(running.pop(reference), self._result(reference)))
            raise
        finally:
            self._cancel(list(running))

    def _begin_some(
        self, jobs: "deque[Job]", running: dict[Any, Job], begin: Callable[[Job], Any | None]
    ) -> None:
        """Keep a few more jobs handed out than can be run at a time."""
        free = 2 * self._slots() + 2 - len(running)
        for _ in range(min(free, len(jobs))):
            job = jobs.popleft()
            reference = begin(job)
            if reference is None:
                jobs.append(job)
            else:
                running[reference] = job

    def _finished(self, running: dict[Any, Job], wait: float = POLL) -> list[Any]:
        if not running:
            time.sleep(wait)
            return []
        found, _ = self._ray.wait(list(running), num_returns=len(running), timeout=0)
        if not found and wait:
            found, _ = self._ray.wait(list(running), timeout=wait)
            self._say_if_too_small()
        return found

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:  # a mistake in the task's own code
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except errors.RayError as error:
            return error

    def _cancel(self, references: list[Any]) -> None:
        if not references or not self._ray.is_initialized():
            return
        for reference in references:
            self._ray.cancel(reference)
        self._ray.wait(references, num_returns=len(references), timeout=FAREWELL)

    def is_failure(self, result: Any) -> bool:
        """Whether a result is not one, but why Ray gave the job up."""
        return isinstance(result, self._ray.exceptions.RayError)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _slots(self) -> int:
        """Tasks that the cluster, as large as it is now, runs at a time."""
        cluster = self._cluster
        return sum(
            min(
                int(node.get("CPU", 0) // cluster.cores),
                int(node.get("GPU", 0) // cluster.gpus) if cluster.gpus else 1 << 30,
            )
            for node in self._nodes()
        )

    def check_room(self) -> None:
        """Raise `SettingsError` where no node is large enough for one task."""
        if not self._slots():
            raise SettingsError(self._too_small())

    def _too_small(self) -> str:
        cores = max((int(node.get("CPU", 0)) for node in self._nodes()), default=0)
        gpus = max((int(node.get("GPU", 0)) for node in self._nodes()), default=0)
        return (
            f"no node of the Ray cluster has the {self._cluster.cores} cores and "
            f"{self._cluster.gpus:g} GPUs that were asked for each task: the largest has "
            f"{cores} cores and {gpus} GPUs"
        )

    def _say_if_too_small(self) -> None:
        """Once a while, when nodes were lost; more may join, so it is no error."""
        now = time.monotonic()
        if self._slots():
            self._last_room = now
        elif now - self._last_room > PATIENCE:
            self._last_room = now
            logger.warning("waiting: %s", self._too_small())


def fetch(reference: Any) -> Any:
    """On a worker: what `Pool.put` stored; its arrays are read where they lie, and cannot be
    written.
    """
    return _ray().get(reference)


def node_name() -> str:
    """On a worker: a name of its node, another one for each."""
    return _ray().get_runtime_context().get_node_id()


def _on_worker(threads: int, module: str, name: str, arguments: tuple[Any, ...]) -> Any:
    """Call a function by its name, so that PyTorch is imported after these settings, not before."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and why there
    import torch

    torch.set_num_threads(threads)
    return getattr(importlib.import_module(module), name)(*arguments)
