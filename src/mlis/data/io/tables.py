"""Your own data from tables: features with labels, and one line a class with its descriptor.

Features, one row an image:

- `.csv` or `.parquet`: a column of labels (`label` unless named otherwise); all other columns are
  features. In Parquet the features may also be one column of lists.
- `.npz`: arrays `features` (N, Dx) and `labels` (N,).
- In each of these, a column or array `split` may mark the rows `train`, `val` or `test`
  (:mod:`mlis.data.row_marks`).
- A folder that `mlis features images` wrote (:mod:`mlis.data.io.feature_folder`).
- `.npy`: (N, Dx), with the labels in a file of their own: `.npy`, or text with one label a line.

Classes, a `.csv` with a header: `name`, then perhaps `split` (`seen` or `unseen`), then one
column an attribute. Labels are these names; only where none of them is one, whole numbers are
lines of this table, counting from 0 (:mod:`mlis.data.labels`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.dataset import GZSLDataset, Provenance
from mlis.data.io.cache import file_sha256
from mlis.data.io.csv_file import read_csv, read_features_csv, row_numbers
from mlis.data.io.feature_folder import (
    RECORD,
    is_feature_folder,
    read_feature_folder,
    read_record,
)
from mlis.data.io.npy_file import load_npy, read_npz
from mlis.data.io.parquet import read_parquet
from mlis.data.labels import match_labels, normal, shorten
from mlis.data.missing import handle_missing
from mlis.data.row_marks import read_marks, split_by_marks
from mlis.errors import DataError

LABEL, NAME, SPLIT = "label", "name", "split"
COLUMNS = "mlis-columns"
"""Format of descriptors that are a table's columns as they stand, in `Provenance.sources`."""
TEST_FRACTION = 0.2


def load_tables(
    features_file: str | os.PathLike[str],
    classes_file: str | os.PathLike[str],
    *,
    labels_file: str | os.PathLike[str] | None = None,
    label_column: str = LABEL,
    missing: float | None = None,
    name: str | None = None,
    seed: int = 0,
    test_fraction: float | None = None,
) -> GZSLDataset:
    """A dataset of a features table and a classes table (see the module for their layout).

    Args:
        features_file: `.csv`, `.parquet`, `.npz` or `.npy`, or a folder of features; float32
            `.npy` and folders stay memory-mapped.
        classes_file: `.csv`.
        labels_file: the labels, for `.npy` features.
        label_column: name of the column of labels in `.csv` and `.parquet`.
        missing: number that stands for a missing value in the classes, such as -1; the mean of the
            other classes takes its place.
        name: of the dataset; the features file's name where absent.
        seed: of every split made here: held-out test rows, unseen classes where the classes
            table has no `split`, validation split.
        test_fraction: share of each seen class's rows held out for testing; 0.2 where absent. Not
            to be given where the rows are marked.

    Raises:
        DataError: with the file, the row or column, and for unknown class names the nearest one.
    """
    features_path, classes_path = Path(features_file), Path(classes_file)
    given_labels = None if labels_file is None else Path(labels_file)
    classes = read_classes(classes_path)
    by_row = not is_feature_folder(features_path)  # there the labels are names of folders
    features, labels, marks = read_rows(features_path, given_labels, label_column)
    labels_path = given_labels or features_path
    _check_lengths(features, features_path, labels, labels_path, marks)
    known = () if classes.unseen is None else classes.unseen.tolist()
    indices = match_labels(labels, classes.names, f"{labels_path}", rows=by_row, unseen=known)
    descriptors, notes = handle_missing(
        classes.descriptors, missing, f"{classes_path}", classes.names
    )
    split = None
    if marks is not None:
        what = f"{features_path}: {SPLIT}"
        if test_fraction is not None:
            raise DataError(f"{what} says which rows are for testing: leave out test_fraction.")
        words = read_marks(marks, what)
        split = split_by_marks(words, indices, classes.names, classes.unseen, what, seed=seed)
    data = GZSLDataset.from_indices(
        features,
        indices,
        descriptors,
        classes.names,
        unseen=classes.unseen,
        split=split,
        seed=seed,
        test_fraction=TEST_FRACTION if test_fraction is None else test_fraction,
        provenance=replace(
            _provenance(name, features_path, labels_path, classes_path, classes.columns, missing),
            notes=notes,
        ),
    )
    _check_trained(data, classes, features_path, classes_path)
    return data


