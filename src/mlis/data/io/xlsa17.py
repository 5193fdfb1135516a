"""Files in the format of Xian et al. (xlsa17): a features file and a split file, of any size.

A features file (`res101.mat` or another name) has `features` (Dx, N) and `labels` (N, 1), which
count from 1. A split file (`att_splits.mat`, `sent_splits.mat`) has the descriptors `att`
(Da, C), perhaps `original_att` and `allclasses_names`, and the rows of each part, which count
from 1: `trainval_loc`, `test_seen_loc`, `test_unseen_loc`, perhaps `train_loc` and `val_loc`.

**Labels index the columns of `att`.** Names are for people to read: in CUB's split file
`allclasses_names` is not in CUB's own numbering ("002.Laysan_Albatross" is first), so whoever
computes features from the images must match classes by name, never by the number in the name.
"""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlis.data.dataset import GZSLDataset, Provenance
from mlis.data.io.cache import cached_arrays, file_sha256
from mlis.data.io.image_folders import folder_fault, read_folders
from mlis.data.io.matlab import field_shapes, read_array, read_columns, read_strings
from mlis.data.labels import normal, shorten, warn_of_similar
from mlis.data.missing import handle_missing
from mlis.data.splits import Split, add_validation
from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)

_PARTS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")


def load_pair(
    features_file: str | os.PathLike[str],
    split_file: str | os.PathLike[str],
    *,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    descriptors: str = "att",
    missing: float | None = None,
    seed: int = 0,
    cache: bool = True,
) -> GZSLDataset:
    """Read a features file and a split file.

    Args:
        features_file: `res101.mat` or another name.
        split_file: `att_splits.mat` or another name.
        name: of the dataset; the features file's name where absent.
        class_names: used where the split file has no `allclasses_names`; `class_001`, … if absent.
        descriptors: `att` (unit length in most files) or `original_att`.
        missing: number that stands for a missing value, -1 in AWA's `original_att`; the mean of
            the other classes takes its place.
        seed: of the rows held out for validation.
        cache: keep the features in the user's cache folder, memory-mapped the next time.

    Warns, in the log and the provenance, where the images' folders contradict the class names.

    Raises:
        DataError: a file is missing, damaged or not in the format.
    """
    features_path, split_path = Path(features_file), Path(split_file)
    arrays, sha256 = _features_of(features_path, cache)
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
    if named and (fault := folder_fault(arrays["folders"], names)):
        _warn_of_folders(fault, features_path, split_path, descriptors)
        notes.append(fault)
    provenance = Provenance(
        name=name or features_path.stem,
        features=features_path.name,
        descriptors=f"{split_path.name}:{descriptors}",
        files={features_path.name: sha256, split_path.name: file_sha256(split_path)},
        notes=tuple(notes),
    )
    return GZSLDataset(arrays["features"], labels, matrix, names, split, provenance)


def _warn_of_folders(fault: str, features: Path, split: Path, descriptors: str) -> None:
    advice = f"Labels number the columns of {descriptors} in {split}: match names, not numbers"
    logger.warning("%s: %s. %s.", features, fault, advice)


def _features_of(path: Path, cache: bool) -> tuple[dict[str, np.ndarray], str]:
    """What `_read_features` gives, perhaps from the cache folder, and the file's SHA-256."""
    if cache:
        return cached_arrays(path, ("features", "labels", "folders"), _read_features)
    return _read_features(path), file_sha256(path)


def _read_features(path: Path) -> dict[str, np.ndarray]:
    """`features` (N, Dx) float32, `labels` (N,) int64, still counting from 1, and `folders`."""
    shapes = field_shapes(path)
    labels = _whole_numbers(path, "labels", shapes)
    if not labels.size:
        raise DataError(f"{path}: labels is empty. Fetch the file again.")
    shape = shapes.get("features", ())
    if len(shape) == 2 and shape[1] != len(labels) == shape[0]:
        raise DataError(
            f"{path}: features are {shape}, one row an image, but the format has one column an "
            f"image: (Dx, N). Transpose them."
        )
    if len(shape) == 2 and shape[1] != len(labels):
        raise DataError(
            f"{path}: features are {shape}, so {shape[1]} images (columns), but there are "
            f"{len(labels)} labels."
        )
    features = read_columns(path, "features")
    return {"features": features, "labels": labels, "folders": read_folders(path, labels)}


