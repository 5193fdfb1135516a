"""Running trials: this process asks for settings, workers measure them split by split."""

import time
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, Protocol

from mlis.errors import MlisError, SettingsError
from mlis.experiments.engine import begin_worker
from mlis.experiments.tuning.measure import Bench, Measured, measure
from mlis.experiments.tuning.study import FAILED, PRESET, RUNNING, Study, Trial


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Attributes:
        trials: how many, those of earlier commands included.
        timeout: seconds of this command; None: no limit.
        jobs: trainings at a time.
    """

    trials: int
    timeout: float | None = None
    jobs: int = 1


class _Workers(Protocol):
    def submit(self, function: Any, /, *arguments: Any) -> "Future[Measured]": ...


class _Here:
    """This process as the only worker."""

    def submit(self, function: Any, /, *arguments: Any) -> "Future[Measured]":
        future: Future[Measured] = Future()
        try:
            future.set_result(function(*arguments))
        except MlisError as error:
            future.set_exception(error)
        return future


def search(study: Study, bench: Bench, budget: Budget) -> Generator[Trial, None, None]:
    """Run trials until the budget is spent; give a trial after each class split of it.

    A trial that cannot be measured (a loss diverged) is given as failed. A search that is closed,
    interrupted, or out of time leaves trials in the middle: the next one takes them up again.

    Raises:
        MlisError: the preset itself cannot be measured, so that there is nothing to compare with.
        SettingsError: a worker process died.
    """
    until = None if budget.timeout is None else time.monotonic() + budget.timeout
    with _workers(budget.jobs) as workers:
        active: dict[Future[Measured], Trial] = {}
        done = len(study.finished())
        while until is None or time.monotonic() < until:
            while len(active) < budget.jobs and done + len(active) < budget.trials:
                try:
                    trial = study.begin()
                except SettingsError:  # drawn values that do not suit one another
                    done += 1
                    continue
                active[workers.submit(measure, bench, trial.config, 0)] = trial
            if not active:
                return
            rest = None if until is None else max(0.0, until - time.monotonic())
            for future in wait(active, rest, FIRST_COMPLETED).done:
                trial = _add(study, active.pop(future), future, bench)
                done += trial.state != RUNNING
                yield trial
                if trial.state == RUNNING:
                    next_one = workers.submit(measure, bench, trial.config, len(trial.splits))
                    active[next_one] = trial


def _add(study: Study, trial: Trial, future: "Future[Measured]", bench: Bench) -> Trial:
    try:
        measured = future.result()
    except BrokenProcessPool:
        raise SettingsError(
            "a worker process died, perhaps for want of memory: what is measured is kept; give the "
            "same command with fewer --jobs"
        ) from None
    except MlisError as error:
        if trial.role == PRESET:
            raise
        study.fail(trial.number, error)
        return replace(trial, state=FAILED, problem=str(error))
    splits = (*trial.splits, measured)
    state = study.add(trial.number, splits, last=len(splits) == bench.rounds)
    return replace(trial, splits=splits, state=state)


@contextmanager
def _workers(jobs: int) -> Generator[_Workers, None, None]:
    if jobs == 1:
        yield _Here()
        return
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(jobs, context, begin_worker, (jobs, stop))
    try:
        yield pool
    finally:
        stop.set()  # workers that are at something end as if they were killed
        pool.shutdown(cancel_futures=True)
