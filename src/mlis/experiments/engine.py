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
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Protocol

from mlis.errors import MlisError, SettingsError
from mlis.experiments.running import How, Listen, run, run_stacked, silent
from mlis.experiments.store import Row, Store
from mlis.experiments.tasks import METHOD, Task
from mlis.locks import lock_folder
from mlis.provenance import PROTOCOL

logger: logging.Logger = logging.getLogger(__name__)

POLL = 0.5  # seconds between looks at a task that another process is at
Unit = tuple[Task, ...]
"""Tasks that one process is at: one, or several that are trained together."""


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
        stack_seeds: train the method's seeds of one setting together, which fills a GPU better
            (:func:`mlis.experiments.running.run_stacked`).
    """

    jobs: int = 1
    models_of: tuple[int, ...] = (0,)
    listen: Listen = silent
    snapshot_every: float = 30.0
    stack_seeds: bool = False

    def run(self, tasks: Sequence[Task], results: Path) -> Generator[Outcome, None, None]:
        """See :class:`Engine`."""
        todo = {task.key: task for task in tasks}
        for outcome in there(todo, results):
            del todo[outcome.task.key]
            _clear_unused(outcome, todo, results)
            yield outcome
        units = _stacks(todo.values()) if self.stack_seeds else [(one,) for one in todo.values()]
        work = self._in_turn(units, results) if self.jobs == 1 else self._beside(units, results)
        with contextlib.closing(work):
            for outcome in work:
                del todo[outcome.task.key]
                _clear_unused(outcome, todo, results)
                yield outcome

    def _in_turn(self, units: list[Unit], results: Path) -> Generator[Outcome, None, None]:
        while units:
            put_off: list[Unit] = []
            for unit in units:
                outcomes = attempt(unit, results, self._hows(unit, results, self.listen))
                if outcomes is None:
                    put_off.append(unit)
                yield from outcomes or ()
            if len(put_off) == len(units):  # others are at all of them
                time.sleep(POLL)
            units = put_off

    def _beside(self, units: list[Unit], results: Path) -> Generator[Outcome, None, None]:
        context = get_context("spawn")
        stop = context.Event()
        pool = ProcessPoolExecutor(self.jobs, context, begin_worker, (self.jobs, stop))
        try:
            while units:
                futures = {
                    pool.submit(attempt, unit, results, self._hows(unit, results, silent)): unit
                    for unit in units
                }
                put_off: list[Unit] = []
                for unit, outcomes in _finished(futures):
                    if outcomes is None:
                        put_off.append(unit)
                    yield from outcomes or ()
                if len(put_off) == len(units):
                    time.sleep(POLL)
                units = put_off
        except BaseException:  # interrupted, or the consumer wants no more
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _hows(self, unit: Unit, results: Path, listen: Listen) -> list[How]:
        return [
            How(
                listen, record_of(results, one.key), one.seed in self.models_of, self.snapshot_every
            )
            for one in unit
        ]


def _stacks(tasks: Iterable[Task]) -> list[Unit]:
    """Tasks of the method under H@val that differ in their seed alone together, others alone."""
    units: dict[str, list[Task]] = {}
    for task in tasks:
        together = task.method == METHOD and task.protocol == PROTOCOL
        units.setdefault(task.seedless if together else task.key, []).append(task)
    return [tuple(unit) for unit in units.values()]


def attempt(unit: Unit, results: Path, hows: Sequence[How]) -> list[Outcome] | None:
    """Run tasks, unless the store has them; None while another process is at one of them."""
    store = store_of(results)
    if all(store.get(task.key) for task in unit):
        return [Outcome(task, store.get(task.key)) for task in unit]
    with contextlib.ExitStack() as held:
        try:
            for task in unit:
                held.enter_context(lock_folder(work_of(results, task)))
        except BlockingIOError:
            return None
        # what was finished just before we had the locks is not done again
        left = [pair for pair in zip(unit, hows, strict=True) if store.get(pair[0].key) is None]
        problems = _run_held(left, results) if left else {}
        return [Outcome(one, store.get(one.key), problems.get(one.key, "")) for one in unit]


def _run_held(left: Sequence[tuple[Task, How]], results: Path) -> dict[str, str]:
    """Add rows to the store; return the problems, by key, of tasks that gave none."""
    store, problems = store_of(results), dict[str, str]()
    if len(left) > 1:
        tasks, hows = zip(*left, strict=True)
        place = _stack_folder(results, tasks)
        try:
            for row in run_stacked(tasks, place, hows):
                store.append(row)
            return {}
        except MlisError as error:
            logger.warning("%s, seeds together: %s; each is run alone", tasks[0].title, error)
    for task, how in left:
        try:
            store.append(run(task, work_of(results, task), how))
        except MlisError as error:
            logger.warning("%s: %s", task.title, error)
            problems[task.key] = str(error)
    return problems


def _stack_folder(results: Path, tasks: Sequence[Task]) -> Path:
    """Where the snapshots of seeds that are trained together are: in that of the first of them."""
    return work_of(results, tasks[0]) / f"seeds-{'-'.join(str(task.seed) for task in tasks)}"


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
    futures: Mapping[Future[list[Outcome] | None], Unit],
) -> Iterator[tuple[Unit, list[Outcome] | None]]:
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
