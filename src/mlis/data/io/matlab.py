"""MATLAB files of versions 5 to 7.3: matrices and lists of strings.

Versions 5 to 7 are read by :mod:`mlis.data.io.mat5`, version 7.3 by :mod:`mlis.data.io.mat73`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import numpy as np

from mlis.compute.memory import check_room
from mlis.data.io import mat5
from mlis.data.io.reading import reading
from mlis.data.labels import shorten
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError

_HDF5 = b"\x89HDF\r\n\x1a\n"


def field_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names of the fields and their shapes as displayed by MATLAB. Raises `DataError`."""
    with _reading(path):
        return _reader(path).shapes(path)


def read_array(path: Path, field: str) -> np.ndarray:
    """A matrix in MATLAB's orientation, as float64. Raises `DataError`."""
    length, _ = _checked_shape(path, field, bytes_per_number=16)
    with _reading(path):
        pieces = [np.empty((0, length)), *(rows for _, rows in _reader(path).rows(path, field))]
        return np.concatenate(pieces).astype(np.float64).T


def read_columns(path: Path, field: str) -> np.ndarray:
    """The columns of a (Dx, N) matrix as rows: (N, Dx) float32 in C order. Raises `DataError`."""
    length, count = _checked_shape(path, field, bytes_per_number=4)
    result = np.empty((count, length), dtype=np.float32)
    with _reading(path):
        for start, rows in _reader(path).rows(path, field):
            converted = as_float32(rows, f"{path}: {field}", first_row=start)
            result[start : start + len(rows)] = converted
    return result


def read_strings(
    path: Path, field: str, entries: Sequence[int] | np.ndarray | None = None
) -> tuple[str, ...]:
    """A cell array of strings, or the rows of a character matrix. Raises `DataError`.

    Args:
        path: of the file.
        field: name of the variable.
        entries: cells to read, ascending and counted from 0; None reads all.
    """
    _shape(path, field)
    only = None if entries is None else [int(entry) for entry in entries]
    with _reading(path):
        return tuple(_reader(path).strings(path, field, only))


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(path, "a MATLAB file", "Download it again, or save it with -v7 or -v7.3.")


def _shape(path: Path, field: str) -> tuple[int, ...]:
    shapes = field_shapes(path)
    if field not in shapes:
        raise DataError(f"{path}: expected a field {field!r}, got {shorten(list(shapes))}.")
    return shapes[field]


def _checked_shape(path: Path, field: str, bytes_per_number: int) -> tuple[int, int]:
    """Shape of a matrix, consistent with the file size and small enough for memory."""
    shape = _shape(path, field)
    if len(shape) != 2:
        raise DataError(f"{path}: {field}: expected a matrix, got shape {shape}.")
    length, count = shape
    with _reading(path):  # before `check_room`, which would call a damaged header a large file
        _reader(path).check_size(path, field)
    check_room(f"{path}: {field}, {length} × {count},", bytes_per_number * length * count)
    return length, count


def _reader(path: Path) -> ModuleType:
    """The module that reads a file of its version."""
    with path.open("rb") as handle:
        place = 0
        while (found := handle.read(len(_HDF5))) != _HDF5:
            if len(found) < len(_HDF5):
                return mat5
            place = 2 * place or 512  # where HDF5 has its signature; MATLAB's is at 512
            handle.seek(place)
    from mlis.data.io import mat73  # h5py is slow to import

    return mat73
