"""MATLAB files of versions 5 to 7.3: matrices and lists of strings.

Versions 5 to 7 are parsed by :mod:`mlis.data.io.mat5`. Version 7.3 is HDF5, which stores matrices
transposed; it is read here, in pieces. Nothing outside the file is opened: links to other files
and arrays stored in other files are rejected.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import h5py
import numpy as np

from mlis.compute.memory import check_room
from mlis.data.io import mat5
from mlis.data.io.reading import MAX_EXPANSION, reading
from mlis.data.labels import shorten
from mlis.data.out_of_core.arrays import CHUNK_BYTES, as_float32
from mlis.errors import DataError

_MAX_STRING = 10_000


def field_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names of the fields and their shapes as displayed by MATLAB. Raises `DataError`."""
    with _reading(path):
        return _hdf5_shapes(path) if h5py.is_hdf5(path) else mat5.shapes(path)


def read_array(path: Path, field: str) -> np.ndarray:
    """A matrix in MATLAB's orientation, as float64. Raises `DataError`."""
    length, _ = _checked_shape(path, field, bytes_per_number=16)
    with _reading(path):
        pieces = [np.empty((0, length)), *(rows for _, rows in _rows(path, field))]
        return np.concatenate(pieces).astype(np.float64).T


def read_columns(path: Path, field: str) -> np.ndarray:
    """The columns of a (Dx, N) matrix as rows: (N, Dx) float32 in C order. Raises `DataError`."""
    length, count = _checked_shape(path, field, bytes_per_number=4)
    result = np.empty((count, length), dtype=np.float32)
    with _reading(path):
        for start, rows in _rows(path, field):
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
        read = _hdf5_strings if h5py.is_hdf5(path) else mat5.strings
        return tuple(read(path, field, only))


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
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                _dataset(file, field)
        else:
            mat5.check_size(path, field)
    check_room(f"{path}: {field}, {length} × {count},", bytes_per_number * length * count)
    return length, count


def _rows(path: Path, field: str) -> Iterator[tuple[int, np.ndarray]]:
    """The columns of a matrix as rows, in pieces, each with the number of its first row."""
    return (_hdf5_rows if h5py.is_hdf5(path) else mat5.rows)(path, field)


# --- version 7.3 --------------------------------------------------------------------------------


def _hdf5_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with h5py.File(path, "r") as file:
        names = [str(name) for name in file]
        found = {name: file[name] for name in names if _is_hard_link(file, name)}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, item in found.items():
            if isinstance(item, h5py.Dataset):
                shapes[name] = (0, 0) if _is_empty(item) else item.shape[::-1]
            elif isinstance(item, h5py.Group) and _is_sparse(item):
                shapes[name] = _sparse_shape(item)
        return shapes


def _hdf5_rows(path: Path, field: str) -> Iterator[tuple[int, np.ndarray]]:
    with h5py.File(path, "r") as file:
        dataset = _dataset(file, field)
        if (dataset.ndim != 2 and not _is_empty(dataset)) or dataset.dtype.kind not in "fiub":
            raise DataError(f"{path}: {field}: expected a matrix of real numbers.")
        if _is_empty(dataset):
            return
        chunk_rows = dataset.chunks[0] if dataset.chunks else 1
        row_bytes = max(1, dataset.shape[1] * dataset.dtype.itemsize)
        step = chunk_rows * max(1, CHUNK_BYTES // (row_bytes * chunk_rows))
        for start in range(0, len(dataset), step):
            yield start, dataset[start : start + step]


def _hdf5_strings(path: Path, field: str, only: Sequence[int] | None) -> Iterator[str]:
    with h5py.File(path, "r") as file:
        dataset = _dataset(file, field)
        if dataset.dtype.kind == "u" and dataset.ndim == 2:
            yield from (_decode(codes).rstrip() for codes in dataset[()].T)
            return
        if h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
            raise DataError(f"{path}: {field}: expected a cell array of strings.")
        references = dataset[()].ravel()
        for number in range(len(references)) if only is None else only:
            cell = file[references[number]]
            if not isinstance(cell, h5py.Dataset) or cell.dtype.kind != "u":
                raise DataError(f"{path}: {field}: cell {number + 1}: expected a string.")
            if math.prod(cell.shape) > _MAX_STRING:
                raise ValueError(f"{field}: cell {number + 1} declares {cell.shape} characters")
            yield "" if _is_empty(cell) else _decode(_stored_here(cell)[()].ravel())


def _dataset(file: h5py.File, field: str) -> h5py.Dataset:
    dataset = file[field] if _is_hard_link(file, field) else None
    if _is_sparse(dataset):
        raise mat5.sparse_error(file.filename, field)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{file.filename}: {field}: expected an array stored in this file.")
    return _stored_here(dataset)


def _stored_here(dataset: h5py.Dataset) -> h5py.Dataset:
    """Reject data in other files, and shapes larger than the stored bytes can decompress to."""
    if dataset.external or dataset.is_virtual:
        raise DataError(
            f"{dataset.file.filename}: {dataset.name}: expected an array stored in this file, got "
            "a reference to another file. Save the array itself."
        )
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > stored * MAX_EXPANSION:
        raise ValueError(f"{dataset.name} declares {declared} bytes, but {stored} are stored")
    return dataset


def _is_hard_link(file: h5py.Group, name: str) -> bool:
    return isinstance(file.get(name, getlink=True), h5py.HardLink)


def _is_sparse(item: object) -> bool:
    return isinstance(item, h5py.Group) and "MATLAB_sparse" in item.attrs


def _sparse_shape(group: h5py.Group) -> tuple[int, int]:
    columns = group["jc"] if _is_hard_link(group, "jc") else None
    count = columns.shape[0] - 1 if isinstance(columns, h5py.Dataset) and columns.ndim == 1 else 0
    return int(np.asarray(group.attrs["MATLAB_sparse"]).item()), count


def _is_empty(dataset: h5py.Dataset) -> bool:
    """MATLAB stores the shape of an empty array in place of its values, and sets an attribute."""
    return bool(dataset.attrs.get("MATLAB_empty", 0))


def _decode(codes: np.ndarray) -> str:
    return codes.astype("<u2").tobytes().decode("utf-16-le")