def _whole_numbers(path: Path, field: str, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """A (n, 1) or (1, n) field as (n,) int64."""
    values = read_array(path, field)
    if values.size and 1 not in values.shape:  # MATLAB's [] is (0, 0)
        raise DataError(f"{path}: {field} must be (n, 1), but is {shapes[field]}.")
    values = values.ravel()
    bad = np.flatnonzero(~((np.abs(values) < 2**53) & (values == np.floor(values))))
    if bad.size:
        raise DataError(
            f"{path}: {field}: entry {bad[0] + 1} is {values[bad[0]]}, not a whole number."
        )
    return values.astype(np.int64)


def _read_descriptors(path: Path, field: str, labels: np.ndarray) -> np.ndarray:
    """(C, Da) float32."""
    shapes = field_shapes(path)
    if field not in shapes:
        choices = [known for known in ("att", "original_att") if known in shapes]
        known = shorten(choices or list(shapes))
        raise DataError(f"{path}: no descriptors {field!r}; it has {known}.")
    matrix = read_columns(path, field)
    used = np.unique(labels)
    if len(matrix) != len(used) == matrix.shape[1] == used[-1]:
        raise DataError(
            f"{path}: {field} is {shapes[field]}, one row for each of the {len(used)} classes, "
            f"but the format has one column a class: (Da, C). Transpose it."
        )
    return matrix


def _read_rows(
    path: Path, parts: list[str], arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Row numbers of each part, counting from 0."""
    for part in _PARTS:
        if part not in parts:
            raise DataError(f"{path}: no field {part!r}; it has {shorten(parts)}.")
    count = len(arrays["labels"])
    wanted = [part for part in (*_PARTS, "train_loc", "val_loc") if part in parts]
    shapes = field_shapes(path)
    rows = {part: _whole_numbers(path, part, shapes) for part in wanted}
    for part, numbers in rows.items():
        if numbers.size and numbers.min() < 1:
            at = int(numbers.argmin())
            raise DataError(
                f"{path}: {part}: entry {at + 1} is {numbers[at]}, but rows count from 1. These "
                f"seem to count from 0: add 1 to every *_loc field."
            )
        if numbers.size and numbers.max() > count:
            at = int(numbers.argmax())
            raise DataError(
                f"{path}: {part}: entry {at + 1} is row {numbers[at]}, but there are {count} "
                f"images. Use the features file that belongs to this split."
            )
    return {part: numbers - 1 for part, numbers in rows.items()}


def _zero_based_labels(
    labels: np.ndarray, classes: int, features_path: Path, split_path: Path
) -> np.ndarray:
    if labels.min() < 1:
        at = int(labels.argmin())
        raise DataError(
            f"{features_path}: labels: entry {at + 1} is {labels[at]}, but labels count from 1. "
            f"These seem to count from 0: add 1 to all."
        )
    if labels.max() > classes:
        at = int(labels.argmax())
        raise DataError(
            f"{features_path}: labels: entry {at + 1} is class {labels[at]}, but {split_path} has "
            f"descriptors of {classes} classes (columns). Use the files of one benchmark."
        )
    return np.asarray(labels) - 1


def _class_names(
    path: Path, shapes: dict[str, tuple[int, ...]], names: Sequence[str] | None, count: int
) -> tuple[str, ...]:
    shape = shapes.get("allclasses_names")
    if shape is not None:
        if count not in (math.prod(shape), *shape[:1]):  # a cell each, or a row of characters
            raise DataError(
                f"{path}: allclasses_names is {shape}, but there are descriptors of {count} "
                f"classes (columns)."
            )
        names = read_strings(path, "allclasses_names")
    elif names is None:
        names = tuple(f"class_{number:03d}" for number in range(1, count + 1))
    if len(names) != count:
        raise DataError(
            f"{path}: {len(names)} class names, but there are descriptors of {count} classes "
            f"(columns)."
        )
    warn_of_similar(names, str(path))
    return tuple(normal(name) for name in names)
