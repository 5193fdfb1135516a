"""Parquet tables; pyarrow is the extra `parquet`."""

from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.csv_file import check_header
from mlis.data.io.reading import reading
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError


def open_parquet(path: Path) -> Any:
    """A memory-mapped `pyarrow.Table` with valid column names. Raises `DataError`."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow, which is not installed: pip install 'mlis[parquet]'."
        ) from error
    with reading(path, "a Parquet file", "Write it again."):
        table = parquet.read_table(path, memory_map=True)
    check_header(path, table.column_names)
    return table


def parquet_features(path: Path, columns: dict[str, Any], rows: int) -> np.ndarray:
    """(N, Dx) float32 of numeric columns, or of one column of lists of equal length."""
    from pyarrow import types

    if len(columns) == 1:
        ((name, column),) = columns.items()
        what = f"{path}: column {name!r}"
        if types.is_list(column.type) or types.is_large_list(column.type):
            lists = column.combine_chunks()
            lengths = np.diff(lists.offsets.to_numpy())
            if lists.null_count or len(set(lengths.tolist())) != 1:
                raise DataError(f"{what}: expected lists of equal length.")
            values = lists.flatten().to_numpy(zero_copy_only=False).reshape(rows, -1)
            return as_float32(values, what)
        if types.is_fixed_size_list(column.type):
            values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return as_float32(values.reshape(rows, -1), what)
    features = np.empty((rows, len(columns)), dtype=np.float32)
    for i, (name, column) in enumerate(columns.items()):
        what = f"{path}: column {name!r}"
        if not (types.is_integer(column.type) or types.is_floating(column.type)):
            raise DataError(f"{what}: expected numbers, got {column.type}.")
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(f"{path}: row {row}, column {name!r}: expected a number, got nothing.")
        features[:, i] = as_float32(column.to_numpy()[:, None], what)[:, 0]
    return features
