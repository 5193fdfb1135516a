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
from mlis.experiments.running import How, Listen, run, silent
from mlis.experiments.store import Row, Store
from mlis.experiments.tasks import Task
from mlis.storage.locks import lock_folder

logger: logging.Logger = logging.getLogger(__name__)

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
        for outcome in there(todo, results):
            del todo[outcome.task.key]
            _clear_unused(outcome, todo, results)
            yield outcome
        left = list(todo.values())
        work = self._in_turn(left, results) if self.jobs == 1 else self._beside(left, results)
        with contextlib.closing(work):
            for outcome in work:
                del todo[outcome.task.key]
                _clear_unused(outcome, todo, results)
                yield outcome

    def _in_turn(self, tasks: list[Task], results: Path) -> Generator[Outcome, None, None]:
        while tasks:
            put_off: list[Task] = []
            for task in tasks:
                outcome = attempt(task, results, self._how(task, results, self.listen))
                if outcome is None:
                    put_off.append(task)
                else:
                    yield outcome
            if len(put_off) == len(tasks):  # others are at all of them
                time.sleep(POLL)
            tasks = put_off

    def _beside(self, tasks: list[Task], results: Path) -> Generator[Outcome, None, None]:
        context = get_context("spawn")
        stop = context.Event()
        pool = ProcessPoolExecutor(self.jobs, context, begin_worker, (self.jobs, stop))
        try:
            while tasks:
                futures = {
                    pool.submit(attempt, task, results, self._how(task, results, silent)): task
                    for task in tasks
                }
                put_off: list[Task] = []
                for task, outcome in _finished(futures):
                    if outcome is None:
                        put_off.append(task)
                    else:
                        yield outcome
                if len(put_off) == len(tasks):
                    time.sleep(POLL)
                tasks = put_off
        except BaseException:  # interrupted, or the consumer wants no more
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _how(self, task: Task, results: Path, listen: Listen) -> How:
        record, keep_model = record_of(results, task.key), task.seed in self.models_of
        return How(listen, record, keep_model, self.snapshot_every)


def attempt(task: Task, results: Path, how: How) -> Outcome | None:
    """Run a task, unless the store has it; None while another process is at it."""
    store = store_of(results)
    if row := store.get(task.key):
        return Outcome(task, row)
    work = work_of(results, task)
    try:
        lock = lock_folder(work)
    except BlockingIOError:
        return None
    with lock:
        if row := store.get(task.key):  # finished just before we had the lock
            return Outcome(task, row)
        try:
            store.append(run(task, work, how))
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


def _finished(
    futures: Mapping[Future[Outcome | None], Task],
) -> Iterator[tuple[Task, Outcome | None]]:
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
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


def clear(folder: Path) -> None:
    """Delete snapshots that no task of this list needs any more, unless another process does."""
    if folder.exists():
        with contextlib.suppress(OSError), lock_folder(folder):  # BlockingIOError is an OSError
            shutil.rmtree(folder)
