"""Rows of features, with what a file says of each row, from any supported format.

`read_labelled_rows` is for training and evaluation: every row has a label. `read_rows` is for
prediction: labels and paths are optional.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.csv_file import LABEL, SPLIT, read_csv, row_numbers
from mlis.data.io.feature_folder import IMAGES, is_feature_folder, read_feature_folder, read_record
from mlis.data.io.folder import is_dataset_folder, load_folder, read_sources
from mlis.data.io.matlab import read_columns
from mlis.data.io.npy_file import load_npy, read_npz
from mlis.data.io.parquet import open_parquet, parquet_features
from mlis.data.io.reading import read_text, reading
from mlis.data.labels import shorten
from mlis.errors import DataError

KINDS = (".npy", ".npz", ".mat", ".csv", ".parquet")
_MIN_COUNTER_ROWS = 10
"""In fewer rows, consecutive numbers may be a coincidence."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Features of N rows.

    Attributes:
        features: (N, Dx) real numbers; those of `.npy` files and folders are memory-mapped.
        labels: N labels as stored in the file; empty if unknown.
        marks: N of train, val or test; None if rows are not marked.
        paths: N paths of images; empty if unknown.
    """

    features: np.ndarray
    labels: Sequence[Any] | np.ndarray = ()
    marks: Sequence[Any] | np.ndarray | None = None
    paths: Sequence[str] = ()


def is_features(path: Path) -> bool:
    """Whether `path` has a supported suffix, or is a dataset folder or feature folder."""
    return path.suffix.casefold() in KINDS or is_dataset_folder(path) or is_feature_folder(path)


def backbone_of(path: Path) -> Mapping[str, Any]:
    """`BackboneSpec.to_dict` of the backbone of a folder's features; empty if unknown."""
    if is_dataset_folder(path):
        return read_sources(path).get("backbone") or {}
    return read_record(path)["backbone"] if is_feature_folder(path) else {}


def read_labelled_rows(path: Path, labels_path: Path | None, label_column: str) -> Rows:
    """Features, labels and marks of a file or feature folder.

    Args:
        path: `.npz`, `.csv`, `.parquet`, a feature folder, or `.npy` with `labels_path`.
        labels_path: the labels of `.npy` features: `.npy`, or text with one label per line.
        label_column: column of the labels in `.csv` and `.parquet`.

    Raises:
        DataError: names the file, and the row or column.
    """
    kind = path.suffix.casefold()
    if is_feature_folder(path) and labels_path is None:
        images = read_feature_folder(path)
        return Rows(images.features, list(images.classes), images.marks, images.paths)
    if kind not in (".npy", ".npz", ".csv", ".parquet"):
        raise DataError(f"{path}: expected a .npy, .npz, .csv or .parquet file.")
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if kind == ".npy":
        if labels_path is None:
            raise DataError(
                f"{path}: a .npy file contains no labels. Give a file of labels (labels_file, "
                "--labels)."
            )
        return Rows(load_npy(path), _read_labels(labels_path))
    if labels_path is not None:
        raise DataError(f"{path} contains the labels. Omit {labels_path}.")
    if kind == ".npz":
        arrays = read_npz(path, optional=(SPLIT,))
        return Rows(arrays["features"], arrays["labels"], arrays.get(SPLIT))
    read = _read_csv if kind == ".csv" else _read_parquet
    return read(path, label_column, labelled=True)


def read_features(path: Path, label_column: str = LABEL) -> np.ndarray:
    """The features of `read_rows`."""
    return read_rows(path, label_column).features


def read_rows(path: Path, label_column: str = LABEL) -> Rows:
    """Features of a file or folder, with paths and labels if it contains them.

    Args:
        path: `.npy`; `.npz` with `features`; `.mat` with `features` (Dx, N); `.csv` or `.parquet`
            with one column per feature; a dataset folder or a feature folder (all rows).
        label_column: of `.csv` and `.parquet`, optional; like `split`, it is not a feature.

    Raises:
        DataError: the file is missing, damaged, of another kind, or empty.
    """
    rows = _read(path, label_column)
    features, count = rows.features, len(rows.features)
    if features.ndim != 2 or features.dtype.kind not in "fiub" or not features.size:
        raise DataError(
            f"{path}: expected features of shape (images, numbers), got {features.dtype} of shape "
            f"{features.shape}."
        )
    return Rows(
        features,
        rows.labels if len(rows.labels) == count else (),
        rows.marks,
        rows.paths if len(rows.paths) == count else (),
    )


