"""The format of Xian et al. (xlsa17): a features file and a split file.

A features file (such as `res101.mat`) has `features` (Dx, N) and `labels` (N, 1), counted from 1.
A split file (`att_splits.mat`, `sent_splits.mat`) has the descriptors `att` (Da, C), optionally
`original_att` and `allclasses_names`, and the rows of each part, counted from 1: `trainval_loc`,
`test_seen_loc`, `test_unseen_loc`, and optionally `train_loc` and `val_loc`.

**Labels index the columns of `att`.** In the split file of CUB, `allclasses_names` is not in the
numbering of CUB ("002.Laysan_Albatross" is first): features computed from images must be matched
by class name, never by the number in the name.
"""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlis.data.dataset import GZSLDataset, Provenance
from mlis.data.io.cache import cached_arrays, file_sha256
from mlis.data.io.feature_rows import Rows
from mlis.data.io.image_folders import folder_mismatch, image_files, read_folders
from mlis.data.io.joined import Files, distinct_names, file_paths, join_rows, joined_name
from mlis.data.io.matlab import field_shapes, read_array, read_columns, read_strings
from mlis.data.labels import normal, shorten, warn_of_similar
from mlis.data.missing import handle_missing
from mlis.data.splits import Split, add_validation
from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)

_PARTS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")


def load_pair(
    features_file: Files,
    split_file: str | os.PathLike[str],
    *,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    descriptors: str = "att",
    missing: float | None = None,
    seed: int = 0,
    cache: bool = True,
) -> GZSLDataset:
    """Load a features file and a split file.

    Logs a warning, and adds a note to the provenance, if folder names of the images contradict
    the class names.

    Args:
        features_file: such as `res101.mat`; or several, whose columns are joined: same rows in the
            same order.
        split_file: such as `att_splits.mat`.
        name: of the dataset; defaults to the name of the (first) features file.
        class_names: used if the split file has no `allclasses_names`; default `class_001`, ….
        descriptors: `att` (unit length in most files) or `original_att`.
        missing: number that marks a missing value, such as -1 in `original_att` of AWA; replaced
            by the mean of the other classes.
        seed: of the rows held out for validation.
        cache: store the features in the user's cache folder, to be memory-mapped next time.

    Raises:
        DataError: a file is missing, damaged or not in the format, or the rows of two differ.
    """
    paths, split_path = file_paths(features_file), Path(split_file)
    features_path, names_of_files = paths[0], distinct_names(paths)
    arrays, hashes = _features_of(paths, cache)
    shapes = field_shapes(split_path)
    matrix = _read_descriptors(split_path, descriptors, arrays["labels"])
    rows = _read_rows(split_path, [part for part in shapes if part.endswith("_loc")], arrays)
    labels = _zero_based_labels(arrays["labels"], len(matrix), features_path, split_path)
    split, note = add_validation(
        Split(*(rows[part] for part in _PARTS)),
        labels,
        train_loc=rows.get("train_loc"),
        val_loc=rows.get("val_loc"),
        seed=seed,
    )
    names = _class_names(split_path, shapes, class_names, len(matrix))
    what = f"{split_path}: {descriptors}"
    matrix, filled = handle_missing(matrix, missing, what, names)
    notes = [note, *filled]
    named = class_names is not None or "allclasses_names" in shapes
    if named and (mismatch := folder_mismatch(arrays["folders"], names)):
        _warn_of_folders(mismatch, features_path, split_path, descriptors)
        notes.append(mismatch)
    provenance = Provenance(
        name=name or features_path.stem,
        features=joined_name(names_of_files),
        descriptors=f"{split_path.name}:{descriptors}",
        files=dict(zip(names_of_files, hashes, strict=True))
        | {split_path.name: file_sha256(split_path)},
        notes=tuple(notes),
    )
    return GZSLDataset(arrays["features"], labels, matrix, names, split, provenance)


def _warn_of_folders(mismatch: str, features: Path, split: Path, descriptors: str) -> None:
    advice = f"Labels index the columns of {descriptors} in {split}: match names, not numbers"
    logger.warning("%s: %s. %s.", features, mismatch, advice)


def _features_of(paths: Sequence[Path], cache: bool) -> tuple[dict[str, np.ndarray], list[str]]:
    """`_read_features` of all files, joined by columns, and their SHA-256."""
    fields = ("features", "labels", "folders")
    pairs = [
        cached_arrays(path, fields, _read_features)
        if cache
        else (_read_features(path), file_sha256(path))
        for path in paths
    ]
    found, hashes = [arrays for arrays, _ in pairs], [sha256 for _, sha256 in pairs]
    if len(paths) == 1:
        return found[0], hashes
    parts = [
        Rows(arrays["features"], arrays["labels"], paths=image_files(path, len(arrays["labels"])))
        for path, arrays in zip(paths, found, strict=True)
    ]
    joined = join_rows(paths, parts)
    folders = max((arrays["folders"] for arrays in found), key=len)  # some files have none
    return {"features": joined.features, "labels": found[0]["labels"], "folders": folders}, hashes


