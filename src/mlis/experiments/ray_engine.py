"""Tasks on many machines, by Ray: `mlis reproduce --engine ray`.

**Data.** A worker first reads a task's dataset from the path that the task names, and takes it if
its hash is the task's: on shared storage, or where each machine has a copy, nothing is sent, and
files that are larger than memory are mapped. Where that fails, the driver puts its own copy into
Ray's object store, once a dataset, and every node that needs it fetches it once.

**Failures.** A task whose worker or node dies is started again elsewhere. Its snapshots lie on the
node that it ran on; another node has none, begins at step 0, and comes to the same bits. Generators
are kept in each node's own cache folder (`MLIS_CACHE`).

**Rows** are appended by the driver alone, as they arrive, so that none is there twice; losses and
models come with them. Tasks of one `stem` (they differ in stage 2 alone) are one job, so that their
encoder is trained once. The driver holds their work folder in RESULTS against other processes.

A row is bit for bit that of :class:`~mlis.experiments.engine.LocalEngine` with as many threads, on
the same CPU model and versions. A worker that would multiply in another precision than the driver
refuses the task.
"""

import logging
import secrets
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlis.compute.precision import Precision
from mlis.compute.ray_cluster import Cluster, Pool, connected
from mlis.errors import DataError
from mlis.experiments.engine import Outcome, clear, record_of, store_of, there, work_of
from mlis.experiments.ray_worker import Absent, Answer, work
from mlis.experiments.store import parse
from mlis.experiments.tasks import Task, load_data
from mlis.storage.atomic import atomic_write
from mlis.storage.locks import lock_folder

logger: logging.Logger = logging.getLogger(__name__)

Unit = tuple[Task, ...]


@dataclass(frozen=True)
class RayEngine:
    """Runs tasks on a Ray cluster.

    Attributes:
        cluster: where, and with which resources.
        models_of: seeds whose models are kept; a model takes some megabytes.
        snapshot_every: seconds between snapshots, on the disk of the worker's node.
    """

    cluster: Cluster = field(default_factory=Cluster)
    models_of: tuple[int, ...] = (0,)
    snapshot_every: float = 30.0

    def run(self, tasks: Sequence[Task], results: Path) -> Generator[Outcome, None, None]:
        """See :meth:`mlis.experiments.engine.LocalEngine.run`.

        Raises:
            SettingsError: see :func:`mlis.compute.ray_cluster.connected`.
        """
        todo = {task.key: task for task in tasks}
        for outcome in there(todo, results):
            del todo[outcome.task.key]
            yield outcome
        if todo:
            with connected(self.cluster) as pool:
                driver = _Driver(pool, results, self.models_of, self.snapshot_every)
                yield from driver.run(list(todo.values()))


class _Driver:
    """Hands out tasks, and writes what comes back."""

    def __init__(
        self, pool: Pool, results: Path, models_of: tuple[int, ...], snapshot_every: float
    ):
        self._pool, self._results = pool, results
        self._models_of, self._snapshot_every = models_of, snapshot_every
        self._name = f"mlis-{secrets.token_hex(8)}"  # of the folders of this run on the nodes
        self._data: dict[str, Any] = {}  # hash of a dataset → its reference
        self._locks: dict[str, BinaryIO] = {}  # by stem
        self._jobs: deque[Unit] = deque()

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        units: dict[str, list[Task]] = {}
        for task in tasks:
            units.setdefault(task.stem, []).append(task)
        self._jobs.extend(tuple(unit) for unit in units.values())
        try:
            yield from self._pool.spread(self._jobs, self._begin, self._end)
        finally:
            for lock in self._locks.values():
                lock.close()

    def _begin(self, unit: Unit) -> Any | None:
        stem = unit[0].stem
        if stem not in self._locks:
            try:
                self._locks[stem] = lock_folder(work_of(self._results, unit[0]))
            except BlockingIOError:
                return None
        left = [task for task in unit if store_of(self._results).get(task.key) is None]
        jobs = [(_settled(one).to_dict(), one.key, one.seed in self._models_of) for one in left]
        data = self._data.get(unit[0].data_sha256)
        return self._pool.submit(work, jobs, data, self._name, self._snapshot_every)

    def _end(self, unit: Unit, result: Any) -> Iterator[Outcome]:
        if isinstance(result, Absent):
            problem = self._send_data(unit[0], result.why)
            if not problem:
                self._jobs.appendleft(unit)
                return
            result = [Answer(task.key, None, problem) for task in unit]
        elif self._pool.is_failure(result):
            problem = f"Ray gave it up ({type(result).__name__}): {_first_line(result)}"
            result = [Answer(task.key, None, problem) for task in unit]
        problems = {answer.key: self._keep(answer) for answer in result}
        outcomes = [self._outcome(task, problems.get(task.key, "")) for task in unit]
        if (lock := self._locks.pop(unit[0].stem, None)) is not None:
            lock.close()
        if all(outcome.row is not None for outcome in outcomes):
            clear(work_of(self._results, unit[0]))
        yield from outcomes

    def _send_data(self, task: Task, why: str) -> str:
        """Put the driver's own data into the object store; say what is wrong with them."""
        if task.data_sha256 not in self._data:
            try:
                dataset = load_data(task)
            except DataError as error:
                return str(error)
            logger.info("%s is sent to the workers, which do not have it: %s", task.name, why)
            # a plain array, not a memory map: the workers of a node read it where Ray has it
            plain = replace(dataset, features=np.asarray(dataset.features))
            self._data[task.data_sha256] = self._pool.put(plain)
        return ""

    def _keep(self, answer: Answer) -> str:
        """Write losses and model, then append the row; return the problem, if there is one."""
        if answer.line is None:
            return answer.problem
        record = record_of(self._results, answer.key)
        for name, content in answer.files.items():
            (record / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(record / name) as temporary:
                temporary.write_bytes(content)
        store_of(self._results).append(parse(answer.line))
        return ""

    def _outcome(self, task: Task, problem: str) -> Outcome:
        row = store_of(self._results).get(task.key)
        if row is None:
            logger.warning("%s: %s", task.title, problem)
        return Outcome(task, row, "" if row is not None else problem)


def _settled(task: Task) -> Task:
    """The same task, for the kind of device that "auto" comes to here; Ray says which of them."""
    return replace(task, device=Precision.of(task.config.precision, task.device).device.type)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
