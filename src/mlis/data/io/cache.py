"""Arrays read once from a slow file, then memory-mapped from the user's cache folder.

An entry is named by the SHA-256 of the file's content, carries a checksum, and appears whole or
not at all. Whatever is wrong with the cache costs time, never a wrong number: a damaged entry is
read again from the source, and a cache that cannot be written is done without.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import numpy as np

from mlis.data.out_of_core.mapped import checksum, map_arrays, write_arrays
from mlis.errors import DataError
from mlis.storage.atomic import atomic_write, cache_folder

logger: logging.Logger = logging.getLogger(__name__)

ENTRY_VERSION = 2  # raise it when a reader gives other arrays for the same file
_SETTLED_NS = 2_000_000_000  # a file changed this lately may change again within its time stamp


def cached_arrays(
    source: Path, names: Sequence[str], read: Callable[[Path], dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], str]:
    """What `read(source)` gives (float32 and int64 arrays called `names`), and the file's SHA-256.

    Raises `DataError` where `source` changes while it is read, and whatever `read` raises.
    """
    before = _identity(source)
    digest = file_sha256(source)
    entry = cache_folder() / f"arrays-v{ENTRY_VERSION}" / f"{digest}.safetensors"
    arrays = _open_entry(entry, names)
    if arrays is not None:
        return arrays, digest
    arrays = read(source)
    if _identity(source) != before:
        raise DataError(f"{source}: changed while it was read. Try again when it is complete.")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(entry, arrays)
    except OSError as error:
        logger.warning("%s: not cached (%s); the next start reads the file again", source, error)
        return arrays, digest
    return map_arrays(entry, names)[0], digest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, remembered until its size, times or inode change."""
    with _opened(path) as handle:
        memory = FileMemory("file-hashes", path, handle.fileno())
        digest = memory.recall()
        if digest is None:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            memory.keep(digest)
    return digest


class FileMemory:
    """One SHA-256 that was found by reading an open file, kept in the user's cache folder.

    It is forgotten when the file's path, size, times or inode change, and never kept for a file
    that was changed within the last seconds: the next change could leave its time stamp as it is.

    Args:
        kind: what was found; names a folder in the cache.
        path: of the file.
        descriptor: of the open file.
        facts: whatever else the finding depends on, as JSON.
    """

    def __init__(self, kind: str, path: Path, descriptor: int, *facts: object):
        self._descriptor = descriptor
        self._settled = time.time_ns() - _SETTLED_NS
        self._resolved = os.fspath(path.resolve())
        self._identity = self._look()
        name = hashlib.sha256(json.dumps([*self._identity, *facts]).encode()).hexdigest()
        self._memory = cache_folder() / kind / name

    def recall(self) -> str | None:
        """What was kept for this very file; None where nothing was, or it is damaged."""
        return _remembered(self._memory)

    def keep(self, digest: str) -> None:
        """Keep what was found, unless the file has changed since, or might have."""
        *_, modified, changed, _ = self._identity
        if max(modified, changed) < self._settled and self._look() == self._identity:
            _remember(self._memory, digest)

    def _look(self) -> tuple[str, int, int, int, int, int]:
        return _identified(self._resolved, os.fstat(self._descriptor))


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with path.open("rb") as handle:
            yield handle
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _identity(path: Path) -> tuple[str, int, int, int, int, int]:
    try:
        return _identified(os.fspath(path.resolve()), path.stat())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _identified(path: str, stat: os.stat_result) -> tuple[str, int, int, int, int, int]:
    return path, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def _remembered(memory: Path) -> str | None:
    try:
        digest, check = memory.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return digest if check == _check_digits(digest) else None


def _remember(memory: Path, digest: str) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(memory) as temporary:
            temporary.write_text(f"{digest} {_check_digits(digest)}\n", encoding="ascii")
    except OSError as error:
        logger.debug("%s: not remembered (%s)", memory, error)


def _check_digits(digest: str) -> str:
    return f"{zlib.crc32(digest.encode()):08x}"


def _open_entry(entry: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    if not entry.exists():
        return None
    try:
        arrays, recorded = map_arrays(entry, names)
    except DataError as error:
        logger.warning("%s; the cache entry is made again", error)
        return None
    if checksum(arrays) != recorded:
        logger.warning("%s: damaged; the cache entry is made again", entry)
        return None
    return arrays
