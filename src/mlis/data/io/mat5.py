"""MATLAB files of versions 5 to 7, read in pieces.

`scipy.io.loadmat` crashes the process (segmentation fault) on some damaged files, and holds a
float64 array in memory as a whole. This reader supports what datasets need (real matrices, cell
arrays of strings), checks every length before allocating, and raises Python exceptions only.

The format is "MAT-File Level 5" of MathWorks: a header of 128 bytes, then elements, each a tag
(type, number of bytes) and content padded to 8 bytes. A variable is an element of type 14, or a
zlib stream of one (type 15). It contains flags, dimensions and a name, followed by its numbers or
characters, or, for a cell array, its cells, which are again variables.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlis.data.io.reading import MAX_EXPANSION
from mlis.data.out_of_core.arrays import CHUNK_BYTES
from mlis.errors import DataError

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_CELL, _CHARACTERS, _SPARSE, _NUMBERS, _OPAQUE = 1, 4, 5, range(6, 16), 17  # classes of variables
_COMPLEX = 0x0800
_NUMBER_TYPES: dict[int, str] = dict(
    zip(
        (1, 2, 3, 4, 5, 6, 7, 9, 12, 13),
        ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"),
        strict=True,
    )
)
_INFLATE_BYTES = 1 << 18
_MAX_HEADER = 1 << 16  # bytes of a variable's flags, dimensions or name
_MAX_TEXT = 1 << 26  # bytes of a string, or of a character matrix


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all variables."""
    with path.open("rb") as handle:
        return {name: variable.shape for name, variable in _variables(handle).items()}


def check_size(path: Path, field: str) -> None:
    """Raise `ValueError` if the declared shape of a matrix does not match its stored bytes."""
    with path.open("rb") as handle:
        _matrix(handle, path, field)


