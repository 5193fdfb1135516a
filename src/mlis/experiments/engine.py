"""Runs many tasks: what the store has is skipped, what was interrupted continues.

`RESULTS/results.jsonl` is the store, `RESULTS/work/STEM/` holds the snapshots of runs that are not
finished, `RESULTS/runs/KEY/` the losses, and some models, of those that are. Any number of
processes may work on one folder: a task that another one is at is put off, and its row taken from
the store.
"""

import contextlib
import functools
import logging
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from mlis.errors import MlisError, SettingsError
from mlis.experiments.store import Row, Store
from mlis.experiments.tasks import How, Listen, Task, run, silent
from mlis.locks import lock_folder

logger = logging.getLogger(__name__)

POLL = 0.5  # seconds between looks at a task that another process is at


@dataclass(frozen=True)
class Outcome:
    """Of one task: its row, or why there is none."""

    task: Task
    row: Row | None
    problem: str = ""


class Engine(Protocol):
    """Where tasks are run."""

    def run(self, tasks: Sequence[Task], results: Path) -> Iterator[Outcome]:
        """Give one outcome a task, in any order, each when its row is in the store.

        A task that cannot be run (its data are gone, a loss diverged) does not stop the others.
        """
        ...


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
        jobs: processes; their threads are the cores divided among them.
        models_of: seeds whose models are kept; a model takes some megabytes.
        listen: with one job, given the title of a training, returns who hears of it.
        snapshot_every: seconds between snapshots.
    """

    jobs: int = 1
    models_of: tuple[int, ...] = (0,)
    listen: Listen = silent
    snapshot_every: float = 30.0

    def run(self, tasks: Sequence[Task], results: Path) -> Iterator[Outcome]:
        """See :class:`Engine`."""
        todo = {task.key: task for task in tasks}
        outcomes = self._in_turn(todo, results) if self.jobs == 1 else self._beside(todo, results)
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                del todo[outcome.task.key]
                if outcome.task.stem not in {task.stem for task in todo.values()}:
                    _clear(work_of(results, outcome.task))
                yield outcome

    def _in_turn(self, todo: dict[str, Task], results: Path) -> Generator[Outcome, None, None]:
        while waiting := list(todo.values()):
            for task in waiting:
                how = self._how(task, results, self.listen)
                if (outcome := attempt(task, results, how)) is not None:
                    yield outcome
            if len(waiting) == len(todo):  # others are at all of them
                time.sleep(POLL)

    def _beside(self, todo: dict[str, Task], results: Path) -> Generator[Outcome, None, None]:
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        pool = ProcessPoolExecutor(self.jobs, get_context("spawn"), _use_threads, (threads,))
        try:
            while waiting := list(todo.values()):
                futures = [
                    pool.submit(attempt, task, results, self._how(task, results, silent))
                    for task in waiting
                ]
                yield from _finished(futures)
                if len(waiting) == len(todo):
                    time.sleep(POLL)
        finally:
            pool.shutdown(cancel_futures=True)

    def _how(self, task: Task, results: Path, listen: Listen) -> How:
        record, keep = record_of(results, task.key), task.seed in self.models_of
        return How(listen, record, keep, self.snapshot_every)


def attempt(task: Task, results: Path, how: How) -> Outcome | None:
    """Run a task, unless the store has it; None while another process is at it."""
    store = store_of(results)
    if row := store.get(task.key):
        return Outcome(task, row)
    try:
        handle = lock_folder(work_of(results, task))
    except BlockingIOError:
        return None
    with handle:
        if store.get(task.key) is None:  # else it was finished just before we had the lock
            try:
                row = run(task, work_of(results, task), how)
            except MlisError as error:
                logger.warning("%s: %s", task.title, error)
                return Outcome(task, None, str(error))
            store.append(row)
        return Outcome(task, store.get(task.key))


def _finished(futures: Sequence[Future[Outcome | None]]) -> Iterator[Outcome]:
    try:
        for future in as_completed(futures):
            if (outcome := future.result()) is not None:
                yield outcome
    except BrokenProcessPool:
        raise SettingsError(
            "a worker process died, perhaps for want of memory: what is finished is kept; give the "
            "same command with fewer --jobs"
        ) from None


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _clear(folder: Path) -> None:
    """Delete snapshots that no task of this list needs any more, unless another process does."""
    with contextlib.suppress(OSError), lock_folder(folder):  # BlockingIOError is an OSError
        shutil.rmtree(folder)
