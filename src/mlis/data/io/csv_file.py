"""CSV tables with a header; errors name line and column."""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.labels import normal, shorten
from mlis.errors import DataError
from mlis.escape import csv_cell
from mlis.storage.atomic import write_text

NAME, LABEL, SPLIT = "name", "label", "split"  # columns with a meaning
DISPLAY = "display_name"  # of classes: what people read in place of the name

_MAX_HEADER = 1 << 20
_UNNAMED = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__")
_NUMBER = re.compile(r"[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?")
_AMBIGUOUS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")  # "1,500" may be 1500 or 1.5


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header, and (line number, cells) of each row.

    Cells are separated by commas, in `.tsv` files by tabs; if the header contains no comma, by
    semicolons or tabs.

    Raises:
        DataError: the file is missing, empty or not CSV in UTF-8, a column has no name, or a row
            has a different number of cells than the header.
    """
    rows = _csv_rows(path)
    header = [normal(cell) for _, row in [next(rows, (0, []))] for cell in row]
    check_header(path, header)
    return header, _checked_rows(path, len(header), rows)


def check_header(path: Path, header: Sequence[str]) -> None:
    """Raise `DataError` unless each column has a name of its own."""
    if not header:
        raise DataError(f"{path}: expected a header line, got an empty file.")
    for number, name in enumerate(header, 1):
        if _UNNAMED.fullmatch(name.strip()):
            shown = f" ({name!r})" if name.strip() else ""
            raise DataError(
                f"{path}: column {number} of {len(header)} has no name{shown}: expected one for "
                "each. Omit the index that pandas writes (index=False), or name the column."
            )
    if all(name and not math.isnan(parse_number(name)) for name in header) and any(
        parse_number(name) % 1 for name in header
    ):
        raise DataError(
            f"{path}: expected column names in the first line, got numbers: {shorten(header)}. "
            "Add a header."
        )
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise DataError(
            f"{path}: the header has {count} columns {name!r}. Make column names unique."
        )


def parse_number(cell: str) -> float:
    """The number in a cell, or NaN. A decimal comma is accepted where it is unambiguous.

    >>> parse_number("1.5"), parse_number("-1,5"), parse_number("1,500"), parse_number("1_000")
    (1.5, -1.5, nan, nan)
    """
    text = cell.strip()
    if not _NUMBER.fullmatch(text) or _AMBIGUOUS.fullmatch(text):
        return math.nan
    return float(text.replace(",", "."))


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            delimiter = _delimiter(path, handle.readline(_MAX_HEADER))
            handle.seek(0)
            reader = csv.reader(handle, strict=True, delimiter=delimiter)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8: {error}.") from error


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
            hint = " Quote cells that contain a comma." if len(row) > length else ""
            raise DataError(
                f"{path}: line {line}: expected {length} cells, as in the header, got {len(row)}."
                f"{hint}"
            )
        yield line, row


def row_numbers(
    path: Path, line: int, header: list[str], row: list[str], columns: list[int]
) -> np.ndarray:
    """The cells `columns` of one line as float32. Raises `DataError` with line and column."""
    cells = [row[column] for column in columns]
    text = "".join(cells)
    try:  # float() is faster, but also accepts 1_000 and non-ASCII digits
        plain = text.isascii() and "_" not in text
        values = np.array([(float if plain else parse_number)(cell) for cell in cells])
    except ValueError:
        values = np.array([parse_number(cell) for cell in cells])
    bad = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max))
    if bad.size:
        column = columns[bad[0]]
        hint = " Write it like 1234.5." if any(map(str.isnumeric, row[column])) else ""
        raise DataError(
            f"{path}: line {line}, column {header[column]!r}: expected a number, got "
            f"{row[column]!r}.{hint}"
        )
    return values.astype(np.float32)


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A CSV file for spreadsheets; cells that would be formulas are escaped."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(map(csv_cell, row) for row in rows)
    return out.getvalue()


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write `csv_text` to a file atomically."""
    write_text(path, csv_text(header, rows))
