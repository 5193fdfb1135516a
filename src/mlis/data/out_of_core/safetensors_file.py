"""Arrays in a safetensors file, written in chunks and opened as memory maps.

The layout (https://huggingface.co/docs/safetensors) is eight bytes of header length, a JSON
header, and the bytes of the arrays. The NumPy interface of the safetensors library is not used, as
it copies each array into memory on saving and loading.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mlis.data.out_of_core.arrays import row_chunks
from mlis.data.out_of_core.stored import OpenFile, attach
from mlis.errors import DataError
from mlis.storage.atomic import atomic_write

_DTYPES = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 1 << 20


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write float32 and int64 arrays to `path`, atomically, with a checksum in the header."""
    header: dict[str, object] = {"__metadata__": {"crc32": checksum(arrays)}}
    offset = 0
    for name, array in arrays.items():
        code, end = _CODES[array.dtype], offset + array.nbytes
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the arrays to eight bytes
    with atomic_write(path) as temporary, temporary.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            for _, chunk in row_chunks(array):
                handle.write(np.ascontiguousarray(chunk).data)


def map_arrays(
    path: str | os.PathLike[str], names: Iterable[str]
) -> tuple[dict[str, np.ndarray], str]:
    """The arrays `names` as read-only memory maps, and the checksum recorded in the file.

    All numbers in the header are checked against the file size before allocating.

    Raises:
        DataError: the file is missing, damaged, or contains other arrays.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            header, start = _read_header(handle.read(8), handle, size)
            file = OpenFile(os.dup(handle.fileno()), path)
            arrays = _map_all(handle, file, header, start, size, names)
            return arrays, str(header["__metadata__"]["crc32"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: damaged, or not written by mlis ({error}). Write it again."
        ) from error


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """CRC-32 of names, types, shapes and bytes; detects damage, not manipulation."""
    value = 0
    for name, array in arrays.items():
        value = zlib.crc32(f"{name}:{array.dtype.str}:{array.shape}".encode(), value)
        for _, chunk in row_chunks(array):
            value = zlib.crc32(np.ascontiguousarray(chunk).data, value)
    return f"{value:08x}"


def _read_header(prefix: bytes, handle, size: int) -> tuple[dict, int]:
    if len(prefix) < 8:
        raise ValueError(f"only {size} bytes long")
    (length,) = struct.unpack("<Q", prefix)
    if length > min(_MAX_HEADER, size - 8):
        raise ValueError(f"header declares {length} bytes")
    header = json.loads(handle.read(length))
    if not isinstance(header, dict):
        raise ValueError("header is not a JSON object")
    return header, 8 + length


def _map_all(
    handle: BinaryIO, file: OpenFile, header: dict, start: int, size: int, names: Iterable[str]
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        entry = header[name]
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"{name}: shape {shape}, bytes {begin} to {end}")
        if end - begin != math.prod(shape) * dtype.itemsize or start + end > size:
            raise ValueError(
                f"{name}: {start + end - size} bytes are missing, or the shape is wrong"
            )
        if begin == end:
            arrays[name] = np.empty(shape, dtype)
        else:
            mapped = np.memmap(handle, dtype, "r", offset=start + begin, shape=shape)
            attach(mapped, file)
            arrays[name] = mapped
    return arrays
