"""CSV, TSV and Parquet tables as columns of text."""

from collections.abc import Mapping
from pathlib import Path

from mlis.data.io.csv_file import read_csv
from mlis.data.io.parquet import open_parquet
from mlis.data.io.reading import reading
from mlis.data.labels import normal, shorten, suggestion
from mlis.errors import DataError

Columns = Mapping[str, tuple[str, ...]]


def read_table(path: Path) -> Columns:
    """Columns of a table by name; cells are stripped text.

    Numbers of Parquet tables are formatted by `str`; null becomes the empty string.

    Raises:
        DataError: the file is missing, damaged, of another kind, or has no rows.
    """
    kind = path.suffix.casefold()
    if kind not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"{path}: expected a .csv, .tsv or .parquet table.")
    columns = _parquet_columns(path) if kind == ".parquet" else _csv_columns(path)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path}: no rows below the header.")
    return columns


def find_column(path: Path, columns: Columns, name: str) -> tuple[str, ...]:
    """One column. Raises `DataError` that lists the available ones."""
    name = normal(name)
    if name not in columns:
        raise DataError(
            f"{path}: expected a column {name!r}, got {shorten(list(columns))}."
            f"{suggestion(name, list(columns))}"
        )
    return columns[name]


def _csv_columns(path: Path) -> Columns:
    header, rows = read_csv(path)
    cells = [[cell.strip() for cell in row] for _, row in rows]
    return {name: tuple(row[i] for row in cells) for i, name in enumerate(header)}


def _parquet_columns(path: Path) -> Columns:
    table = open_parquet(path)
    with reading(path, "a Parquet table", "Write it again."):
        return {
            normal(name): tuple(
                "" if value is None else str(value).strip()
                for value in table.column(name).to_pylist()
            )
            for name in table.column_names
        }
