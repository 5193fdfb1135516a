"""Datasets from user tables: features with labels, and one line per class with its descriptor.

Features, one row per image:

- `.csv` or `.parquet`: a column of labels (default `label`); all other columns are features. In
  Parquet the features may also be one column of lists.
- `.npz`: arrays `features` (N, Dx) and `labels` (N,).
- In these formats, an optional column or array `split` marks rows as `train`, `val` or `test`
  (:mod:`mlis.data.row_marks`).
- A feature folder written by `mlis features images` (:mod:`mlis.data.io.feature_folder`).
- `.npy`: (N, Dx), with the labels in a separate file: `.npy`, or text with one label per line.

Classes: a `.csv` with a column `name`, optionally `split` (`seen` or `unseen`), and one column per
attribute. Labels are class names; if none of them is, integers are line numbers of this table,
counted from 0 (:mod:`mlis.data.labels`).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.dataset import DISPLAYED, GZSLDataset, Provenance
from mlis.data.io.cache import file_sha256
from mlis.data.io.classes_file import Classes, read_classes
from mlis.data.io.csv_file import LABEL, SPLIT
from mlis.data.io.feature_folder import RECORD, is_feature_folder, read_record
from mlis.data.io.feature_rows import Rows
from mlis.data.io.joined import Files, distinct_names, file_paths, joined_name, read_joined_rows
from mlis.data.labels import match_labels
from mlis.data.missing import handle_missing
from mlis.data.row_marks import read_marks, split_by_marks
from mlis.errors import DataError

COLUMNS = "mlis-columns"
"""Format in `Provenance.sources` of descriptors that are the unchanged columns of a table."""
TEST_FRACTION = 0.2


def load_tables(
    features_file: Files,
    classes_file: str | os.PathLike[str],
    *,
    labels_file: str | os.PathLike[str] | None = None,
    label_column: str = LABEL,
    missing: float | None = None,
    name: str | None = None,
    seed: int = 0,
    test_fraction: float | None = None,
) -> GZSLDataset:
    """Dataset from a table of features and a table of classes (see the module for the formats).

    Args:
        features_file: `.csv`, `.parquet`, `.npz` or `.npy`, or a feature folder; float32 `.npy`
            files and folders stay memory-mapped. Columns of several are joined: same rows in the
            same order.
        classes_file: `.csv`.
        labels_file: the labels of `.npy` features.
        label_column: name of the column of labels in `.csv` and `.parquet`.
        missing: number that marks a missing value in the classes table, such as -1; replaced by
            the mean of the other classes.
        name: of the dataset; defaults to the name of the (first) features file.
        seed: of all splits made here: test rows, unseen classes (if the classes table has no
            `split`), validation split.
        test_fraction: fraction of each seen class's rows held out for testing; default 0.2. Not
            allowed if the rows are marked.

    Raises:
        DataError: names the file, row and column; for an unknown class, also the closest name.
    """
    paths, classes_path = file_paths(features_file), Path(classes_file)
    features_path = paths[0]
    labels_path = features_path if labels_file is None else Path(labels_file)
    classes = read_classes(classes_path)
    by_row = not is_feature_folder(features_path)  # in a feature folder, labels are folder names
    rows = read_joined_rows(paths, None if labels_file is None else labels_path, label_column)
    _check_lengths(rows, features_path, labels_path)
    known = () if classes.unseen is None else classes.unseen.tolist()
    indices = match_labels(rows.labels, classes.names, f"{labels_path}", rows=by_row, unseen=known)
    descriptors, notes = handle_missing(
        classes.descriptors, missing, f"{classes_path}", classes.names
    )
    split = None
    if rows.marks is not None:
        what = f"{features_path}: {SPLIT}"
        if test_fraction is not None:
            raise DataError(f"{what} marks the test rows. Omit test_fraction.")
        marks = read_marks(rows.marks, what)
        split = split_by_marks(marks, indices, classes.names, classes.unseen, what, seed=seed)
    data = GZSLDataset.from_indices(
        rows.features,
        indices,
        descriptors,
        classes.names,
        unseen=classes.unseen,
        split=split,
        seed=seed,
        test_fraction=TEST_FRACTION if test_fraction is None else test_fraction,
        provenance=Provenance(
            name=name or features_path.stem,
            features=joined_name(distinct_names(paths)),
            descriptors=classes_path.name,
            files=_hashes((*paths, labels_path, classes_path)),
            notes=notes,
            sources=_sources(paths, classes, missing),
        ),
    )
    _check_trained(data, classes, features_path, classes_path)
    return data


def _check_lengths(rows: Rows, features: Path, labels: Path) -> None:
    for path, what, found in ((labels, "labels", rows.labels), (features, "marks", rows.marks)):
        if found is not None and len(found) != len(rows.features):
            raise DataError(
                f"{path}: expected {len(rows.features)} {what}, one per row of {features}, got "
                f"{len(found)}."
            )


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    files = sorted({path / RECORD if path.is_dir() else path for path in paths})
    return dict(zip(distinct_names(files), map(file_sha256, files), strict=True))


def _sources(features: Sequence[Path], classes: Classes, missing: float | None) -> dict[str, Any]:
    sources: dict[str, Any] = {"descriptors": {"format": COLUMNS, "columns": [*classes.columns]}}
    if classes.display:
        sources[DISPLAYED] = classes.display
    if missing is not None:
        sources["descriptors"]["missing"] = missing
    if len(features) == 1 and is_feature_folder(features[0]):  # of several, no one model gives all
        sources["backbone"] = read_record(features[0])["backbone"]
    return sources


def _check_trained(data: GZSLDataset, classes: Classes, features: Path, table: Path) -> None:
    """Raise `DataError` if a class marked as seen has no training row."""
    if classes.unseen is None:
        return
    untrained = np.setdiff1d(data.unseen_classes, classes.unseen)
    if untrained.size:
        raise DataError(
            f"{table}: class {classes.names[int(untrained[0])]!r} is marked as seen, but no row of "
            f"{features} trains it. Add rows, or mark it as unseen."
        )
