"""One thread runs the model; requests that arrive together are computed together.

A request is one row or more. The thread takes the oldest one, waits briefly for others, and
computes all of them in one batch. Under load nothing waits: the next batch is what arrived while
the last one was computed. A request of more rows than a batch is computed alone.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mlis.errors import MlisError

logger: logging.Logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")


STOPPING = "the server is stopping"


class BusyError(MlisError, RuntimeError):
    """Too much is in progress, or the server is stopping."""


@dataclass(eq=False)
class _Job(Generic[Row, Result]):
    rows: Sequence[Row]
    future: "Future[list[Result]]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Row, Result]):
    """Computes rows of many requests in shared batches, on its own thread.

    Args:
        compute: one result per row; is only called on the batcher's thread.
        max_batch: rows per batch.
        max_wait: seconds that the oldest request waits for others.
        computed: is told the rows and seconds of every batch.
    """

    def __init__(
        self,
        compute: Callable[[list[Row]], list[Result]],
        *,
        max_batch: int = 32,
        max_wait: float = 0.005,
        computed: Callable[[int, float], None] = lambda rows, seconds: None,
    ):
        self._compute, self._computed = compute, computed
        self._max_batch, self._max_wait = max_batch, max_wait
        self._queue: queue.SimpleQueue[_Job[Row, Result] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> "Future[list[Result]]":
        """Ask for the results of one row or more; a cancelled future is not computed.

        Raises:
            BusyError: the batcher is stopped.
        """
        job: _Job[Row, Result] = _Job(rows)
        with self._lock:
            if self._stopped:
                raise BusyError(STOPPING)
            self._queue.put(job)
        return job.future

    def stop(self) -> None:
        """Refuse what waits and what comes; what is being computed is still answered."""
        with self._lock:
            self._stopped = True
            with contextlib.suppress(queue.Empty):
                while True:
                    job = self._queue.get_nowait()
                    if job is not None and job.future.set_running_or_notify_cancel():
                        job.future.set_exception(BusyError(STOPPING))
            self._queue.put(None)

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the thread of a stopped batcher ends; return whether it did."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        left: _Job[Row, Result] | None = None
        while (first := left or self._queue.get()) is not None:
            jobs, left, ended = self._gather(first)
            self._answer(jobs)
            if ended:
                return

    def _gather(
        self, first: _Job[Row, Result]
    ) -> tuple[list[_Job[Row, Result]], _Job[Row, Result] | None, bool]:
        """The jobs of one batch, the next job if it does not fit in, and whether to end."""
        jobs, rows, deadline = [first], len(first.rows), first.since + self._max_wait
        while rows < self._max_batch:
            try:
                wait = deadline - time.monotonic()
                job = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, None, True
            if rows + len(job.rows) > self._max_batch:
                return jobs, job, False
            jobs.append(job)
            rows += len(job.rows)
        return jobs, None, False

    def _answer(self, jobs: list[_Job[Row, Result]]) -> None:
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if not jobs:
            return
        began = time.perf_counter()
        rows = [row for job in jobs for row in job.rows]
        try:
            results = iter(self._compute(rows))
        except Exception as error:
            logger.info("a batch of %d requests failed, computing each alone: %s", len(jobs), error)
            for job in jobs:  # one that fails must not fail the others
                self._answer_alone(job)
            return
        self._computed(len(rows), time.perf_counter() - began)
        for job in jobs:
            job.future.set_result([next(results) for _ in job.rows])

    def _answer_alone(self, job: _Job[Row, Result]) -> None:
        try:
            job.future.set_result(list(self._compute(list(job.rows))))
        except Exception as error:
            job.future.set_exception(error)