def _read_features(path: Path) -> dict[str, np.ndarray]:
    """`features` (N, Dx) float32, `labels` (N,) int64 counted from 1, and `folders`."""
    shapes = field_shapes(path)
    labels = _whole_numbers(path, "labels", shapes)
    if not labels.size:
        raise DataError(
            f"{path}: labels: expected at least one label, got none. Download the file again."
        )
    shape = shapes.get("features", ())
    if len(shape) == 2 and shape[1] != len(labels) == shape[0]:
        raise DataError(
            f"{path}: features: expected one column per image, (Dx, N), got one row per image: "
            f"{shape}. Transpose them."
        )
    if len(shape) == 2 and shape[1] != len(labels):
        raise DataError(
            f"{path}: features: expected {len(labels)} columns, one per label, got shape {shape}."
        )
    features = read_columns(path, "features")
    return {"features": features, "labels": labels, "folders": read_folders(path, labels)}


def _whole_numbers(path: Path, field: str, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """A (n, 1) or (1, n) field as (n,) int64."""
    values = read_array(path, field)
    if values.size and 1 not in values.shape:  # the shape of MATLAB's [] is (0, 0)
        raise DataError(f"{path}: {field}: expected shape (n, 1), got {shapes[field]}.")
    values = values.ravel()
    bad = np.flatnonzero(~((np.abs(values) < 2**53) & (values == np.floor(values))))
    if bad.size:
        raise DataError(
            f"{path}: {field}: entry {bad[0] + 1}: expected an integer, got {values[bad[0]]}."
        )
    return values.astype(np.int64)


def _read_descriptors(path: Path, field: str, labels: np.ndarray) -> np.ndarray:
    """(C, Da) float32."""
    shapes = field_shapes(path)
    if field not in shapes:
        choices = [known for known in ("att", "original_att") if known in shapes]
        known = shorten(choices or list(shapes))
        raise DataError(f"{path}: expected descriptors {field!r}, got {known}.")
    matrix = read_columns(path, field)
    used = np.unique(labels)
    if len(matrix) != len(used) == matrix.shape[1] == used[-1]:
        raise DataError(
            f"{path}: {field}: expected one column per class, (Da, C), got one row for each of the "
            f"{len(used)} classes: {shapes[field]}. Transpose it."
        )
    return matrix


def _read_rows(
    path: Path, parts: list[str], arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Row numbers of each part, counted from 0."""
    for part in _PARTS:
        if part not in parts:
            raise DataError(f"{path}: expected a field {part!r}, got {shorten(parts)}.")
    count = len(arrays["labels"])
    wanted = [part for part in (*_PARTS, "train_loc", "val_loc") if part in parts]
    shapes = field_shapes(path)
    rows = {part: _whole_numbers(path, part, shapes) for part in wanted}
    for part, numbers in rows.items():
        if numbers.size and numbers.min() < 1:
            at = int(numbers.argmin())
            raise DataError(
                f"{path}: {part}: entry {at + 1}: expected row numbers counted from 1, got "
                f"{numbers[at]}. Add 1 to every *_loc field."
            )
        if numbers.size and numbers.max() > count:
            at = int(numbers.argmax())
            raise DataError(
                f"{path}: {part}: entry {at + 1}: expected a row up to {count}, the number of "
                f"images, got {numbers[at]}. Use the features file that belongs to this split."
            )
    return {part: numbers - 1 for part, numbers in rows.items()}


def _zero_based_labels(
    labels: np.ndarray, classes: int, features_path: Path, split_path: Path
) -> np.ndarray:
    if labels.min() < 1:
        at = int(labels.argmin())
        raise DataError(
            f"{features_path}: labels: entry {at + 1}: expected labels counted from 1, got "
            f"{labels[at]}. Add 1 to all labels."
        )
    if labels.max() > classes:
        at = int(labels.argmax())
        raise DataError(
            f"{features_path}: labels: entry {at + 1}: expected a class up to {classes}, the "
            f"number of descriptors (columns) in {split_path}, got {labels[at]}. Use the files of "
            "one benchmark."
        )
    return np.asarray(labels) - 1


def _class_names(
    path: Path, shapes: dict[str, tuple[int, ...]], names: Sequence[str] | None, count: int
) -> tuple[str, ...]:
    shape = shapes.get("allclasses_names")
    if shape is not None:
        if count not in (
            math.prod(shape),
            *shape[:1],
        ):  # one cell or one row of characters per class
            raise DataError(
                f"{path}: allclasses_names: expected {count} names, one per descriptor (column), "
                f"got shape {shape}."
            )
        names = read_strings(path, "allclasses_names")
    elif names is None:
        names = tuple(f"class_{number:03d}" for number in range(1, count + 1))
    if len(names) != count:
        raise DataError(
            f"{path}: expected {count} class names, one per descriptor (column), got {len(names)}."
        )
    warn_of_similar(names, str(path))
    return tuple(normal(name) for name in names)
