"""Tables with a header: CSV, every fault named by line and column, and what all kinds share."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mlis.data.labels import normal, shorten
from mlis.errors import DataError

_LONGEST_HEADER = 1 << 20
_ENOUGH_ROWS = 10
"""Fewer numbers may be consecutive by chance."""
_NO_NAME = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__")
_NUMBER = re.compile(r"[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")  # 1500 to some, 1.5 to others


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
    result = np.stack(features)
    check_no_counter(path, [header[i] for i in columns], result)
    return result, labels, None if split_at == label_at else split


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header, and (line, cells) of each row, which are as many as in the header.

    Cells are separated by commas, in `.tsv` by tabs; where the header has no comma, by the
    semicolons of many spreadsheets, or tabs.

    Raises:
        DataError: the file is missing, not CSV in UTF-8 or empty, a column has no name, or a row
            has another number of cells; with the line.
    """
    rows = _csv_rows(path)
    header = [normal(cell) for _, row in [next(rows, (0, []))] for cell in row]
    check_header(path, header)
    return header, _checked_rows(path, len(header), rows)


def check_header(path: Path, header: Sequence[str]) -> None:
    """Raise `DataError` where a column has no name of its own."""
    if not header:
        raise DataError(f"{path}: empty; expected a header line.")
    for number, name in enumerate(header, 1):
        if _NO_NAME.fullmatch(name.strip()):
            shown = f" ({name!r})" if name.strip() else ""
            raise DataError(
                f"{path}: column {number} of {len(header)} has no name{shown}: expected one for "
                "each. Leave out the row index that pandas writes (index=False), or name the "
                "column."
            )
    if all(name and not math.isnan(parse_number(name)) for name in header) and any(
        parse_number(name) % 1 for name in header
    ):
        raise DataError(
            f"{path}: expected names of columns in the first line, but got numbers: "
            f"{shorten(header)}. Add a header."
        )
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: the header has {count} columns {name!r}. Make names unique.")


def check_no_counter(path: Path, names: Sequence[str], features: np.ndarray) -> None:
    """Raise `DataError` where a column of features (N, Dx) counts the rows.

    It says nothing of an image, and gives away its class where rows are sorted by class.
    """
    if len(features) < _ENOUGH_ROWS:
        return
    likely = np.flatnonzero((np.diff(features[:_ENOUGH_ROWS], axis=0) == 1).all(axis=0))
    for column in likely.tolist():
        if (np.diff(features[:, column]) == 1).all():
            raise DataError(
                f"{path}: column {names[column]!r} numbers the rows, from "
                f"{features[0, column]:g} to {features[-1, column]:g}: expected a feature. Leave "
                "it out."
            )


def parse_number(cell: str) -> float:
    """The number in a cell, NaN where it is none. A decimal comma is read where it can be no other.

    >>> parse_number("1.5"), parse_number("-1,5"), parse_number("1,500"), parse_number("1_000")
    (1.5, -1.5, nan, nan)
    """
    text = cell.strip()
    if not _NUMBER.fullmatch(text) or _THOUSANDS.fullmatch(text):
        return math.nan
    return float(text.replace(",", "."))


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            delimiter = _delimiter(path, handle.readline(_LONGEST_HEADER))
            handle.seek(0)
            reader = csv.reader(handle, strict=True, delimiter=delimiter)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 that can be read: {error}.") from error


def _delimiter(path: Path, header: str) -> str:
    if path.suffix.casefold() == ".tsv":
        return "\t"
    bare = re.sub(r'"[^"]*"', "", header)
    return next((mark for mark in ",;\t" if mark in bare), ",")


def _checked_rows(
    path: Path, length: int, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) != length:
            hint = " A comma inside a cell needs quotes around it." if len(row) > length else ""
            raise DataError(
                f"{path}: line {line} has {len(row)} cells, but the header has {length}.{hint}"
            )
        yield line, row


def row_numbers(
    path: Path, line: int, header: list[str], row: list[str], columns: list[int]
) -> np.ndarray:
    """The cells `columns` of one line as float32."""
    cells = [row[column] for column in columns]
    text = "".join(cells)
    try:  # float() is faster and reads more: 1_000, and digits of any script
        plain = text.isascii() and "_" not in text
        values = np.array([(float if plain else parse_number)(cell) for cell in cells])
    except ValueError:
        values = np.array([parse_number(cell) for cell in cells])
    bad = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max))
    if bad.size:
        column = columns[bad[0]]
        hint = " Write it as in 1234.5." if any(map(str.isnumeric, row[column])) else ""
        raise DataError(
            f"{path}: line {line}, column {header[column]!r}: expected a number, but got "
            f"{row[column]!r}.{hint}"
        )
    return values.astype(np.float32)