def _check_lengths(
    features: np.ndarray,
    features_path: Path,
    labels: Sequence[Any] | np.ndarray,
    labels_path: Path,
    marks: Sequence[Any] | np.ndarray | None,
) -> None:
    for path, what, found in ((labels_path, "labels", labels), (features_path, "marks", marks)):
        if found is not None and len(found) != len(features):
            raise DataError(
                f"{path}: {len(found)} {what}, but {features_path} has {len(features)} rows. "
                f"Give one for each row."
            )


def _provenance(
    name: str | None,
    features: Path,
    labels: Path,
    classes: Path,
    columns: Sequence[str],
    missing: float | None,
) -> Provenance:
    sources: dict[str, Any] = {"descriptors": {"format": COLUMNS, "columns": [*columns]}}
    if missing is not None:
        sources["descriptors"]["missing"] = missing
    if is_feature_folder(features):
        sources["backbone"] = read_record(features)["backbone"]
    read = {path / RECORD if path.is_dir() else path for path in (features, labels)}
    return Provenance(
        name=name or features.stem,
        features=features.name,
        descriptors=classes.name,
        files={path.name: file_sha256(path) for path in sorted({classes, *read})},
        sources=sources,
    )


def _check_trained(data: GZSLDataset, classes: "Classes", features: Path, table: Path) -> None:
    """Refuse a class that is said to be seen and has no row to train on."""
    if classes.unseen is None:
        return
    untrained = np.setdiff1d(data.unseen_classes, classes.unseen)
    if untrained.size:
        raise DataError(
            f"{table}: class {classes.names[int(untrained[0])]!r} is seen, but no row of "
            f"{features} trains it. Give it rows, or say unseen."
        )


@dataclass(frozen=True, eq=False)
class Classes:
    """What a classes table says."""

    names: tuple[str, ...]  # C
    descriptors: np.ndarray  # (C, Da) float32
    unseen: np.ndarray | None  # (U,) int64 indices; None where the table does not say
    columns: tuple[str, ...]  # Da names


def read_classes(path: Path) -> Classes:
    """Read `classes.csv`. Raises `DataError` with line and column."""
    header, rows = read_csv(path)
    if NAME not in header:
        raise DataError(f"{path}: no column {NAME!r}; it has {shorten(header)}.")
    name_at = header.index(NAME)
    split_at = header.index(SPLIT) if SPLIT in header else None
    columns = [i for i in range(len(header)) if i not in (name_at, split_at)]
    if not columns:
        raise DataError(f"{path}: no attributes beside {shorten(header)}. Add one column each.")
    names: list[str] = []
    unseen: list[int] = []
    descriptors: list[np.ndarray] = []
    for line, row in rows:
        if split_at is not None:
            part = row[split_at].strip().casefold()
            if part not in ("seen", "unseen"):
                raise DataError(
                    f"{path}: line {line}, column {SPLIT!r}: expected seen or unseen, but got "
                    f"{row[split_at]!r}."
                )
            if part == "unseen":
                unseen.append(len(names))
        names.append(normal(row[name_at]))
        descriptors.append(row_numbers(path, line, header, row, columns))
    if not names:
        raise DataError(f"{path}: no classes below the header.")
    return Classes(
        tuple(names),
        np.stack(descriptors),
        None if split_at is None else np.array(unseen, dtype=np.int64),
        tuple(header[i] for i in columns),
    )


def read_rows(
    path: Path, labels_path: Path | None, label_column: str
) -> tuple[np.ndarray, Sequence[Any] | np.ndarray, Sequence[Any] | np.ndarray | None]:
    """Features (N, Dx), labels and marks (None where there are none) as they stand."""
    kind = path.suffix.casefold()
    if is_feature_folder(path) and labels_path is None:
        images = read_feature_folder(path)
        return images.features, list(images.classes), images.marks
    if kind not in (".npy", ".npz", ".csv", ".parquet"):
        raise DataError(f"{path}: expected a .npy, .npz, .csv or .parquet file.")
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if kind == ".npy":
        if labels_path is None:
            raise DataError(
                f"{path}: a .npy file has no labels. Name the file that has them (labels_file, "
                f"--labels)."
            )
        return load_npy(path), read_labels(labels_path), None
    if labels_path is not None:
        raise DataError(f"{path} holds the labels itself; {labels_path} is not needed.")
    if kind == ".npz":
        arrays = read_npz(path, optional=(SPLIT,))
        return arrays["features"], arrays["labels"], arrays.get(SPLIT)
    read = read_features_csv if kind == ".csv" else read_parquet
    return read(path, label_column, SPLIT)


def read_labels(path: Path) -> Sequence[Any] | np.ndarray:
    """Labels in a `.npy` file, or one a line in a text file."""
    if path.suffix.casefold() == ".npy":
        return load_npy(path)
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}.") from error
