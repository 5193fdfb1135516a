"""What can be asked of a server, whoever asks: the API or the page."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mlis.errors import DataError
from mlis.features.images.decode import ImageError
from mlis.serving.batching import Batcher
from mlis.serving.engine import Answer, Catalogue, Engine, Query
from mlis.serving.metrics import Metrics
from mlis.serving.settings import Limits
from mlis.serving.words import Words

DECODERS = 4
"""Threads that decode images; Pillow lets go of Python's lock meanwhile."""


class ConflictError(DataError):
    """There is a class of that name."""


class Service:
    """A model behind a queue. Close it when done.

    Args:
        engine: the model; from now on only this service's thread may use it.
        limits: how much may be asked.
        metrics: what is counted.
    """

    def __init__(self, engine: Engine, limits: Limits, metrics: Metrics):
        self.engine: Engine = engine
        self.limits: Limits = limits
        self.metrics: Metrics = metrics
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self._grower = ThreadPoolExecutor(1, "growth")
        self._batcher: Batcher[Query, Answer] = Batcher(
            engine.answer,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait / 1000,
            max_waiting=limits.max_waiting,
            computed=metrics.computed,
        )
        metrics.waiting.set_function(lambda: self._batcher.waiting)
        metrics.classes.set_function(lambda: len(engine.catalogue.names))

    @property
    def catalogue(self) -> Catalogue:
        """The classes as they are now."""
        return self.engine.catalogue

    async def predict_images(self, files: Sequence[bytes]) -> list[Answer]:
        """One answer for the bytes of each file; bad ones have a reason.

        Raises:
            BusyError: too much waits already.
            DataError: this model's image model is not known.
        """
        if self.engine.backbone is None:
            raise DataError(
                "this model does not know the image model of its features: send features to "
                "/predict/features"
            )
        self._batcher.check_room(len(files))
        loop, pixels = asyncio.get_running_loop(), self.limits.pixels
        prepared = await asyncio.gather(
            *(loop.run_in_executor(self._decoders, self._prepare, data, pixels) for data in files)
        )
        good = [Query(each, True) for each in prepared if isinstance(each, np.ndarray)]
        answers = iter(await self._ask(good))
        results = [
            next(answers) if isinstance(each, np.ndarray) else Answer(self.catalogue, None, each)
            for each in prepared
        ]
        self.metrics.bad_images.inc(sum(answer.chances is None for answer in results))
        return results

    async def predict_rows(self, rows: np.ndarray) -> list[Answer]:
        """One answer a row of features (B, Dx) float32.

        Raises:
            BusyError: too much waits already.
            DataError: a row's numbers are not finite, or its scores do not fit float32.
        """
        answers = await self._ask([Query(row, False) for row in rows])
        for i, answer in enumerate(answers):
            if answer.chances is None:
                raise DataError(f"rows.{i}: {answer.reason}")
        return answers

    async def add_class(self, name: str, words: Words) -> Catalogue:
        """Add a class by its description.

        Raises:
            ConflictError: a class of that name is there.
            DataError: the model cannot be given classes, has as many as it may, or the words are
                not what its classes are described by.
        """
        given_up = threading.Event()
        try:
            await asyncio.wrap_future(self._grower.submit(self._add, name, words, given_up))
        except asyncio.CancelledError:  # not done in time: then it must not be done later
            given_up.set()
            raise
        return self.catalogue

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        self._batcher.close()
        for pool in (self._decoders, self._grower):
            pool.shutdown(cancel_futures=True)

    async def _ask(self, queries: list[Query]) -> list[Answer]:
        if not queries:
            return []
        return await asyncio.wrap_future(self._batcher.submit(queries))

    def _prepare(self, data: bytes, pixels: int) -> np.ndarray | str:
        try:
            return self.engine.prepare(data, pixels)
        except ImageError as error:
            return str(error)

    def _add(self, name: str, words: Words, given_up: threading.Event) -> None:
        known = self.catalogue
        if self.engine.describer is None:
            raise DataError(
                "this model cannot be given classes: it holds nothing to add them with. Train it "
                "again with this version of mlis"
            )
        if name in known.names:
            raise ConflictError(f"there is a class {name!r} already: choose another name")
        if len(known.names) >= self.limits.max_classes:
            raise DataError(f"the model has {len(known.names)} classes, as many as it may have")
        if self.engine.add(name, words, given_up.is_set):
            self.metrics.classes_added.inc()