def _read(path: Path, label_column: str) -> Rows:
    if is_dataset_folder(path):
        data = load_folder(path)
        labels = [data.class_names[i] for i in data.labels]
        return Rows(data.features, labels, paths=_image_paths(path))
    if is_feature_folder(path):
        images = read_feature_folder(path)
        labels = images.classes if any(images.classes) else ()
        return Rows(images.features, labels, paths=images.paths)
    match path.suffix.casefold():
        case ".npy":
            return Rows(load_npy(path))
        case ".npz":
            arrays = read_npz(path, ("features",), optional=("labels",))
            labels = arrays.get("labels", np.empty(0))
            return Rows(arrays["features"], labels.tolist() if labels.ndim == 1 else ())
        case ".mat":
            return Rows(read_columns(path, "features"))
        case ".csv":
            return _read_csv(path, label_column, labelled=False)
        case ".parquet":
            return _read_parquet(path, label_column, labelled=False)
    raise DataError(
        f"{path}: expected a .npy, .npz, .csv, .parquet or .mat file, or a dataset folder."
    )


def _image_paths(folder: Path) -> Sequence[str]:
    """Image paths in the `images.csv` of a dataset folder, if there is one."""
    if not (folder / IMAGES).exists():
        return ()
    header, rows = read_csv(folder / IMAGES)
    return [row[header.index("path")] for _, row in rows] if "path" in header else ()


def _read_labels(path: Path) -> Sequence[Any] | np.ndarray:
    if path.suffix.casefold() == ".npy":
        return load_npy(path)
    return read_text(path).rstrip().splitlines()


def _read_csv(path: Path, label_column: str, *, labelled: bool) -> Rows:
    header, rows = read_csv(path)
    if labelled:
        _check_label_column(path, label_column, header)
    special = {name: header.index(name) for name in (label_column, SPLIT) if name in header}
    columns = [i for i in range(len(header)) if i not in special.values()]
    cells: dict[str, list[str]] = {name: [] for name in special}
    features: list[np.ndarray] = []
    for line, row in rows:
        features.append(row_numbers(path, line, header, row, columns))
        for name, at in special.items():
            cells[name].append(row[at].strip() if name == label_column else row[at])
    if not features:
        raise DataError(f"{path}: no rows below the header.")
    result = np.stack(features)
    if labelled:
        _check_no_counter(path, [header[i] for i in columns], result)
    marks = cells.get(SPLIT) if label_column != SPLIT else None
    return Rows(result, cells.get(label_column, ()), marks)


def _read_parquet(path: Path, label_column: str, *, labelled: bool) -> Rows:
    table = open_parquet(path)
    with reading(path, "a Parquet file", "Write it again."):
        columns = {name: table.column(name) for name in table.column_names}
        if labelled:
            _check_label_column(path, label_column, list(columns))
        labels = columns.pop(label_column).to_pylist() if label_column in columns else []
        if labelled and None in labels:
            raise DataError(
                f"{path}: row {labels.index(None)}, column {label_column!r}: expected a label, got "
                "nothing."
            )
        marks = columns.pop(SPLIT).to_pylist() if SPLIT in columns else None
        for name in (table.schema.pandas_metadata or {}).get("index_columns", ()):
            if isinstance(name, str) and name in columns:
                raise DataError(
                    f"{path}: column {name!r}: expected a feature, got the index of a data frame. "
                    "Omit it (index=False)."
                )
        features = parquet_features(path, columns, table.num_rows)
        if features.shape[1] == len(columns):
            _check_no_counter(path, list(columns), features)
        return Rows(features, ["" if label is None else label for label in labels], marks)


def _check_label_column(path: Path, label_column: str, header: Sequence[str]) -> None:
    if label_column not in header:
        raise DataError(f"{path}: expected a column {label_column!r}, got {shorten(header)}.")


def _check_no_counter(path: Path, names: Sequence[str], features: np.ndarray) -> None:
    """Raise `DataError` if a column of features (N, Dx) numbers the rows.

    A row number is not a feature, and reveals the class if rows are sorted by class.
    """
    if len(features) < _MIN_COUNTER_ROWS:
        return
    likely = np.flatnonzero((np.diff(features[:_MIN_COUNTER_ROWS], axis=0) == 1).all(axis=0))
    for column in likely.tolist():
        if (np.diff(features[:, column]) == 1).all():
            raise DataError(
                f"{path}: column {names[column]!r}: expected a feature, got row numbers from "
                f"{features[0, column]:g} to {features[-1, column]:g}. Omit this column."
            )
