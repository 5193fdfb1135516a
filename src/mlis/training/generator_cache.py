"""Trained generators, kept in the user's cache folder so that none is trained twice.

`CACHE/generators/KEY/` holds the snapshot and the losses of one generator; KEY is the hash of
everything it depends on (:func:`mlis.provenance.generation_key`). Runs, sweeps and Python calls
that need the same generator find it there, or continue it where a killed process left it. While one
trains, a lock keeps the others waiting; the lock goes with the process. Whatever is wrong with the
store costs time, never a number or a run: a damaged file is deleted, and where the folder cannot be
written, the run's own folder serves. Everything in it may be deleted at any time."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from torch import Tensor

from mlis.errors import ModelFileError
from mlis.storage.atomic import cache_folder, clear_all_leftovers
from mlis.storage.locks import lock_folder
from mlis.training.checkpoints import FolderMonitor
from mlis.training.loop import Monitor

logger: logging.Logger = logging.getLogger(__name__)

STAGE = "generation"

Result = TypeVar("Result")


def generator_folder(key: str) -> Path:
    """Where the generator of this key is kept."""
    return cache_folder() / "generators" / key


class StoredGenerator(Monitor):
    """Keeps the generation stage in the store, and leaves all other stages to `own`.

    Use it as a context manager around the training: leaving it gives the lock back. A generator
    that `own` began in its own folder (before, without the store) stays there.

    Attributes:
        reused: whether a finished generator was found in the store.

    Args:
        own: who keeps the other stages, and hears of this one too.
        key: hash of everything that the generator depends on.
    """

    def __init__(self, own: Monitor, key: str):
        self._own, self._key = own, key
        self._folder = generator_folder(key)
        self._store: FolderMonitor | None = None
        self._lock: BinaryIO | None = None
        self._loaded = False  # a stored file is being taken over, and may turn out not to fit
        self.reused: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _keeper(self, stage: str) -> Monitor:
        return self._own if self._store is None or stage != STAGE else self._store

    def restore(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Find the generator in the store; wait while another process trains it."""
        own = self._own if isinstance(self._own, FolderMonitor) else None
        if stage != STAGE or (own is not None and own.holds(stage)):
            return self._own.restore(stage)
        try:
            if self._lock is None:
                self._lock = self._wait_for_lock()
            self._store = self._opened(own)
            found = self._restored(self._store)
            if own is not None:
                own.follow(STAGE, self._store)
        except OSError as error:
            self._leave(error)
            return self._own.restore(stage)
        self._loaded = found is not None
        return found

    def _wait_for_lock(self) -> BinaryIO:
        def waiting(holder: str) -> None:
            logger.warning(
                "%s trains the same generator: waiting until it has done (%s)", holder, self._folder
            )

        return lock_folder(self._folder, waiting)

    def _opened(self, own: FolderMonitor | None) -> FolderMonitor:
        clear_all_leftovers(self._folder)
        if own is None:
            return FolderMonitor(self._folder, self._key, listener=self._own)
        return FolderMonitor(
            self._folder, self._key, every=own.every, listener=own, clock=own.clock
        )

    def _restored(self, store: FolderMonitor) -> tuple[int, dict[str, Tensor]] | None:
        try:
            found = store.restore(STAGE)
        except ModelFileError as error:
            logger.warning("a stored generator is not used, but trained anew: %s", error)
            store.forget(STAGE)
            found = store.restore(STAGE)
        if found is not None:
            logger.info("generator from %s, as of step %d", self._folder, found[0])
        return found

    def refuse(self, error: ModelFileError) -> bool:
        """Delete the stored generator if that is what did not fit, and say whether it was."""
        if self._store is None or not self._loaded:
            return False
        logger.warning("the generator in %s is trained anew: %s", self._folder, error)
        try:
            self._store.forget(STAGE)
        except OSError:
            return False
        return True

    def _leave(self, error: OSError) -> None:
        """Go on without the store."""
        logger.warning("the generator is not stored in %s (%s)", self._folder, error)
        self._store = None
        self._release()

    def started(self, stage: str, step: int, total: int) -> None:
        """Pass it on."""
        self._loaded = False
        if self._keeper(stage) is self._store:
            self.reused = step == total
        self._keeper(stage).started(stage, step, total)

    def report(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        """Pass it on."""
        try:
            return self._keeper(stage).report(stage, step, total, values)
        except OSError as error:
            if self._keeper(stage) is self._own:
                raise
            self._leave(error)
        return self._own.report(stage, step, total, values)

    def wants_snapshot(self, stage: str, step: int) -> bool:
        """Pass it on."""
        return self._keeper(stage).wants_snapshot(stage, step)

    def snapshot(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep it in the store, or else in the run's own folder."""
        try:
            return self._keeper(stage).snapshot(stage, step, state)
        except OSError as error:
            if self._keeper(stage) is self._own:
                raise
            self._leave(error)
        return self._own.snapshot(stage, step, state)

    def finished(self, stage: str) -> None:
        """Pass it on; other processes may have the generator now."""
        self._keeper(stage).finished(stage)
        if stage == STAGE:
            self._release()


def attempted(work: Callable[[], Result], monitor: Monitor) -> Result:
    """Do what `monitor` watches; once more if it was a stored generator that did not fit."""
    try:
        return work()
    except ModelFileError as error:
        if not (isinstance(monitor, StoredGenerator) and monitor.refuse(error)):
            raise
        return work()
