"""CSV tables with a header, every fault named by line and column."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlis.data.labels import shorten
from mlis.errors import DataError


def read_features_csv(
    path: Path, label_column: str, split_column: str
) -> tuple[np.ndarray, list[str], list[str] | None]:
    """Features (N, Dx) float32, labels and, where there is such a column, the split, as text.

    All other columns are numbers. Raises `DataError` with line and column.
    """
    header, rows = read_csv(path)
    if label_column not in header:
        raise DataError(
            f"{path}: no column {label_column!r} with the labels; it has {shorten(header)}."
        )
    label_at = header.index(label_column)
    split_at = header.index(split_column) if split_column in header else label_at
    columns = [i for i in range(len(header)) if i not in (label_at, split_at)]
    labels: list[str] = []
    split: list[str] = []
    features: list[np.ndarray] = []
    for line, row in rows:
        labels.append(row[label_at].strip())
        split.append(row[split_at])
        features.append(row_numbers(path, line, header, row, columns))
    if not labels:
        raise DataError(f"{path}: no rows below the header.")
    return np.stack(features), labels, None if split_at == label_at else split


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header, and the rows with their line numbers; each row is as long as the header."""
    rows = _csv_rows(path)
    header = [cell.strip() for _, row in [next(rows, (0, []))] for cell in row]
    if not header:
        raise DataError(f"{path}: empty; expected a header line.")
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: the header has {count} columns {name!r}. Make names unique.")
    return header, _checked_rows(path, len(header), rows)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 that can be read: {error}.") from error


def _checked_rows(
    path: Path, length: int, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) != length:
            raise DataError(
                f"{path}: line {line} has {len(row)} cells, but the header has {length}."
            )
        yield line, row


def row_numbers(
    path: Path, line: int, header: list[str], row: list[str], columns: list[int]
) -> np.ndarray:
    """The cells `columns` of one line as float32."""
    try:
        values = np.array([float(row[column]) for column in columns])
    except ValueError:
        values = np.array([_number_or_nan(row[column]) for column in columns])
    bad = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max))
    if bad.size:
        column = columns[bad[0]]
        raise DataError(
            f"{path}: line {line}, column {header[column]!r}: expected a number, but got "
            f"{row[column]!r}."
        )
    return values.astype(np.float32)


def _number_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