def rows(path: Path, field: str) -> Iterator[tuple[int, np.ndarray]]:
    """The columns of a matrix as rows, in pieces, each with the number of its first row."""
    with path.open("rb") as handle:
        (length, count), content, dtype = _matrix(handle, path, field)
        step = max(1, CHUNK_BYTES // max(1, length * dtype.itemsize))
        for start in range(0, count, step):
            number = min(step, count - start)
            piece = np.frombuffer(content.take(number * length * dtype.itemsize), dtype)
            yield start, piece.reshape(number, length)


def _matrix(
    handle: BinaryIO, path: Path, field: str
) -> tuple[tuple[int, ...], "_Bytes", np.dtype[Any]]:
    """Shape, stored numbers and their type of a real matrix."""
    variable = _variables(handle)[field]
    if variable.kind == _SPARSE:
        raise sparse_error(path, field)
    if variable.kind not in _NUMBERS or variable.is_complex or len(variable.shape) != 2:
        raise DataError(f"{path}: {field}: expected a matrix of real numbers.")
    kind, content, _ = _element(variable.content, variable.order)
    dtype = np.dtype(variable.order + _NUMBER_TYPES[kind])
    if content.left != math.prod(variable.shape) * dtype.itemsize:
        raise ValueError(f"{field} declares shape {variable.shape}, but has {content.left} bytes")
    return variable.shape, content, dtype


def sparse_error(path: Path | str, field: str) -> DataError:
    """For a sparse matrix where a full one is needed."""
    return DataError(
        f"{path}: {field}: expected a full matrix, got a sparse one. Save full(x) in MATLAB, "
        "x.toarray() in SciPy."
    )


def strings(path: Path, field: str, only: Sequence[int] | None = None) -> Iterator[str]:
    """The strings of a cell array (cells `only`, if given), or the rows of a character matrix."""
    with path.open("rb") as handle:
        variable = _variables(handle)[field]
        if variable.kind == _CHARACTERS and len(variable.shape) == 2:
            text, (count, length) = _text(variable), variable.shape
            if len(text) != count * length or not text:
                raise ValueError(f"{field} declares shape {variable.shape}, but has {len(text)}")
            yield from (text[row::count].rstrip() for row in range(count))
            return
        if variable.kind != _CELL:
            raise DataError(f"{path}: {field}: expected a cell array of strings.")
        wanted = None if only is None else set(only)
        for number in range(math.prod(variable.shape)):
            kind, content, padding = _element(variable.content, variable.order)
            if wanted is None or number in wanted:
                cell = _variable(content, variable.order) if content.left else None
                if kind != _MATRIX or (cell is not None and cell.kind != _CHARACTERS):
                    raise DataError(f"{path}: {field}: cell {number + 1}: expected a string.")
                yield _text(cell) if cell is not None and math.prod(cell.shape) else ""
            content.skip()
            variable.content.take(min(padding, variable.content.left))


class _Bytes:
    """A byte stream of known length, read forward and never beyond its end."""

    def __init__(self, read: Callable[[int], bytes], length: int) -> None:
        self._read, self.left = read, length

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise ValueError(f"{count} bytes requested, {self.left} left")
        content = self._read(count)
        if len(content) != count:
            raise ValueError("truncated")
        self.left -= count
        return content

    def skip(self) -> None:
        """Read to the end, in pieces."""
        while self.left:
            self.take(min(self.left, _INFLATE_BYTES))


@dataclass(frozen=True)
class _Variable:
    name: str
    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    content: _Bytes  # what follows the name
    order: str  # "<" or ">"


def _variables(handle: BinaryIO) -> dict[str, _Variable]:
    """All variables by name. Their contents share `handle`: read only one at a time."""
    order = {b"IM": "<", b"MI": ">"}.get(handle.read(_HEADER_BYTES)[126:])
    if order is None:
        raise ValueError("no header of MATLAB 5 to 7.3")
    size = handle.seek(0, io.SEEK_END)
    found: dict[str, _Variable] = {}
    offset = _HEADER_BYTES
    while offset + 8 <= size:
        handle.seek(offset)
        kind, length = struct.unpack(order + "II", handle.read(8))
        if length > size - offset - 8:
            raise ValueError("truncated")
        variable = _variable(_contents(handle, offset, kind, length, order), order)
        found[variable.name] = variable
        offset += 8 + length
    return found


def _contents(handle: BinaryIO, offset: int, kind: int, length: int, order: str) -> _Bytes:
    """The content of a variable's element; each read seeks its own position in the file."""
    place = offset + 8

    def read(count: int) -> bytes:
        nonlocal place
        handle.seek(place)
        content = handle.read(count)
        place += len(content)
        return content

    if kind == _MATRIX:
        return _Bytes(read, length)
    if kind != _COMPRESSED:
        raise ValueError(f"element of type {kind} at byte {offset}")
    inflate = _inflater(_Bytes(read, length))
    kind, inflated = struct.unpack(order + "II", inflate(8))
    if kind != _MATRIX or inflated > length * MAX_EXPANSION:
        raise ValueError(f"{length} compressed bytes declare a size of {inflated}")
    return _Bytes(inflate, inflated)


def _inflater(packed: _Bytes) -> Callable[[int], bytes]:
    """`read(count)` of a zlib stream."""
    zipped = zlib.decompressobj()

    def read(count: int) -> bytes:
        pieces = []
        while count:
            wanted = min(_INFLATE_BYTES, packed.left)
            source = zipped.unconsumed_tail or packed.take(wanted)
            piece = zipped.decompress(source, count)
            if not (piece or source) or (zipped.eof and not piece):
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    return read


def _variable(content: _Bytes, order: str) -> _Variable:
    flags = struct.unpack_from(order + "I", _short(content, order))[0]
    if flags & 0xFF == _OPAQUE:  # MATLAB's own objects, such as tables, have no shape
        return _Variable(
            _short(content, order).decode("latin-1"), _OPAQUE, False, (), content, order
        )
    lengths = _short(content, order)
    shape = struct.unpack(f"{order}{len(lengths) // 4}i", lengths)
    name = _short(content, order).decode("latin-1")
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"{name} has shape {shape}")
    return _Variable(name, flags & 0xFF, bool(flags & _COMPLEX), shape, content, order)


def _element(source: _Bytes, order: str) -> tuple[int, _Bytes, int]:
    """Type and content of the next element, and the padding to skip after reading it."""
    tag = source.take(8)
    kind, length = struct.unpack(order + "II", tag)
    if kind >> 16:  # up to four bytes are stored in the tag itself
        kind, length = kind & 0xFFFF, kind >> 16
        return kind, _Bytes(io.BytesIO(tag[4:]).read, length), 0
    if length > source.left:
        raise ValueError(f"element of {length} bytes, {source.left} left")
    return kind, _Bytes(source.take, length), -length % 8


def _short(source: _Bytes, order: str) -> bytes:
    """The content of a short element; its padding is skipped."""
    _, content, padding = _element(source, order)
    if content.left > _MAX_HEADER:  # a few kilobytes of zlib may expand to megabytes
        raise ValueError(f"name or shape of {content.left} bytes")
    value = content.take(content.left)
    source.take(min(padding, source.left))
    return value


def _text(variable: _Variable) -> str:
    kind, content, padding = _element(variable.content, variable.order)
    if content.left > _MAX_TEXT:
        raise ValueError(f"string of {content.left} bytes")
    text = content.take(content.left)
    variable.content.take(min(padding, variable.content.left))
    wide = "utf-16-le" if variable.order == "<" else "utf-16-be"
    codecs = {1: "latin-1", 2: "latin-1", 4: wide, 16: "utf-8", 17: wide}
    return text.decode(codecs[kind])
