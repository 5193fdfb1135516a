"""MATLAB files, v5 to v7 (scipy) and v7.3 (HDF5, h5py): numbers and lists of strings.

Only the wanted fields are read. Nothing outside the file is opened (HDF5 can link to other
files: refused), and a header cannot make more be allocated than the file could hold.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from mlis.data.arrays import CHUNK_BYTES, as_float32
from mlis.data.reading import reading
from mlis.errors import DataError

_MAX_EXPANSION = 1100  # deflate packs no more than 1032 bytes into one
_MAX_STRING = 10_000


def field_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names of the fields and their shapes as MATLAB shows them."""
    with _reading(path):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                names = [str(name) for name in file]
                found = {name: file[name] for name in names if _is_inside(file, name)}
                return {n: d.shape[::-1] for n, d in found.items() if isinstance(d, h5py.Dataset)}
        with path.open("rb") as handle:
            return {name: tuple(shape) for name, shape, _ in scipy.io.whosmat(handle)}


def read_array(path: Path, field: str) -> np.ndarray:
    """A field of numbers, in MATLAB's orientation."""
    _check_size(path, field)
    with _reading(path):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                dataset = _dataset(file, field)
                array = np.empty((0, 0)) if _is_empty(dataset) else dataset[()].T
        else:
            array = _read_v5(path, field)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise DataError(f"{path}: {field} must be real numbers, but is {_kind(array)}.")
        return array


def read_columns(path: Path, field: str) -> np.ndarray:
    """The columns of a (Dx, N) field as rows: (N, Dx) float32 in C order.

    A v5 file of float64 takes 1.5 times its array in memory, a v7.3 file half of it.
    """
    if not h5py.is_hdf5(path):
        return as_float32(read_array(path, field).T, f"{path}: {field}")
    _check_size(path, field)
    with _reading(path), h5py.File(path, "r") as file:
        dataset = _dataset(file, field)  # HDF5 shows MATLAB's array transposed: (N, Dx)
        if dataset.ndim != 2 or dataset.dtype.kind not in "fiub":
            raise DataError(f"{path}: {field} must be a matrix of real numbers.")
        result = np.empty(dataset.shape, dtype=np.float32)
        chunk_rows = dataset.chunks[0] if dataset.chunks else 1
        row_bytes = max(1, dataset.shape[1] * dataset.dtype.itemsize)
        step = chunk_rows * max(1, CHUNK_BYTES // (row_bytes * chunk_rows))
        for start in range(0, len(dataset), step):
            rows = as_float32(dataset[start : start + step], f"{path}: {field} from row {start}")
            result[start : start + step] = rows
        return result


def read_strings(path: Path, field: str) -> tuple[str, ...]:
    """A cell array of strings (or a character matrix, one string a row)."""
    _check_size(path, field)
    with _reading(path):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return tuple(_strings_v73(file, field))
        cells = _read_v5(path, field)
        if not isinstance(cells, np.ndarray) or cells.dtype.kind not in "OU":
            raise DataError(f"{path}: {field} must be strings, but is {_kind(cells)}.")
        return tuple(_text_v5(path, field, i, cell) for i, cell in enumerate(cells.ravel("F")))


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(path, "a MATLAB file", "Fetch it again, or save it with -v7 or -v7.3.")


def _check_size(path: Path, field: str) -> None:
    shapes = field_shapes(path)
    if field not in shapes:
        raise DataError(f"{path}: no field {field!r}; it has {', '.join(shapes) or 'none'}.")
    if math.prod(map(int, shapes[field])) > path.stat().st_size * _MAX_EXPANSION:
        raise DataError(
            f"{path}: {field} claims to be {shapes[field]}, more than a file of this size can "
            f"hold. Fetch it again."
        )


def _read_v5(path: Path, field: str) -> Any:
    with path.open("rb") as handle:
        return scipy.io.loadmat(handle, variable_names=[field])[field]


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__


def _text_v5(path: Path, field: str, index: int, cell: Any) -> str:
    text = np.asarray(cell)
    if text.dtype.kind != "U" or text.size > 1:
        raise DataError(f"{path}: {field}: entry {index + 1} is no string, but {_kind(cell)}.")
    return text.item().rstrip() if text.size else ""


def _is_inside(file: h5py.File, name: str) -> bool:
    return isinstance(file.get(name, getlink=True), h5py.HardLink)


def _dataset(file: h5py.File, field: str) -> h5py.Dataset:
    dataset = file[field] if _is_inside(file, field) else None
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{file.filename}: {field} is no array stored in this file.")
    return _inside(file, dataset)


def _inside(file: h5py.File, dataset: h5py.Dataset) -> h5py.Dataset:
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{file.filename}: {dataset.name} is stored in another file: refused.")
    return dataset


def _is_empty(dataset: h5py.Dataset) -> bool:
    """MATLAB stores an empty array as its shape, and says so in an attribute."""
    return bool(dataset.attrs.get("MATLAB_empty", 0))


def _strings_v73(file: h5py.File, field: str) -> Iterator[str]:
    dataset = _dataset(file, field)
    if h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
        if dataset.dtype.kind != "u" or dataset.ndim != 2:
            raise DataError(f"{file.filename}: {field} must be strings, but is {dataset.dtype}.")
        for codes in dataset[()].T:
            yield _decode(codes).rstrip()
        return
    for reference in dataset[()].ravel():
        target = file[reference]
        if not isinstance(target, h5py.Dataset) or target.dtype.kind != "u":
            raise DataError(f"{file.filename}: {field} has an entry that is no string.")
        if math.prod(target.shape) > _MAX_STRING:
            raise DataError(f"{file.filename}: {field} has a string of {target.shape} characters.")
        yield "" if _is_empty(target) else _decode(_inside(file, target)[()].ravel())


def _decode(codes: np.ndarray) -> str:
    return codes.astype("<u2").tobytes().decode("utf-16-le")
