"""Tables of words: CSV, TSV and Parquet, as columns of text."""

import csv
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from mlis.data.io.reading import reading
from mlis.data.labels import shorten, suggestion
from mlis.errors import DataError

Columns = Mapping[str, tuple[str, ...]]


def read_table(path: Path) -> Columns:
    """Columns of a table by name, every cell as text without white space around it.

    Numbers of Parquet are written as Python writes them, and what is missing is empty.

    Raises `DataError` where the file is missing, damaged, of another kind, or has no rows.
    """
    kind = path.suffix.casefold()
    if kind not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"{path}: expected a .csv, .tsv or .parquet table.")
    columns = _read_parquet(path) if kind == ".parquet" else _read_text(path, kind)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path}: no rows below the header.")
    return columns


def find_column(path: Path, columns: Columns, name: str) -> tuple[str, ...]:
    """One column. Raises `DataError` that names those that are there."""
    if name not in columns:
        raise DataError(
            f"{path}: no column {name!r}; it has {shorten(list(columns))}."
            f"{suggestion(name, list(columns))}"
        )
    return columns[name]


def normal(name: str) -> str:
    """A name in Unicode's composed form: macOS spells é as e and an accent in file names."""
    return unicodedata.normalize("NFC", name.strip())


def _read_text(path: Path, kind: str) -> Columns:
    with (
        reading(path, f"a {kind[1:].upper()} table in UTF-8", "Save it again as UTF-8."),
        path.open(newline="", encoding="utf-8-sig") as handle,
    ):
        reader = csv.reader(handle, strict=True, delimiter="\t" if kind == ".tsv" else ",")
        lines = [(reader.line_num, row) for row in reader if row]
    if not lines:
        return {}
    header = [cell.strip() for cell in lines[0][1]]
    if len(set(header)) < len(header):
        raise DataError(f"{path}: the header names a column twice: {shorten(header)}.")
    for line, row in lines[1:]:
        if len(row) != len(header):
            hint = " A comma inside a cell needs quotes around it." if kind == ".csv" else ""
            raise DataError(
                f"{path}: line {line} has {len(row)} cells, but the header has {len(header)}.{hint}"
            )
    return {name: tuple(row[i].strip() for _, row in lines[1:]) for i, name in enumerate(header)}


def _read_parquet(path: Path) -> Columns:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow, which is not installed: pip install 'mlis[parquet]'."
        ) from error
    with reading(path, "a Parquet table", "Write it again."):
        table = parquet.read_table(path)
        return {
            name: tuple("" if v is None else str(v).strip() for v in table.column(name).to_pylist())
            for name in table.column_names
        }
