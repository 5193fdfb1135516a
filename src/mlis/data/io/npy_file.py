"""NumPy's `.npy` and `.npz` files; pickled objects are rejected."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from mlis.compute.memory import check_room
from mlis.data.io.reading import MAX_EXPANSION, reading
from mlis.data.labels import shorten
from mlis.errors import DataError


def load_npy(path: Path) -> np.ndarray:
    """Open a `.npy` file as a memory map. Raises `DataError`."""
    with reading(path, "a .npy file", "Save it again with numpy.save."):
        _check_header_length(path)
        with path.open("rb") as handle:
            _header(handle, f"{path}")
        return np.lib.format.open_memmap(path, mode="r")


def read_npz(
    path: Path, names: Sequence[str] = ("features", "labels"), *, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays `names`, and those of `optional` that are present. Raises `DataError`."""
    with (
        reading(path, "a .npz file", "Save it again with numpy.savez."),
        zipfile.ZipFile(path) as archive,
    ):
        present = [name for name in optional if f"{name}.npy" in archive.namelist()]
        return {name: _read_member(path, archive, name) for name in (*names, *present)}


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of a `.npz`, after checking its header against the size of the file."""
    member = f"{name}.npy"
    if member not in archive.namelist():
        known = [each.removesuffix(".npy") for each in archive.namelist()]
        raise DataError(f"{path}: expected an array {name!r}, got {shorten(known)}.")
    with archive.open(member) as handle:
        shape, dtype = _header(handle, f"{path}: {name}")
        present = min(archive.getinfo(member).file_size, path.stat().st_size * MAX_EXPANSION)
        if math.prod(shape) * dtype.itemsize > present:
            raise ValueError(f"{name} declares shape {shape} of {dtype}")
    check_room(f"{path}: {name}, {shape} of {dtype},", math.prod(shape) * dtype.itemsize)
    with archive.open(member) as handle:
        return np.lib.format.read_array(handle, allow_pickle=False)


def _check_header_length(path: Path) -> None:
    """NumPy allocates the header of versions 2 and 3 before checking that the file has it."""
    with path.open("rb") as handle:
        start = handle.read(12)
    length = int.from_bytes(start[8:12], "little")
    if start[:6] == b"\x93NUMPY" and start[6] > 1 and length > path.stat().st_size:
        raise ValueError(f"header declares a length of {length:,} bytes")


def _header(handle: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array without Python objects."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version := np.lib.format.read_magic(handle))
    if read is None:
        raise ValueError(f"unknown version {version}")
    shape, _, dtype = read(handle)
    if dtype.hasobject:
        raise DataError(
            f"{what}: expected numbers or text, got Python objects, which are never unpickled. "
            "Save text with array.astype(str), numbers with array.astype(float)."
        )
    if not dtype.itemsize:  # an empty file could declare any number of these
        raise ValueError(f"entries of type {dtype.str} have no size")
    return shape, dtype
