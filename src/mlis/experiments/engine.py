"""Runs many tasks: what the store has is skipped, what was interrupted continues.

`RESULTS/results.jsonl` is the store, `RESULTS/work/STEM/` holds the snapshots of runs that are not
finished, `RESULTS/runs/KEY/` the losses, and some models, of those that are. Any number of
processes may work on one folder: a task that another one is at is put off, and its row taken from
the store.
"""

import contextlib
import functools
import itertools
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
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

    def run(self, tasks: Sequence[Task], results: Path) -> Generator[Outcome, None, None]:
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
        """See :class:`Engine`."""
        todo = {task.key: task for task in tasks}
        work = self._in_turn(todo, results) if self.jobs == 1 else self._beside(todo, results)
        with contextlib.closing(work):
            for outcome in itertools.chain(_there(todo, results), work):
                del todo[outcome.task.key]
                shared = outcome.task.stem in {task.stem for task in todo.values()}
                if outcome.row is not None and not shared:
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
        context = get_context("spawn")
        stop = context.Event()
        pool = ProcessPoolExecutor(self.jobs, context, begin_worker, (self.jobs, stop))
        try:
            while waiting := list(todo.values()):
                futures = [
                    pool.submit(attempt, task, results, self._how(task, results, silent))
                    for task in waiting
                ]
                yield from _finished(futures)
                if len(waiting) == len(todo):
                    time.sleep(POLL)
        except BaseException:  # interrupted, or the consumer wants no more
            stop.set()
            raise
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


def _there(todo: Mapping[str, Task], results: Path) -> Iterator[Outcome]:
    """Tasks that the store has, before any worker is asked."""
    for task in list(todo.values()):
        if row := store_of(results).get(task.key):
            yield Outcome(task, row)


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


def begin_worker(jobs: int, stop: Event) -> None:
    """Take a share of the threads; end when told to, or with the process that started this one."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, and it tells us

    def watch() -> None:
        parent = parent_process()
        while not stop.wait(POLL) and parent is not None and parent.is_alive():
            pass
        os._exit(1)  # as if killed: locks go with the process, snapshots stay

    threading.Thread(target=watch, daemon=True).start()


def _clear(folder: Path) -> None:
    """Delete snapshots that no task of this list needs any more, unless another process does."""
    if folder.exists():
        with contextlib.suppress(OSError), lock_folder(folder):  # BlockingIOError is an OSError
            shutil.rmtree(folder)
