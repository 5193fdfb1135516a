"""Files with features of the same rows, joined by columns: several views of each picture."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mlis.compute.memory import resident_limit
from mlis.data.io.feature_rows import Rows, read_labelled_rows
from mlis.data.out_of_core.arrays import CHUNK_BYTES, as_float32
from mlis.data.out_of_core.spill import spill_array
from mlis.errors import DataError

AnyPath = str | os.PathLike[str]
Files = AnyPath | Sequence[AnyPath]
"""A file of features, or several with the same rows in the same order."""
_REMEDY = "Join only files of the same images in the same order."


def file_paths(files: Files) -> tuple[Path, ...]:
    """The paths of one or several files. Raises `DataError` if there is none, or one twice."""
    paths = tuple(map(Path, [files] if isinstance(files, str | os.PathLike) else files))
    if not paths:
        raise DataError("features: expected at least one file, got an empty list. Name a file.")
    for path, count in Counter(paths).items():
        if count > 1:
            raise DataError(f"{path}: expected different files of features, got it twice. Omit it.")
    return paths


def joined_name(names: Sequence[str]) -> str:
    """Name of the features of several files."""
    return " + ".join(names)


def distinct_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The name of each file; its whole path where another file has the same name."""
    counts = Counter(path.name for path in paths)
    return tuple(path.name if counts[path.name] == 1 else str(path) for path in paths)


def read_joined_rows(paths: Sequence[Path], labels_path: Path | None, label_column: str) -> Rows:
    """`read_labelled_rows` of one or several files; `labels_path` has the labels of those in .npy.

    Raises:
        DataError: names the file, and the row or column.
    """
    in_npy = [path.suffix.casefold() == ".npy" for path in paths]
    parts = [
        read_labelled_rows(path, labels_path if bare or not any(in_npy) else None, label_column)
        for path, bare in zip(paths, in_npy, strict=True)
    ]
    return join_rows(paths, parts)


def join_rows(paths: Sequence[Path], parts: Sequence[Rows]) -> Rows:
    """The rows of several files, with the features (N, D1 + D2 + …) of all of them, in order.

    Labels, marks and paths, where several files have them, must be the same. Of a path only the
    last component is compared: files made on different machines have different roots.

    Args:
        paths: of the files.
        parts: N rows of each.

    Raises:
        DataError: the rows differ; names two files and the first row that differs.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    labels, marks, names = (
        (paths[0], first.labels),
        (paths[0], first.marks),
        (paths[0], first.paths),
    )
    for path, part in zip(paths[1:], parts[1:], strict=True):
        if len(part.features) != len(first.features):
            raise DataError(
                f"{path}: expected {len(first.features)} rows, as in {paths[0]}, got "
                f"{len(part.features)}. {_REMEDY}"
            )
        labels = _same("label", labels, (path, part.labels))
        marks = _same("mark", marks, (path, part.marks))
        names = _same("image", names, (path, part.paths))
    features = [
        as_float32(part.features, f"{path}: features")
        for path, part in zip(paths, parts, strict=True)
    ]
    return Rows(join_columns(features), labels[1], marks[1], names[1])


def join_columns(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(N, D1 + D2 + …) float32 of (N, D1), (N, D2), …

    In memory up to `resident_limit`; if larger, memory-mapped from an unnamed temporary file.
    """
    shape = (len(parts[0]), sum(part.shape[1] for part in parts))
    step = max(1, CHUNK_BYTES // (4 * shape[1]))
    blocks = (
        np.concatenate([part[start : start + step] for part in parts], axis=1)
        for start in range(0, shape[0], step)
    )
    if 4 * shape[0] * shape[1] > resident_limit():
        return spill_array(blocks, shape)
    result = np.empty(shape, dtype=np.float32)
    for number, block in enumerate(blocks):
        result[number * step : number * step + len(block)] = block
    return result


Values = TypeVar("Values", bound=Sequence[Any] | np.ndarray | None)


def _same(what: str, known: tuple[Path, Values], other: tuple[Path, Values]) -> tuple[Path, Values]:
    """The first of two columns that exists. Raises `DataError` if both do and differ."""
    (path, values), (other_path, others) = known, other
    if others is None or not len(others):
        return known
    if values is None or not len(values):
        return other
    for row, pair in enumerate(zip(values, others, strict=False)):
        one, two = map(_last if what == "image" else str, pair)
        if one != two:
            raise DataError(
                f"{other_path}: row {row + 1} (counted from 1): expected the {what} {one!r}, as in "
                f"{path}, got {two!r}. {_REMEDY}"
            )
    return known


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
