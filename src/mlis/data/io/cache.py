"""Arrays parsed once from a slow file, then memory-mapped from the user's cache folder.

An entry is named by the SHA-256 of the file's content, has a checksum, and is written atomically.
A damaged entry is read again from the source, and a cache that cannot be written is not used.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlis.data.out_of_core.safetensors_file import checksum, map_arrays, write_arrays
from mlis.errors import DataError
from mlis.storage.atomic import atomic_write, cache_folder

logger: logging.Logger = logging.getLogger(__name__)

ENTRY_VERSION = 2  # increment when a reader returns different arrays for the same file
_SETTLED_NS = (
    2_000_000_000  # a file modified more recently may change without changing its time stamp
)


def cached_arrays(
    source: Path, names: Sequence[str], read: Callable[[Path], dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], str]:
    """The arrays `names` (float32 or int64) returned by `read(source)`, and the file's SHA-256.

    Raises:
        DataError: `source` changed while it was read, or `read` failed.
    """
    before = _identity(source)
    digest = file_sha256(source)
    entry = cache_folder() / f"arrays-v{ENTRY_VERSION}" / f"{digest}.safetensors"
    arrays = _open_entry(entry, names)
    if arrays is not None:
        return arrays, digest
    arrays = read(source)
    if _identity(source) != before:
        raise DataError(f"{source}: changed while it was read. Try again once it is complete.")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(entry, arrays)
    except OSError as error:
        logger.warning("%s: not cached (%s); it will be parsed again next time", source, error)
        return arrays, digest
    return map_arrays(entry, names)[0], digest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, cached until its size, times or inode change."""
    with _read_errors(path), path.open("rb") as handle:
        cached = CachedHash("file-hashes", path, handle.fileno())
        digest = cached.load()
        if digest is None:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            cached.store(digest)
    return digest


class CachedHash:
    """A SHA-256 obtained by reading an open file, stored in the user's cache folder.

    It is valid while the file's path, size, times and inode are unchanged. It is not stored for a
    file modified within the last seconds, whose next change might leave the time stamp unchanged.

    Args:
        kind: of the hash; names a folder in the cache.
        path: of the file.
        descriptor: of the open file.
        key: further values that the hash depends on, JSON-serialisable.
    """

    def __init__(self, kind: str, path: Path, descriptor: int, *key: object):
        self._descriptor = descriptor
        self._settled = time.time_ns() - _SETTLED_NS
        self._resolved = os.fspath(path.resolve())
        self._identity = self._stat()
        name = hashlib.sha256(json.dumps([*self._identity, *key]).encode()).hexdigest()
        self._entry = cache_folder() / kind / name

    def load(self) -> str | None:
        """The stored hash of this file, or None if there is none or the entry is damaged."""
        try:
            digest, check = self._entry.read_text(encoding="ascii").split()
        except (OSError, ValueError):
            return None
        return digest if check == _checksum(digest) else None

    def store(self, digest: str) -> None:
        """Store the hash, unless the file has changed since, or may have."""
        *_, modified, changed, _ = self._identity
        if max(modified, changed) >= self._settled or self._stat() != self._identity:
            return
        try:
            self._entry.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._entry) as temporary:
                temporary.write_text(f"{digest} {_checksum(digest)}\n", encoding="ascii")
        except OSError as error:
            logger.debug("%s: not stored (%s)", self._entry, error)

    def _stat(self) -> tuple[str, int, int, int, int, int]:
        return _identified(self._resolved, os.fstat(self._descriptor))


def _identity(path: Path) -> tuple[str, int, int, int, int, int]:
    with _read_errors(path):
        return _identified(os.fspath(path.resolve()), path.stat())


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _identified(path: str, stat: os.stat_result) -> tuple[str, int, int, int, int, int]:
    return path, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def _checksum(digest: str) -> str:
    return f"{zlib.crc32(digest.encode()):08x}"


def _open_entry(entry: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    if not entry.exists():
        return None
    try:
        arrays, recorded = map_arrays(entry, names)
    except DataError as error:
        logger.warning("%s; the cache entry will be replaced", error)
        return None
    if checksum(arrays) != recorded:
        logger.warning("%s: damaged; the cache entry will be replaced", entry)
        return None
    return arrays
