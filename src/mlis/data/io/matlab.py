"""MATLAB files of any version since 5: matrices, and lists of strings."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np

from mlis.data.io import mat5, mat73
from mlis.data.io.reading import reading
from mlis.data.labels import shorten
from mlis.data.out_of_core.arrays import as_float32
from mlis.data.out_of_core.memory import check_room
from mlis.errors import DataError


def field_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names of the fields and their shapes as MATLAB shows them. Raises `DataError`."""
    with _reading(path):
        return _reader(path).shapes(path)


def read_array(path: Path, field: str) -> np.ndarray:
    """A matrix in MATLAB's orientation, as float64. Raises `DataError`."""
    length, _ = _matrix_with_room(path, field, 16)
    with _reading(path):
        pieces = [np.empty((0, length))]
        pieces += [rows for _, rows in _reader(path).rows(path, field)]
        return np.concatenate(pieces).astype(np.float64).T


def read_columns(path: Path, field: str) -> np.ndarray:
    """The columns of a (Dx, N) matrix as rows: (N, Dx) float32 in C order. Raises `DataError`."""
    length, count = _matrix_with_room(path, field, 4)
    result = None
    with _reading(path):
        for start, rows in _reader(path).rows(path, field):
            if result is None:  # the length of what is stored has been checked by now
                result = np.empty((count, length), dtype=np.float32)
            converted = as_float32(rows, f"{path}: {field}", first_row=start)
            result[start : start + len(rows)] = converted
    return np.empty((0, length), dtype=np.float32) if result is None else result


def read_strings(
    path: Path, field: str, entries: Sequence[int] | np.ndarray | None = None
) -> tuple[str, ...]:
    """A cell array of strings, or a character matrix, one string a row. Raises `DataError`.

    Of a cell array only `entries`, if given: ascending numbers from 0.
    """
    _shape(path, field)
    only = None if entries is None else [int(entry) for entry in entries]
    with _reading(path):
        return tuple(_reader(path).strings(path, field, only))


def _reader(path: Path) -> ModuleType:
    return mat73 if h5py.is_hdf5(path) else mat5


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(path, "a MATLAB file", "Fetch it again, or save it with -v7 or -v7.3.")


def _shape(path: Path, field: str) -> tuple[int, ...]:
    shapes = field_shapes(path)
    if field not in shapes:
        raise DataError(f"{path}: no field {field!r}; it has {shorten(list(shapes))}.")
    return shapes[field]


def _matrix_with_room(path: Path, field: str, bytes_each: int) -> tuple[int, int]:
    """Shape of a matrix that its file can hold, and memory too, at so many bytes a number."""
    shape = _shape(path, field)
    if len(shape) != 2:
        raise DataError(f"{path}: {field} must be a matrix, but has shape {shape}.")
    length, count = shape
    with _reading(path):  # a damaged header is called so, not too large for this machine
        _reader(path).check_claim(path, field)
    check_room(f"{path}: {field}, {length} × {count},", bytes_each * length * count)
    return length, count
