"""The model with its threads: predictions and changes, and how many of them may be in progress."""

import asyncio
import contextlib
import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mlis.errors import DataError, MlisError
from mlis.features.decode import ImageError
from mlis.serving.batching import STOPPING, Batcher, BusyError
from mlis.serving.bodies import Upload
from mlis.serving.engine import Engine
from mlis.serving.exchange import Answer, Catalogue, Change, Query
from mlis.serving.metrics import Metrics
from mlis.serving.settings import MEGA, Limits

DECODERS = 4
"""Threads that decode images; Pillow releases Python's lock meanwhile."""
LARGE = 4 * MEGA
"""Pixels from which images are decoded one at a time, as each takes hundreds of MB."""
SMALL = 4
"""Images, megapixels and rows of a small request."""
UPLOADS = 8
"""Requests of the largest size that may be in memory."""
MAX_CHANGES = 32
"""Changes of the classes that may be in progress."""


class Room:
    """How much may be in progress at a time, for everyone and for one client.

    One client has half of it, and another quarter for its small requests, so that its large ones do
    not keep those out. What is too much for an empty room is let in alone. For one thread.
    """

    def __init__(self, most: int, what: str):
        self.most: int = most
        self.used: int = 0
        self._what = what
        self._by_client: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, client: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes room; on leaving, all of it is released.

        The function raises `BusyError` where there is no room.
        """
        held = 0

        def take(amount: int) -> None:
            nonlocal held
            self.check(client, amount, held)
            held += amount
            self.used += amount
            self._by_client[client] += amount

        try:
            yield take
        finally:
            self.used -= held
            self._by_client[client] -= held
            if not self._by_client[client]:
                del self._by_client[client]

    def check(self, client: str, amount: int = 1, held: int = 0) -> None:
        """Raise `BusyError` where there is no room for that much more.

        Args:
            client: who asks.
            amount: how much more.
            held: what the same request holds already; what nobody else holds room beside is let in.
        """
        own = self._by_client[client]
        quarters = 3 if amount + held <= SMALL else 2
        for used, most in ((self.used, self.most), (own, max(1, self.most * quarters // 4))):
            if used > held and used + amount > most:
                raise BusyError(
                    f"server busy: expected at most {most} {self._what} in progress, got "
                    f"{used + amount}. Ask again later"
                )


class Service:
    """A model and its threads. Stop it when done.

    Args:
        engine: the model; from now on only this service may use it.
        limits: how much may be asked.
        metrics: what is counted.
    """

    def __init__(self, engine: Engine, limits: Limits, metrics: Metrics):
        self.engine: Engine = engine
        self.limits: Limits = limits
        self.metrics: Metrics = metrics
        self.room: Room = Room(limits.max_waiting, "images, their megapixels, and rows")
        self.upload_room: Room = Room(UPLOADS * limits.upload_bytes, "bytes of requests")
        self.stopping: bool = False
        self._change_room = Room(MAX_CHANGES, "changes")
        self._threads: list[threading.Thread] = []

        def begin() -> None:
            self._threads.append(threading.current_thread())

        self._decoders = ThreadPoolExecutor(DECODERS, "decode", begin)
        self._large_decoder = ThreadPoolExecutor(1, "decode-large", begin)
        self._batcher: Batcher[Query, Answer] = Batcher(
            engine.answer,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait / 1000,
            computed=metrics.computed,
        )
        self._changer: Batcher[Change, MlisError | None] = Batcher(self._make_changes, max_wait=0)
        metrics.in_progress.set_function(lambda: self.room.used)
        metrics.classes.set_function(lambda: len(engine.catalogue.names))

    def check_images(self, client: str, instead: str = "/predict/features") -> None:
        """Raise where no images can be taken now, before any is received.

        `instead` is the path that takes features.

        Raises:
            BusyError: too much is in progress.
            DataError: the image model of the features is not known.
        """
        if self.engine.backbone is None:
            raise DataError(
                f"the image model of this model's features is not known. Send features to {instead}"
            )
        self.room.check(client)

    async def predict_images(
        self,
        files: Sequence[Upload],
        client: str,
        constant: float | None = None,
        explain: bool = False,
    ) -> list[Answer]:
        """One answer per file; a file that is not an image has a reason instead.

        `constant` is the calibration constant, the model's own where absent; `explain` asks for an
        explanation of the likeliest class.

        Raises:
            BusyError: too much is in progress.
        """
        with self.room.hold(client) as take:
            take(sum(1 + min(file.pixels, self.limits.pixels) // MEGA for file in files))
            prepared = await asyncio.gather(*(self._prepared(file) for file in files))
            good = [
                Query(each, True, constant, explain)
                for each in prepared
                if isinstance(each, np.ndarray)
            ]
            answers = iter(await self._ask(good))
        results = [
            next(answers)
            if isinstance(each, np.ndarray)
            else Answer(self.engine.catalogue, None, each)
            for each in prepared
        ]
        self.metrics.bad_images.inc(sum(answer.probabilities is None for answer in results))
        return results

    async def predict_rows(
        self, rows: np.ndarray, client: str, constant: float | None = None, explain: bool = False
    ) -> list[Answer]:
        """One answer per row of features (B, Dx) float32.

        Raises:
            BusyError: too much is in progress.
            DataError: a row or its scores are not finite.
        """
        with self.room.hold(client) as take:
            take(len(rows))
            answers = await self._ask([Query(row, False, constant, explain) for row in rows])
        for i, answer in enumerate(answers):
            if answer.probabilities is None:
                raise DataError(f"rows.{i}: {answer.reason}")
        return answers

    async def features_of_images(self, files: Sequence[Upload], client: str) -> np.ndarray:
        """Features (n, Dx) of n files.

        Raises:
            BusyError: too much is in progress.
            DataError: a file is not an image, or its features are not finite.
        """
        answers = await self.predict_images(files, client)
        for i, (file, answer) in enumerate(zip(files, answers, strict=True)):
            if answer.probabilities is None:
                raise DataError(
                    f"files.{i} ({file.name[:80]!r}): {answer.reason}. None was added: leave it out"
                )
        return np.stack([answer.features for answer in answers if answer.features is not None])

    async def change(self, change: Change, client: str) -> Catalogue:
        """Change the classes, and return them.

        Raises:
            BusyError: too many changes are in progress.
            ConflictError: a class of that name exists.
            NoSuchClassError: no class of that name exists.
            DataError: the model or the description does not allow it.
        """
        with self._change_room.hold(client) as take:
            take(1)
            try:
                (failed,) = await asyncio.wrap_future(self._changer.submit([change]))
            except asyncio.CancelledError:  # not made in time: then it must not be made later
                change.abandoned.set()
                raise
        if failed is not None:
            raise failed
        self.metrics.changes.labels(change.action).inc()
        return self.engine.catalogue

    def stop(self) -> None:
        """Refuse what waits and what comes; what is being computed is still answered."""
        self.stopping = True
        self._batcher.stop()
        self._changer.stop()
        for pool in (self._decoders, self._large_decoder):
            pool.shutdown(wait=False, cancel_futures=True)

    def join(self, seconds: float) -> bool:
        """Wait for each thread after `stop`; return whether all ended."""
        for thread in self._threads:
            thread.join(seconds)
        ended = [self._batcher.join(seconds), self._changer.join(seconds)]
        return all(ended) and not any(thread.is_alive() for thread in self._threads)

    async def _ask(self, queries: list[Query]) -> list[Answer]:
        if not queries:
            return []
        return await asyncio.wrap_future(self._batcher.submit(queries))

    async def _prepared(self, file: Upload) -> np.ndarray | str:
        """The backbone's input, or why there is none."""
        if self.stopping:
            raise BusyError(STOPPING)
        pool = self._large_decoder if file.pixels >= LARGE else self._decoders
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self._prepare, file)
        except asyncio.CancelledError:
            if self.stopping:
                raise BusyError(STOPPING) from None
            raise

    def _make_changes(self, changes: list[Change]) -> list[MlisError | None]:
        try:
            return self.engine.change(changes, self.limits.max_classes)
        finally:
            release_memory()

    def _prepare(self, file: Upload) -> np.ndarray | str:
        try:
            return self.engine.prepare(file.data, self.limits.pixels)
        except ImageError as error:
            return str(error)
        finally:
            if file.pixels >= MEGA:
                release_memory()


def release_memory() -> None:
    """Return freed memory to the system; glibc keeps that of large images and trainings."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
