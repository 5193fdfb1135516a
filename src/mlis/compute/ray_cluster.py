"""Distributed work with Ray (https://ray.io): connection, resources, retries.

Shared by experiments and feature extraction. The driver process submits jobs as Ray tasks and
receives their results; only the driver writes files. Ray restarts a task whose worker or node died,
on any node, up to `retries` times. Usage statistics of Ray are disabled.
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
POLL = 0.5  # seconds between attempts to begin waiting jobs
PATIENCE = 30.0  # seconds without a sufficiently large node before a warning
FAREWELL = 5.0  # seconds for cancelled tasks to clean up


@dataclass(frozen=True)
class Cluster:
    """Address of a cluster, and resources of a task.

    Attributes:
        address: "HOST:PORT" of a cluster, or "auto" on one of its machines; None starts a
            temporary one on this machine.
        cores: per task, and number of PyTorch threads.
        gpus: per task; may be a fraction.
        retries: maximum number of restarts of a task whose worker or node died.
    """

    address: str | None = None
    cores: int = 1
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        if self.cores < 1 or self.gpus < 0 or self.retries < 0:
            raise SettingsError(
                f"expected cores ≥ 1, gpus ≥ 0 and retries ≥ 0, got {self.cores}, {self.gpus} and "
                f"{self.retries}"
            )


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator["Pool"]:
    """Connect to a cluster, or start one on this machine; reuses an existing connection.

    Raises:
        SettingsError: Ray is not installed, there is no such cluster, or no node has the cores and
            GPUs for one task.
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
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when a cluster starts
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
            "or omit the address to use this machine only"
        ) from error


class Pool:
    """A connected cluster.

    Args:
        ray: the Ray module.
        cluster: resources of each task, and retries.
    """

    def __init__(self, ray: Any, cluster: Cluster):
        self._ray, self._cluster = ray, cluster
        self._remote = ray.remote(_on_worker).options(
            num_cpus=cluster.cores, num_gpus=cluster.gpus, max_retries=cluster.retries
        )
        self._last_room = time.monotonic()

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Submit `work(*arguments)`, a module-level function; return a reference to its result.

        References among the arguments are not resolved; use `fetch` on the worker.
        """
        return self._remote.remote(
            self._cluster.cores, work.__module__, work.__qualname__, arguments
        )

    def put(self, value: Any) -> Any:
        """Copy a value to the object store, once for all tasks; return a reference."""
        return self._ray.put(value)

    def spread(
        self,
        jobs: "deque[Job]",
        begin: Callable[[Job], Any | None],
        end: Callable[[Job, Any], Iterable[Item]],
    ) -> Iterator[Item]:
        """Run jobs; yield the items of `end` in the order in which jobs finish.

        On interruption (Ctrl-C, or a closed generator), `end` is called for the jobs that have
        finished, and may be called twice for one; the others are cancelled.

        Args:
            jobs: `end` may add jobs.
            begin: submits a job and returns a reference, or None if it cannot be started yet.
            end: called with a job and its result, or the `RayError` of a failed job.
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
        """Keep a few more jobs submitted than the cluster can run at a time."""
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
        except errors.RayTaskError as error:  # raised by the task itself
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
        """Whether a result is the error of a failed job."""
        return isinstance(result, self._ray.exceptions.RayError)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _slots(self) -> int:
        """Tasks that the cluster can run at a time at its current size."""
        cluster = self._cluster
        return sum(
            min(
                int(node.get("CPU", 0) // cluster.cores),
                int(node.get("GPU", 0) // cluster.gpus) if cluster.gpus else 1 << 30,
            )
            for node in self._nodes()
        )

    def check_room(self) -> None:
        """Raise `SettingsError` if no node is large enough for one task."""
        if not self._slots():
            raise SettingsError(self._too_small())

    def _too_small(self) -> str:
        cores = max((int(node.get("CPU", 0)) for node in self._nodes()), default=0)
        gpus = max((int(node.get("GPU", 0)) for node in self._nodes()), default=0)
        return (
            f"Ray cluster: expected a node with {self._cluster.cores} cores and "
            f"{self._cluster.gpus:g} GPUs, as requested for each task, got at most {cores} cores "
            f"and {gpus} GPUs"
        )

    def _say_if_too_small(self) -> None:
        """Log a warning from time to time: nodes were lost, but others may join."""
        now = time.monotonic()
        if self._slots():
            self._last_room = now
        elif now - self._last_room > PATIENCE:
            self._last_room = now
            logger.warning("waiting: %s", self._too_small())


def fetch(reference: Any) -> Any:
    """On a worker: the value stored by `Pool.put`; its arrays are shared and read-only."""
    return _ray().get(reference)


def node_name() -> str:
    """On a worker: unique name of its node."""
    return _ray().get_runtime_context().get_node_id()


def _on_worker(threads: int, module: str, name: str, arguments: tuple[Any, ...]) -> Any:
    """Call a function by name, so that PyTorch is imported after these settings."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see `mlis.cli`
    import torch

    torch.set_num_threads(threads)
    return getattr(importlib.import_module(module), name)(*arguments)
