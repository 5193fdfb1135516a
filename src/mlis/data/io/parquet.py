"""Features and labels of a Parquet table; needs pyarrow, the extra `parquet`."""

from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.csv_file import check_header, check_no_counter
from mlis.data.io.reading import reading
from mlis.data.labels import shorten
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError


def read_parquet(
    path: Path, label_column: str, split_column: str, *, labelled: bool = True
) -> tuple[np.ndarray, list[Any], list[Any] | None]:
    """Features (N, Dx) float32, labels as they stand, and the split where there is such a column.

    The features are all other columns, or one column of lists. Unless `labelled`, the column of
    labels may be missing or have gaps. Raises `DataError`.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow, which is not installed: pip install 'mlis[parquet]'."
        ) from error
    with reading(path, "a Parquet file", "Write it again."):
        table = parquet.read_table(path, memory_map=True)
        check_header(path, table.column_names)
        columns = {name: table.column(name) for name in table.column_names}
        if labelled and label_column not in columns:
            raise DataError(
                f"{path}: no column {label_column!r} with the labels; it has "
                f"{shorten(list(columns))}."
            )
        labels = columns.pop(label_column).to_pylist() if label_column in columns else []
        if labelled and None in labels:
            raise DataError(f"{path}: row {labels.index(None)}, column {label_column!r} is empty.")
        split = columns.pop(split_column).to_pylist() if split_column in columns else None
        for name in (table.schema.pandas_metadata or {}).get("index_columns", ()):
            if isinstance(name, str) and name in columns:
                raise DataError(
                    f"{path}: column {name!r} is the row index of a data frame: expected a "
                    "feature. Leave it out (index=False)."
                )
        features = _parquet_features(path, columns, table.num_rows)
        if features.shape[1] == len(columns):
            check_no_counter(path, list(columns), features)
        return features, labels, split


def _parquet_features(path: Path, columns: dict[str, Any], rows: int) -> np.ndarray:
    """(N, Dx) float32 of columns of numbers, or of one column of lists of equal length."""
    from pyarrow import types

    if len(columns) == 1:
        ((name, column),) = columns.items()
        if types.is_list(column.type) or types.is_large_list(column.type):
            lists = column.combine_chunks()
            lengths = np.diff(lists.offsets.to_numpy())
            if lists.null_count or len(set(lengths.tolist())) != 1:
                raise DataError(f"{path}: column {name!r} must hold lists of one length.")
            values = lists.flatten().to_numpy(zero_copy_only=False).reshape(rows, -1)
            return as_float32(values, f"{path}: column {name!r}")
        if types.is_fixed_size_list(column.type):
            values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return as_float32(values.reshape(rows, -1), f"{path}: column {name!r}")
    features = np.empty((rows, len(columns)), dtype=np.float32)
    for i, (name, column) in enumerate(columns.items()):
        if not (types.is_integer(column.type) or types.is_floating(column.type)):
            raise DataError(f"{path}: column {name!r} must be numbers, but is {column.type}.")
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(f"{path}: row {row}, column {name!r} is empty.")
        features[:, i] = as_float32(column.to_numpy()[:, None], f"{path}: column {name!r}")[:, 0]
    return features
