"""Features alone, of images to be recognised, from any file that datasets are read from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.csv_file import read_csv, row_numbers
from mlis.data.io.feature_folder import is_feature_folder, read_feature_folder, read_record
from mlis.data.io.folder import WORDS, load_folder, read_sources
from mlis.data.io.matlab import read_columns
from mlis.data.io.npy_file import load_npy, read_npz
from mlis.data.io.parquet import read_parquet
from mlis.data.io.tables import LABEL, SPLIT
from mlis.errors import DataError

KINDS = (".npy", ".npz", ".mat", ".csv", ".parquet")


def is_features(path: Path) -> bool:
    """Whether `path` is of a kind that features are read from, by its name or what is in it."""
    return path.suffix.casefold() in KINDS or (path / WORDS).exists() or is_feature_folder(path)


def backbone_of(path: Path) -> Mapping[str, Any]:
    """The image model of a folder's features, as `Identity.to_dict` says; empty if not known."""
    if (path / WORDS).exists():
        return read_sources(path).get("backbone") or {}
    return read_record(path)["backbone"] if is_feature_folder(path) else {}


def read_features(path: Path, label_column: str = LABEL) -> np.ndarray:
    """Features (N, Dx), real numbers; `.npy` and dataset folders stay memory-mapped.

    Args:
        path: `.npy`; `.npz` with `features`; `.mat` with `features` (Dx, N); `.csv` or `.parquet`
            with one column a feature; or a dataset folder or one of features, all rows of it.
        label_column: of `.csv` and `.parquet`: left out where it is there, as is `split`.

    Raises:
        DataError: the file is missing, damaged, of another kind, or empty.
    """
    features = _read(path, label_column)
    if features.ndim != 2 or features.dtype.kind not in "fiub" or not features.size:
        raise DataError(
            f"{path}: expected features of shape (images, numbers), but got {features.dtype} of "
            f"shape {features.shape}."
        )
    return features


def _read(path: Path, label_column: str) -> np.ndarray:
    if (path / WORDS).exists():
        return load_folder(path).features
    if is_feature_folder(path):
        return read_feature_folder(path).features
    match path.suffix.casefold():
        case ".npy":
            return load_npy(path)
        case ".npz":
            return read_npz(path, ("features",))["features"]
        case ".mat":
            return read_columns(path, "features")
        case ".csv":
            return _read_csv(path, label_column)
        case ".parquet":
            return read_parquet(path, label_column, SPLIT, labelled=False)[0]
    raise DataError(
        f"{path}: expected a .npy, .npz, .csv, .parquet or .mat file, or a dataset folder."
    )


def _read_csv(path: Path, label_column: str) -> np.ndarray:
    header, rows = read_csv(path)
    columns = [i for i, name in enumerate(header) if name not in (label_column, SPLIT)]
    features = [row_numbers(path, line, header, row, columns) for line, row in rows]
    if not features:
        raise DataError(f"{path}: no rows below the header.")
    return np.stack(features)
