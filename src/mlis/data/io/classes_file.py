"""Class descriptors as numbers: `classes.csv`, or an array with a list of names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlis.data.io.csv_file import DISPLAY, NAME, SPLIT, read_csv, row_numbers
from mlis.data.io.npy_file import load_npy
from mlis.data.io.reading import read_text
from mlis.data.labels import normal, shorten
from mlis.errors import DataError


@dataclass(frozen=True, eq=False)
class Classes:
    """Content of a classes table."""

    names: tuple[str, ...]  # C
    descriptors: np.ndarray  # (C, Da) float32
    unseen: np.ndarray | None  # (U,) int64 indices; None without a column `split`
    columns: tuple[str, ...]  # Da names
    display: dict[str, str]  # name → display name, where the column `display_name` has one


def read_classes(path: Path) -> Classes:
    """Read `classes.csv`: `name`, optionally `split`, `display_name`; one column per attribute.

    Raises:
        DataError: names line and column.
    """
    header, rows = read_csv(path)
    if NAME not in header:
        raise DataError(f"{path}: expected a column {NAME!r}, got {shorten(header)}.")
    columns = [name for name in header if name not in (NAME, SPLIT, DISPLAY)]
    if not columns:
        raise DataError(f"{path}: expected attributes, got {shorten(header)}. Add a column each.")
    names, descriptors, parts, shown = _read(path, header, rows, columns)
    unseen = None if parts is None else np.flatnonzero(np.array(parts) == "unseen")
    return Classes(names, descriptors, unseen, tuple(columns), shown)


def read_class_vectors(
    path: Path, *, names_file: Path | None = None, columns: Sequence[str] = ()
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names (n) and descriptors (n, Da) float32 of classes to add to a model.

    Args:
        path: `.csv` with a column `name` and one per number; or `.npy` (n, Da).
        names_file: for `.npy`, a text file with one name per line.
        columns: columns of the training table, in their order; further columns are ignored.
            If empty, all columns are read in their order.

    Raises:
        DataError: the file is of another kind or damaged, or a column is missing.
    """
    kind = path.suffix.casefold()
    if kind == ".npy":
        return _read_array(path, names_file)
    if kind != ".csv":
        raise DataError(f"{path}: expected a .csv table, or a .npy array and a file of names.")
    if names_file is not None:
        raise DataError(f"{path} contains the names. Omit {names_file}.")
    header, rows = read_csv(path)
    missing = [name for name in (NAME, *columns) if name not in header]
    if missing:
        raise DataError(
            f"{path}: missing columns {shorten(missing)}, got {shorten(header)}. New classes need "
            "the columns of the training table."
        )
    special = (NAME, SPLIT, DISPLAY)
    chosen = list(columns) or [name for name in header if name not in special]
    if not chosen:
        raise DataError(f"{path}: expected numbers, got {shorten(header)}. Add a column each.")
    names, descriptors, *_ = _read(path, [h if h != SPLIT else "" for h in header], rows, chosen)
    return names, descriptors


def _read(
    path: Path,
    header: list[str],
    rows: Iterable[tuple[int, list[str]]],
    columns: Sequence[str],
) -> tuple[tuple[str, ...], np.ndarray, list[str] | None, dict[str, str]]:
    """Names, (C, Da) float32 of `columns`, parts of the column `split` or None, display names."""
    places, name_at = [header.index(name) for name in columns], header.index(NAME)
    names: list[str] = []
    vectors: list[np.ndarray] = []
    parts: list[str] | None = [] if SPLIT in header else None
    shown: dict[str, str] = {}
    for line, row in rows:
        if parts is not None:
            cell = row[header.index(SPLIT)]
            parts.append(cell.strip().casefold())
            if parts[-1] not in ("seen", "unseen"):
                raise DataError(
                    f"{path}: line {line}, column {SPLIT!r}: expected seen or unseen, got {cell!r}."
                )
        names.append(normal(row[name_at]))
        if DISPLAY in header and (display := normal(row[header.index(DISPLAY)])):
            shown[names[-1]] = display
        vectors.append(row_numbers(path, line, header, row, places))
    if not names:
        raise DataError(f"{path}: no classes below the header.")
    return tuple(names), np.stack(vectors), parts, shown


def _read_array(path: Path, names_file: Path | None) -> tuple[tuple[str, ...], np.ndarray]:
    if names_file is None:
        raise DataError(f"{path}: a .npy file contains no names. Give a file of names (--names).")
    vectors = np.array(load_npy(path))
    lines = read_text(names_file).splitlines()
    names = tuple(normal(line) for line in lines if line.strip())
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise DataError(
            f"{path}: expected one row for each of the {len(names)} names in {names_file}, got "
            f"shape {vectors.shape}."
        )
    return names, vectors
