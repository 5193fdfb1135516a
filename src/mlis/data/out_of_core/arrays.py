"""Checks, conversion and hashes of large arrays in chunks, without loading a memory map."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from mlis.data.out_of_core.stored import StoredRows, stored
from mlis.errors import DataError

CHUNK_BYTES = 16 << 20


def row_chunks(array: np.ndarray | StoredRows) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive rows, about 16 MiB each, with the number of their first row.

    A chunk is valid until the next one: rows of a memory map are read into one buffer, so that a
    pass over a file does not increase the memory of the process by the size of the file.
    """
    row_bytes = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:])))
    step = min(max(1, CHUNK_BYTES // row_bytes), max(1, len(array)))
    where = stored(array) if isinstance(array, np.ndarray) else None
    buffer = np.empty((0, 0)) if where is None else np.empty((step, *array.shape[1:]), array.dtype)
    for start in range(0, len(array), step):
        if where is None:
            yield start, array[start : start + step]
        else:
            chunk = buffer[: len(array) - start]
            where.read(start, chunk)
            yield start, chunk


def find_not_finite(array: np.ndarray) -> tuple[int, int] | None:
    """Row and column of the first NaN or infinity of a (n, m) array, or None."""
    for start, chunk in row_chunks(array):
        finite = np.isfinite(chunk)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            return start + int(row), int(column)
    return None


def as_float32(values: ArrayLike, what: str, *, first_row: int = 0) -> np.ndarray:
    """`values` (n, m) as float32 in C order, without a copy if they already are.

    Args:
        values: 2-d array of real numbers.
        what: first part of every message.
        first_row: number of the first row, for messages.

    Raises:
        DataError: `values` are not a 2-d array of real numbers, or exceed float32.
    """
    try:
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what}: expected rows of equal length: {error}") from error
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(
            f"{what}: expected an array, got a masked array. Fill in the masked values."
        )
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise DataError(
            f"{what}: expected a 2-d array of real numbers, got shape {array.shape} of "
            f"{array.dtype}."
        )
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    result = np.empty(array.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start, chunk in row_chunks(array):
            result[start : start + len(chunk)] = chunk
    bad = find_not_finite(result)
    if bad is not None and np.isfinite(array[bad]):
        raise DataError(
            f"{what}: row {first_row + bad[0]}, column {bad[1]} (counted from 0): expected a "
            f"number within float32, got {array[bad]:g}. Rescale these values."
        )
    return result


def update_hash(hasher: "hashlib._Hash", name: str, array: np.ndarray | StoredRows) -> None:
    """Feed an array's name, type, shape and bytes to `hasher`, in pieces."""
    hasher.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
    for _, chunk in row_chunks(array):
        hasher.update(np.ascontiguousarray(chunk).data)
