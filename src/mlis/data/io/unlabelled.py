"""Features alone, of images to be recognised, from any file that datasets are read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.csv_file import read_csv, row_numbers
from mlis.data.io.feature_folder import IMAGES, is_feature_folder, read_feature_folder, read_record
from mlis.data.io.folder import is_dataset_folder, load_folder, read_sources
from mlis.data.io.matlab import read_columns
from mlis.data.io.npy_file import load_npy, read_npz
from mlis.data.io.parquet import read_parquet
from mlis.data.io.tables import LABEL, SPLIT
from mlis.errors import DataError

KINDS = (".npy", ".npz", ".mat", ".csv", ".parquet")


def is_features(path: Path) -> bool:
    """Whether `path` is of a kind that features are read from, by its name or what is in it."""
    return path.suffix.casefold() in KINDS or is_dataset_folder(path) or is_feature_folder(path)


def backbone_of(path: Path) -> Mapping[str, Any]:
    """The image model of a folder's features, as `Identity.to_dict` says; empty if not known."""
    if is_dataset_folder(path):
        return read_sources(path).get("backbone") or {}
    return read_record(path)["backbone"] if is_feature_folder(path) else {}


@dataclass(frozen=True, eq=False)
class Rows:
    """Features to be recognised, and what is known of each row.

    Attributes:
        features: (N, Dx) real numbers; `.npy` and dataset folders stay memory-mapped.
        paths: N paths of the images; empty where they are not known.
        labels: N classes as they stand in the file; empty where they are not known.
    """

    features: np.ndarray
    paths: Sequence[str] = ()
    labels: Sequence[Any] = ()


def read_features(path: Path, label_column: str = LABEL) -> np.ndarray:
    """The features of `read_known_rows`."""
    return read_known_rows(path, label_column).features


def read_known_rows(path: Path, label_column: str = LABEL) -> Rows:
    """Rows of a file or folder, with their paths and labels where it has them.

    Args:
        path: `.npy`; `.npz` with `features`; `.mat` with `features` (Dx, N); `.csv` or `.parquet`
            with one column a feature; or a dataset folder or one of features, all rows of it.
        label_column: of `.csv` and `.parquet`, where it is there; it is no feature, nor is `split`.

    Raises:
        DataError: the file is missing, damaged, of another kind, or empty.
    """
    rows = _read(path, label_column)
    features = rows.features
    if features.ndim != 2 or features.dtype.kind not in "fiub" or not features.size:
        raise DataError(
            f"{path}: expected features of shape (images, numbers), but got {features.dtype} of "
            f"shape {features.shape}."
        )
    count = len(features)
    return Rows(
        features,
        rows.paths if len(rows.paths) == count else (),
        rows.labels if len(rows.labels) == count else (),
    )


def _read(path: Path, label_column: str) -> Rows:
    if is_dataset_folder(path):
        data = load_folder(path)
        return Rows(data.features, _paths_beside(path), [data.class_names[i] for i in data.labels])
    if is_feature_folder(path):
        images = read_feature_folder(path)
        return Rows(images.features, images.paths, images.classes if any(images.classes) else ())
    match path.suffix.casefold():
        case ".npy":
            return Rows(load_npy(path))
        case ".npz":
            arrays = read_npz(path, ("features",), optional=("labels",))
            labels = arrays.get("labels", np.empty(0))
            return Rows(arrays["features"], labels=labels.tolist() if labels.ndim == 1 else ())
        case ".mat":
            return Rows(read_columns(path, "features"))
        case ".csv":
            return _read_csv(path, label_column)
        case ".parquet":
            features, labels, _ = read_parquet(path, label_column, SPLIT, labelled=False)
            return Rows(features, labels=["" if one is None else one for one in labels])
    raise DataError(
        f"{path}: expected a .npy, .npz, .csv, .parquet or .mat file, or a dataset folder."
    )


def _paths_beside(folder: Path) -> Sequence[str]:
    """Paths of a dataset folder's images, where `images.csv` lies beside it."""
    if not (folder / IMAGES).exists():
        return ()
    header, rows = read_csv(folder / IMAGES)
    return [row[header.index("path")] for _, row in rows] if "path" in header else ()


def _read_csv(path: Path, label_column: str) -> Rows:
    header, rows = read_csv(path)
    columns = [i for i, name in enumerate(header) if name not in (label_column, SPLIT)]
    at = header.index(label_column) if label_column in header else None
    features: list[np.ndarray] = []
    labels: list[str] = []
    for line, row in rows:
        features.append(row_numbers(path, line, header, row, columns))
        labels += [] if at is None else [row[at].strip()]
    if not features:
        raise DataError(f"{path}: no rows below the header.")
    return Rows(np.stack(features), labels=labels)
