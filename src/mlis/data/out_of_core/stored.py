"""Rows in a file, read at offsets into buffers.

A page of a memory map counts towards the memory of the process once it was accessed, so that one
pass over a mapped file makes the process as large as the file. Reading at an offset (`pread`)
leaves the pages in the page cache of the system, which is released when memory is needed.
"""

import math
import mmap
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from mlis.compute.memory import resident_limit
from mlis.errors import DataError

_SEEK = threading.Lock()


class OpenFile:
    """A file open for reading at offsets from any thread; closed when garbage-collected.

    It stays readable if its name is deleted or reused.

    Args:
        descriptor: of the open file; owned by this object.
        path: for messages.
    """

    def __init__(self, descriptor: int, path: str | os.PathLike[str]):
        self.descriptor = descriptor
        self.path: Path = Path(path)
        self.finite = False  # whether all its numbers are known to be finite
        weakref.finalize(self, os.close, descriptor)

    def read(self, out: memoryview, offset: int) -> int:
        """Fill `out` from byte `offset`; return the number of bytes read."""
        done = 0
        while done < len(out):
            got = self._read(out[done:], offset + done)
            if got == 0:
                break
            done += got
        return done

    def _read(self, out: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.descriptor, [out], offset)
        with _SEEK:
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            data = os.read(self.descriptor, len(out))
        out[: len(data)] = data
        return len(data)

    def announce(self, offset: int, length: int) -> None:
        """Advise the system to read ahead."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, offset, length, os.POSIX_FADV_WILLNEED)


class StoredArray:
    """An array in C order inside an open file.

    Attributes:
        file: that contains it.
        offset: of its first byte.
        shape, dtype: of the array.
    """

    def __init__(self, file: OpenFile, offset: int, shape: tuple[int, ...], dtype: np.dtype):
        self.file: OpenFile = file
        self.offset: int = offset
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.row_bytes: int = self.dtype.itemsize * math.prod(shape[1:])

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill `out` (n, …), C order, with the rows from `start` on.

        Raises:
            DataError: the file cannot be read, or was truncated.
        """
        view = out.data.cast("B")
        begin = self.offset + start * self.row_bytes
        try:
            got = self.file.read(view, begin)
        except OSError as error:
            raise DataError(
                f"{self.file.path}: row {start} cannot be read: {error.strerror}."
            ) from error
        if got < len(view):
            raise DataError(
                f"{self.file.path}: row {start + got // max(self.row_bytes, 1)} is missing: the "
                f"file was truncated to {begin + got} bytes after it was opened. Restore it and "
                "start again."
            )

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` (n, …), C order, with the rows `rows` (n,), read in file order."""
        if not len(rows):
            return
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        # runs of rows that are consecutive in the file and in `out` are read at once
        breaks = np.flatnonzero((np.diff(ordered) != 1) | (np.diff(order) != 1)) + 1
        begins = np.concatenate(([0], breaks))
        lengths = np.diff(np.concatenate((begins, [len(rows)]))).tolist()
        firsts, places = ordered[begins].tolist(), order[begins].tolist()
        for first, length in zip(firsts, lengths, strict=True):
            self.file.announce(self.offset + first * self.row_bytes, length * self.row_bytes)
        for first, place, length in zip(firsts, places, lengths, strict=True):
            self.read(first, out[place : place + length])


class StoredRows:
    """Selected rows of a stored (N, D) array, read on access.

    Has the subset of the interface of a NumPy array needed to read rows: `shape`, `ndim`, `dtype`,
    `nbytes`, `len`, and indexing with an integer, a slice, row numbers or a mask, which returns a
    new array. `numpy.asarray` reads all rows.

    Args:
        array: to select from.
        rows: (n,) int64 row numbers.
    """

    ndim = 2

    def __init__(self, array: StoredArray, rows: np.ndarray):
        self.array: StoredArray = array
        self.rows: np.ndarray = rows

    @property
    def shape(self) -> tuple[int, int]:
        """(n, D)."""
        return len(self.rows), self.array.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the array in the file."""
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        """Size of the selected rows in bytes."""
        return len(self.rows) * self.array.row_bytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self.rows[index]
        out = np.empty((chosen.size, self.array.shape[1]), self.dtype)
        self.array.gather(chosen.reshape(-1), out)
        return out.reshape(*chosen.shape, self.array.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows of a file cannot become an array without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


def stored(array: np.ndarray) -> StoredArray | None:
    """The location of `array` in a file; None unless it is a read-only memory map in C order.

    Raises:
        DataError: the file no longer exists.
    """
    root = array
    while isinstance(root, np.ndarray) and not isinstance(root.base, mmap.mmap):
        root = root.base
    if not isinstance(root, np.memmap) or root.mode != "r":
        return None
    if not array.flags.c_contiguous or not array.size:
        return None
    file = root.__dict__.get("mlis_file")
    if file is None:
        if root.filename is None:
            return None
        file = _open(Path(root.filename))
        attach(root, file)
    first, origin = (a.__array_interface__["data"][0] for a in (array, root))
    return StoredArray(file, root.offset + first - origin, array.shape, array.dtype)


def attach(mapped: np.memmap, file: OpenFile) -> None:
    """Record the open file of a memory map, in case its name is reused."""
    mapped.__dict__["mlis_file"] = file


def choose_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray | StoredRows:
    """Selected rows of (N, D) features: in memory, or in their file if too large."""
    where = stored(array)
    if where is None:
        return np.asarray(array[rows])
    chosen = StoredRows(where, rows)
    return chosen if chosen.nbytes > resident_limit() else chosen[:]


def _open(path: Path) -> OpenFile:
    try:
        return OpenFile(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), path)
    except OSError as error:
        raise DataError(
            f"{path}: can no longer be read: {error.strerror}. Restore it and start again."
        ) from error
