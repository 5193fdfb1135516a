"""Descriptors of further classes as numbers: a table, or an array and a list of names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlis.data.io.csv_file import read_csv, row_numbers
from mlis.data.io.npy_file import load_npy
from mlis.data.io.tables import NAME, SPLIT
from mlis.data.labels import normal, shorten
from mlis.errors import DataError


def read_vectors(
    path: Path, *, names_file: Path | None = None, columns: Sequence[str] = ()
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names (n) and descriptors (n, Da) float32.

    Args:
        path: `.csv` with a column `name` and one a number; or `.npy` (n, Da).
        names_file: of `.npy`, text with one name a line.
        columns: names of the training's columns, in its order, where they are known; others in
            the table are left alone. Where absent, all columns are taken as they come.

    Raises:
        DataError: the file is of another kind or damaged, or a column is missing.
    """
    kind = path.suffix.casefold()
    if kind == ".npy":
        return _read_array(path, names_file)
    if kind != ".csv":
        raise DataError(f"{path}: expected a .csv table, or a .npy array and its names.")
    if names_file is not None:
        raise DataError(f"{path} holds the names itself; {names_file} is not needed.")
    header, rows = read_csv(path)
    missing = [name for name in (NAME, *columns) if name not in header]
    if missing:
        raise DataError(
            f"{path}: no columns {shorten(missing)}; it has {shorten(header)}. Give a class that "
            "is added the columns that those of the training had."
        )
    taken = list(columns) or [name for name in header if name not in (NAME, SPLIT)]
    if not taken:
        raise DataError(f"{path}: no numbers beside {shorten(header)}. Add one column each.")
    places, name_at = [header.index(name) for name in taken], header.index(NAME)
    names: list[str] = []
    vectors: list[np.ndarray] = []
    for line, row in rows:
        names.append(normal(row[name_at]))
        vectors.append(row_numbers(path, line, header, row, places))
    if not names:
        raise DataError(f"{path}: no classes below the header.")
    return tuple(names), np.stack(vectors)


def _read_array(path: Path, names_file: Path | None) -> tuple[tuple[str, ...], np.ndarray]:
    if names_file is None:
        raise DataError(f"{path}: an array has no names. Name the file that has them (--names).")
    vectors = np.array(load_npy(path))
    try:
        lines = names_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{names_file}: cannot be read: {error}.") from error
    names = tuple(normal(line) for line in lines if line.strip())
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise DataError(
            f"{path}: shape {vectors.shape}, but {names_file} names {len(names)} classes: give "
            "one row of numbers for each."
        )
    return names, vectors
