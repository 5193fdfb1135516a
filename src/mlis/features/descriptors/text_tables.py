"""Tables of words: CSV, TSV and Parquet, as columns of text."""

from collections.abc import Mapping
from pathlib import Path

from mlis.data.io.csv_file import check_header, read_csv
from mlis.data.io.reading import reading
from mlis.data.labels import normal, shorten, suggestion
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
    columns = _read_parquet(path) if kind == ".parquet" else _read_text(path)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path}: no rows below the header.")
    return columns


def find_column(path: Path, columns: Columns, name: str) -> tuple[str, ...]:
    """One column. Raises `DataError` that names those that are there."""
    name = normal(name)
    if name not in columns:
        raise DataError(
            f"{path}: no column {name!r}; it has {shorten(list(columns))}."
            f"{suggestion(name, list(columns))}"
        )
    return columns[name]


def _read_text(path: Path) -> Columns:
    header, rows = read_csv(path)
    cells = [[cell.strip() for cell in row] for _, row in rows]
    return {name: tuple(row[i] for row in cells) for i, name in enumerate(header)}


def _read_parquet(path: Path) -> Columns:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow, which is not installed: pip install 'mlis[parquet]'."
        ) from error
    with reading(path, "a Parquet table", "Write it again."):
        table = parquet.read_table(path)
        check_header(path, table.column_names)
        columns = {normal(name): table.column(name).to_pylist() for name in table.column_names}
        return {
            name: tuple("" if value is None else str(value).strip() for value in values)
            for name, values in columns.items()
        }
