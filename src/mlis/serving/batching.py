"""One thread with the model: what is asked at the same time is computed together.

A request is a few rows. The thread takes the oldest one, waits a moment for others, and computes
all of them in one batch. Under load nothing waits: the next batch is what came in while the last
one was computed. A request of more rows than a batch is computed alone.
"""

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


class BusyError(MlisError, RuntimeError):
    """Too much waits already, or the server is stopping."""


@dataclass(eq=False)
class _Job(Generic[Row, Result]):
    rows: Sequence[Row]
    future: "Future[list[Result]]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Row, Result]):
    """Computes rows of many requests in common batches, on a thread of its own.

    Args:
        compute: one result a row; is only ever called on the batcher's thread.
        max_batch: rows a batch.
        max_wait: seconds that the oldest request waits for others.
        max_waiting: rows that may wait.
        computed: is told the rows and seconds of every batch.
    """

    def __init__(
        self,
        compute: Callable[[list[Row]], list[Result]],
        *,
        max_batch: int = 32,
        max_wait: float = 0.005,
        max_waiting: int = 512,
        computed: Callable[[int, float], None] = lambda rows, seconds: None,
    ):
        self._compute, self._computed = compute, computed
        self._max_batch, self._max_wait, self._max_waiting = max_batch, max_wait, max_waiting
        self._queue: queue.SimpleQueue[_Job[Row, Result] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that are asked for and not begun."""
        return self._waiting

    def submit(self, rows: Sequence[Row]) -> "Future[list[Result]]":
        """Ask for the results of one row or more; a cancelled future is not computed.

        Raises:
            BusyError: too many rows wait, or the batcher is closed.
        """
        job: _Job[Row, Result] = _Job(rows)
        with self._lock:
            self.check_room(len(rows))
            self._waiting += len(rows)
            self._queue.put(job)
        return job.future

    def check_room(self, rows: int) -> None:
        """Raise `BusyError` where so many more rows would be refused."""
        self._refuse_when_closed()
        # more than may ever wait are let in when nothing else does
        if self._waiting and self._waiting + rows > self._max_waiting:
            raise BusyError(
                f"{self._waiting} images and rows wait already, and at most "
                f"{self._max_waiting} may: ask again a little later"
            )

    def close(self) -> None:
        """Compute what waits, then end the thread."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise BusyError("the server is stopping")

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
        """What is computed with the first job, what came next and is too large, and the end."""
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
        with self._lock:
            self._waiting -= sum(len(job.rows) for job in jobs)
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if not jobs:
            return
        began = time.perf_counter()
        rows = [row for job in jobs for row in job.rows]
        try:
            results = iter(self._compute(rows))
        except Exception as error:
            logger.info("a batch of %d requests failed, each is tried alone: %s", len(jobs), error)
            for job in jobs:  # one that cannot be computed must not take the others along
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
