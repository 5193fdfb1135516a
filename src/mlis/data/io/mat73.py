"""MATLAB files of version 7.3, which are HDF5 and store matrices transposed, read in pieces.

Nothing outside the file is opened: links to other files and arrays stored in other files are
rejected. The functions are those of :mod:`mlis.data.io.mat5`.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from mlis.data.io.mat5 import sparse_error
from mlis.data.io.reading import MAX_EXPANSION
from mlis.data.out_of_core.arrays import CHUNK_BYTES
from mlis.errors import DataError

_MAX_STRING = 10_000


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all arrays, as displayed by MATLAB."""
    with h5py.File(path, "r") as file:
        names = [str(name) for name in file]
        found = {name: file[name] for name in names if _is_hard_link(file, name)}
        result: dict[str, tuple[int, ...]] = {}
        for name, item in found.items():
            if isinstance(item, h5py.Dataset):
                result[name] = (0, 0) if _is_empty(item) else item.shape[::-1]
            elif isinstance(item, h5py.Group) and _is_sparse(item):
                result[name] = _sparse_shape(item)
        return result


def check_size(path: Path, field: str) -> None:
    """Raise `ValueError` if a declared shape is larger than its stored bytes can decompress to."""
    with h5py.File(path, "r") as file:
        _dataset(file, field)


def rows(path: Path, field: str) -> Iterator[tuple[int, np.ndarray]]:
    """The columns of a matrix as rows, in pieces, each with the number of its first row."""
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


def strings(path: Path, field: str, only: Sequence[int] | None = None) -> Iterator[str]:
    """The strings of a cell array (cells `only`, if given), or the rows of a character matrix."""
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
        raise sparse_error(file.filename, field)
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
