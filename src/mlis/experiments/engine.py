"""Runs many tasks: those in the store are skipped, interrupted ones continue.

`RESULTS/results.jsonl` is the store, `RESULTS/work/STEM/` holds the snapshots of runs that are not
finished, `RESULTS/runs/KEY/` the losses, and some models, of those that are. Any number of
processes may work on one folder: a task that another one is at is put off, and its row taken from
the store.
"""

import contextlib
import functools
import logging
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlis.compute.processes import call_many
from mlis.errors import MlisError
from mlis.experiments.running import How, Listen, run, silent
from mlis.experiments.store import Row, Store
from mlis.experiments.tasks import Task
from mlis.storage.locks import lock_folder

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Of one task: its row, or why there is none."""

    task: Task
    row: Row | None
    problem: str = ""


@functools.lru_cache(maxsize=4)
def store_of(results: Path) -> Store:
    """The store of a results folder."""
    return Store(results / "results.jsonl")


def record_of(results: Path, key: str) -> Path:
    """Where losses and model of a finished run are."""
    return results / "runs" / key[:16]


def work_of(results: Path, task: Task) -> Path:
    """Where the snapshots of a run that is not finished are."""
    return results / "work" / task.stem[:16]


@dataclass(frozen=True)
class LocalEngine:
    """This machine: in this process, or in several.

    Attributes:
        jobs: processes; PyTorch's threads are divided among them.
        models_of: seeds whose models are kept; a model takes some megabytes.
        listen: with one job, given the title of a training, returns who hears of it.
        snapshot_every: seconds between snapshots.
    """

    jobs: int = 1
    models_of: tuple[int, ...] = (0,)
    listen: Listen = silent
    snapshot_every: float = 30.0

    def run(self, tasks: Sequence[Task], results: Path) -> Generator[Outcome, None, None]:
        """Give one outcome a task, in any order, each when its row is in the store.

        A task that cannot be run (its data are gone, a loss diverged) does not stop the others.
        """
        todo = {task.key: task for task in tasks}
        for outcome in there(todo, results):
            del todo[outcome.task.key]
            _clear_unused(outcome, todo, results)
            yield outcome
        for wait in (False, True):  # those that another process is at come last
            calls = [(task, results, self._how(task, results), wait) for task in todo.values()]
            with contextlib.closing(call_many(attempt, calls, self.jobs)) as outcomes:
                for outcome in outcomes:
                    if outcome is not None:
                        del todo[outcome.task.key]
                        _clear_unused(outcome, todo, results)
                        yield outcome

    def _how(self, task: Task, results: Path) -> How:
        listen = self.listen if self.jobs == 1 else silent
        keep_model = task.seed in self.models_of
        return How(listen, record_of(results, task.key), keep_model, self.snapshot_every)


def attempt(task: Task, results: Path, how: How, wait: bool) -> Outcome | None:
    """Run a task, unless the store has it; without `wait`, None while another process is at it."""
    store = store_of(results)
    if row := store.get(task.key):
        return Outcome(task, row)
    try:
        lock = lock_folder(work_of(results, task), (lambda holder: None) if wait else None)
    except BlockingIOError:
        return None
    with lock:
        if row := store.get(task.key):  # finished just before we had the lock
            return Outcome(task, row)
        try:
            store.append(run(task, work_of(results, task), how))
        except MlisError as error:
            logger.warning("%s: %s", task.title, error)
            return Outcome(task, None, str(error))
        return Outcome(task, store.get(task.key))


def there(todo: Mapping[str, Task], results: Path) -> Iterator[Outcome]:
    """Tasks that the store has, before any worker is asked."""
    for task in list(todo.values()):
        if row := store_of(results).get(task.key):
            yield Outcome(task, row)


def _clear_unused(outcome: Outcome, todo: Mapping[str, Task], results: Path) -> None:
    shared = outcome.task.stem in {task.stem for task in todo.values()}
    if outcome.row is not None and not shared:
        clear(work_of(results, outcome.task))


def clear(folder: Path) -> None:
    """Delete snapshots that no task of this list needs any more, unless another process does."""
    if folder.exists():
        with contextlib.suppress(OSError), lock_folder(folder):  # BlockingIOError is an OSError
            shutil.rmtree(folder)
