"""NumPy's `.npy` and `.npz` files; pickled objects are refused."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from mlis.data.io.reading import reading
from mlis.data.labels import shorten
from mlis.data.out_of_core.memory import check_room
from mlis.errors import DataError

_MAX_EXPANSION = 1100  # deflate packs no more than 1032 bytes into one


def load_npy(path: Path) -> np.ndarray:
    """A `.npy` file as a memory map. Raises `DataError`."""
    with reading(path, "a .npy file", "Save it again with numpy.save."):
        _check_header_length(path)
        with path.open("rb") as handle:
            _header(handle, f"{path}")
        return np.lib.format.open_memmap(path, mode="r")


def read_npz(
    path: Path, names: Sequence[str] = ("features", "labels"), *, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays `names`, and those of `optional` that are there. Raises `DataError`."""
    with (
        reading(path, "a .npz file", "Save it again with numpy.savez."),
        zipfile.ZipFile(path) as archive,
    ):
        present = [name for name in optional if f"{name}.npy" in archive.namelist()]
        return {name: _read_member(path, archive, name) for name in (*names, *present)}


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of a `.npz`, once its header agrees with the number of bytes that are there."""
    member = f"{name}.npy"
    if member not in archive.namelist():
        known = [each.removesuffix(".npy") for each in archive.namelist()]
        raise DataError(f"{path}: no array {name!r}; it has {shorten(known)}.")
    with archive.open(member) as handle:
        shape, dtype = _header(handle, f"{path}: {name}")
        present = min(archive.getinfo(member).file_size, path.stat().st_size * _MAX_EXPANSION)
        if math.prod(shape) * dtype.itemsize > present:
            raise ValueError(f"{name} claims to be {shape} of {dtype}")
    check_room(f"{path}: {name}, {shape} of {dtype},", math.prod(shape) * dtype.itemsize)
    with archive.open(member) as handle:
        return np.lib.format.read_array(handle, allow_pickle=False)


def _check_header_length(path: Path) -> None:
    """NumPy takes memory for the header of versions 2 and 3 before it looks whether it is there."""
    with path.open("rb") as handle:
        start = handle.read(12)
    length = int.from_bytes(start[8:12], "little")
    if start[:6] == b"\x93NUMPY" and start[6] > 1 and length > path.stat().st_size:
        raise ValueError(f"its header claims to be of {length:,} bytes")


def _header(handle: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array that can be read without running anything."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version := np.lib.format.read_magic(handle))
    if read is None:
        raise ValueError(f"unknown version {version}")
    shape, _, dtype = read(handle)
    if dtype.hasobject:
        raise DataError(
            f"{what} holds Python objects, which are never unpickled. Save text with "
            "array.astype(str), numbers with array.astype(float)."
        )
    if not dtype.itemsize:  # a file of none could claim any number of them
        raise ValueError(f"its entries are of {dtype.str}, which is nothing")
    return shape, dtype
