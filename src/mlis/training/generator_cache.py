"""Trained generators in the user's cache folder, so that none is trained twice.

`CACHE/generators/KEY/` holds the snapshot of one generator; KEY is the hash of everything that it
depends on (:func:`mlis.provenance.generation_key`). A problem with the cache costs time, never a
result or a run. The folder may be deleted at any time.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from mlis.errors import ModelFileError
from mlis.storage.atomic import cache_folder, clear_all_leftovers
from mlis.storage.locks import lock_folder
from mlis.training.checkpoints import CheckpointFolder, CheckpointStore

logger: logging.Logger = logging.getLogger(__name__)

STAGE = "generation"

T = TypeVar("T")


def generator_folder(key: str) -> Path:
    """Where the generator of this key is kept."""
    return cache_folder() / "generators" / key


class GeneratorCache:
    """The cache folder, shared by all processes of a user.

    Args:
        own: the run's own snapshots, used where the cache cannot be written.
    """

    def __init__(self, own: CheckpointStore | None):
        self._own = own

    def get_or_fit(self, key: str, fit: Callable[[CheckpointStore | None], T]) -> tuple[T, bool]:
        """Return the generator, and whether it came from the cache, already trained.

        A lock makes other processes that need the same generator wait for the one that trains it;
        the lock ends with its process, and the next one continues from the last snapshot.

        Args:
            key: of the generator.
            fit: trains the generator with the snapshots that it is given, or loads it from there.
        """
        if self._own is not None and self._own.load(STAGE) is not None:
            return fit(self._own), False  # begun without the cache
        folder = generator_folder(key)
        try:
            lock = lock_folder(folder, lambda holder: _tell_waiting(folder, holder))
        except OSError as error:
            _tell_failure(folder, error)
            return fit(self._own), False
        with lock:
            clear_all_leftovers(folder)
            cached = _CacheEntry(folder, key, self._own)
            try:
                return fit(cached), cached.complete
            except ModelFileError as error:  # intact, but written by other code
                logger.warning("%s: the generator is trained again: %s", folder, error)
                with contextlib.suppress(OSError):
                    (folder / f"{STAGE}.safetensors").unlink()
            return fit(_CacheEntry(folder, key, self._own)), False


class _CacheEntry(CheckpointFolder):
    """Snapshots of one generator in the cache; the run's own once the cache cannot be written.

    Attributes:
        complete: whether the snapshot that was loaded needed no further step.
    """

    def __init__(self, folder: Path, key: str, own: CheckpointStore | None):
        every = own.every if isinstance(own, CheckpointFolder) else 30.0
        super().__init__(folder, key, every=every)
        self.complete: bool = False
        self._folder, self._fallback, self._writable = folder, own, True

    def load(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        found = super().load(stage)
        self.complete = found is not None
        return found

    def save(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        self.complete = False
        if self._writable:
            try:
                return super().save(stage, step, state)
            except OSError as error:
                _tell_failure(self._folder, error)
                self._writable = False
        if self._fallback is not None:
            self._fallback.save(stage, step, state)
        return None


def _tell_waiting(folder: Path, holder: str) -> None:
    logger.warning("%s trains the same generator: waiting for it (%s)", holder, folder)


def _tell_failure(folder: Path, error: OSError) -> None:
    logger.warning("the generator is not stored in %s (%s)", folder, error)
