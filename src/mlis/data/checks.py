"""Requirements on datasets. Each check has a name, printed by `mlis data info`.

Rows and columns in messages are counted from 0. Messages name the file if the provenance does.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mlis.data.out_of_core.arrays import find_not_finite, row_chunks
from mlis.data.out_of_core.stored import stored
from mlis.errors import DataError
from mlis.storage.atomic import check_unicode

if TYPE_CHECKING:
    from mlis.data.dataset import GZSLDataset


def check_dataset(data: "GZSLDataset") -> None:
    """Run all `CHECKS` in order; the first that fails raises `DataError`."""
    for check in CHECKS.values():
        check(data)


def _error(data: "GZSLDataset", field: str, problem: str) -> DataError:
    origin = data.provenance
    file = origin.features if field in ("features", "labels") else origin.descriptors
    if field != "descriptors":
        file = file.partition(":")[0]  # "att_splits.mat:att" also names a variable
    source = f"{origin.name} ({file})" if file else origin.name
    return DataError(f"{source}: {field}: {problem}")


def _check_arrays(data: "GZSLDataset") -> None:
    expected = {
        "features": (2, np.float32),
        "labels": (1, np.int64),
        "descriptors": (2, np.float32),
    }
    for field, (ndim, dtype) in expected.items():
        array = getattr(data, field)
        if not isinstance(array, np.ndarray):
            found = type(array).__name__
        elif array.ndim != ndim or array.dtype != dtype or not array.flags.c_contiguous:
            found = f"shape {array.shape} of {array.dtype}"
        elif 0 in array.shape:
            found = f"an empty array of shape {array.shape}"
        else:
            continue
        problem = f"expected a {ndim}-d {np.dtype(dtype)} array in C order, got {found}."
        raise _error(data, field, f"{problem} Use GZSLDataset.from_arrays to convert arrays.")


def _check_lengths(data: "GZSLDataset") -> None:
    rows, labels = len(data.features), len(data.labels)
    if rows != labels:
        remedy = "Give one label for each row of the features."
        if data.features.shape[1] == labels:
            remedy = "Rows and columns are swapped: transpose the features."
        raise _error(
            data, "features", f"expected {labels} rows, one per label, got {rows}. {remedy}"
        )
    if len(data.class_names) != data.num_classes:
        raise _error(
            data,
            "class_names",
            f"expected {data.num_classes} names, one per descriptor, got {len(data.class_names)}. "
            "Give each class one name and one descriptor, in the same order.",
        )


def _check_regions(data: "GZSLDataset") -> None:
    regions, columns = data.provenance.regions, data.features.shape[1]
    if regions < 1 or columns % regions:
        raise _error(
            data,
            "features",
            f"expected columns of {regions} regions, as the provenance says, got {columns}, which "
            f"is not a multiple. Compute the features again, or correct `regions`.",
        )


def _check_labels(data: "GZSLDataset") -> None:
    bad = np.flatnonzero((data.labels < 0) | (data.labels >= data.num_classes))
    if bad.size:
        raise _error(
            data,
            "labels",
            f"row {bad[0]}: expected a class with a descriptor, 0 to {data.num_classes - 1}, got "
            f"{data.labels[bad[0]]}. Add its descriptor, or correct the label (are labels counted "
            "from 1?).",
        )


def _check_names(data: "GZSLDataset") -> None:
    for i, name in enumerate(data.class_names):
        if not isinstance(name, str) or not name.strip():
            raise _error(
                data, "class_names", f"name {i}: expected a non-empty string, got {name!r}."
            )
        check_unicode(name, f"{data.provenance.name}: class_names: name {i}")
    name, count = Counter(data.class_names).most_common(1)[0]
    if count > 1:
        rows = [i for i, other in enumerate(data.class_names) if other == name]
        raise _error(
            data, "class_names", f"{name!r} names {count} classes: {rows}. Make names unique."
        )


def _check_features(data: "GZSLDataset") -> None:
    where = stored(data.features)
    if where is not None and where.file.finite:
        return  # verified when this file was opened before
    first, all_equal = None, len(data.features) > 1
    for start, chunk in row_chunks(data.features):
        finite = np.isfinite(chunk)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise _error(
                data,
                "features",
                f"row {start + row}, column {column}: expected a finite number, got "
                f"{chunk[row, column]}. Remove the row or compute its features again (float16 "
                "overflows above 65504).",
            )
        first = chunk[0].copy() if first is None else first
        all_equal = all_equal and all(np.array_equal(first, row) for row in chunk)
    if all_equal:
        raise _error(
            data,
            "features",
            f"all {len(data.features)} rows are equal. Compute the features again: these do not "
            "distinguish images.",
        )


def _check_descriptors(data: "GZSLDataset") -> None:
    matrix = data.descriptors
    bad = find_not_finite(matrix)
    if bad is not None:
        row, column = bad
        raise _error(
            data,
            "descriptors",
            f"row {row} (class {data.class_names[row]!r}), column {column}: expected a finite "
            f"number, got {matrix[bad]}. Fill in the value.",
        )
    columns = matrix.shape[1]
    for i, row in enumerate(matrix):
        if not row.any() or (columns > 1 and (row == row[0]).all()):
            raise _error(
                data,
                "descriptors",
                f"row {i} (class {data.class_names[i]!r}): expected values that differ, got "
                f"{row[0]:g} in all {columns} columns. Fill in the values of this class.",
            )
    if data.num_classes > 1 and (matrix == matrix[0]).all():
        raise _error(
            data,
            "descriptors",
            f"all {data.num_classes} rows are equal. Give values that distinguish the classes.",
        )


def _check_rows(data: "GZSLDataset") -> None:
    names = ("trainval", "test_seen", "test_unseen")
    owner = np.zeros(len(data.labels), dtype=np.int8)
    for number, name in enumerate(names, 1):
        rows = getattr(data.split, name)
        _check_row_numbers(data, name, rows)
        taken = rows[owner[rows] != 0]
        if taken.size:
            other = names[owner[taken[0]] - 1]
            raise _error(
                data,
                f"split.{name}",
                f"{taken.size} rows are also in split.{other}, the first is row {taken[0]}. Keep "
                "each row in one part only.",
            )
        owner[rows] = number


def _check_row_numbers(data: "GZSLDataset", name: str, rows: np.ndarray) -> None:
    last = len(data.labels) - 1
    if rows.size and (rows[0] < 0 or rows[-1] > last):
        worst = rows[0] if rows[0] < 0 else rows[-1]
        raise _error(
            data,
            f"split.{name}",
            f"expected rows from 0 to {last}, got {worst}. Correct the split (are its rows counted "
            "from 1?).",
        )
    repeated = rows[1:][rows[1:] == rows[:-1]]
    if repeated.size:
        raise _error(
            data, f"split.{name}", f"row {repeated[0]} is listed twice. List each row once."
        )


def _check_classes(data: "GZSLDataset") -> None:
    split = data.split
    if not split.trainval.size:
        raise _error(data, "split.trainval", "expected rows to train on, got none.")
    both = np.intersect1d(data.labels[split.test_seen], data.labels[split.test_unseen])
    if both.size:
        raise _class_error(
            data, "test_seen", both, "also has test_unseen rows: a class is seen or unseen"
        )
    _check_training_rows(data, "trainval", "test_seen", "test_unseen")


def _check_training_rows(data: "GZSLDataset", train: str, seen: str, unseen: str) -> None:
    """Classes in part `seen` have rows in part `train`, classes in part `unseen` have none."""
    trained, known, new = (
        np.unique(data.labels[getattr(data.split, name)]) for name in (train, seen, unseen)
    )
    if (leaked := np.intersect1d(trained, new)).size:
        raise _class_error(data, unseen, leaked, f"is unseen, but has rows in split.{train}")
    if (missing := np.setdiff1d(known, trained)).size:
        raise _class_error(data, seen, missing, f"is seen, but has no rows in split.{train}")


def _class_error(data: "GZSLDataset", part: str, classes: np.ndarray, problem: str) -> DataError:
    rows: np.ndarray = getattr(data.split, part)
    row = rows[data.labels[rows] == classes[0]][0]
    more = f" ({classes.size} such classes)" if classes.size > 1 else ""
    return _error(
        data,
        f"split.{part}",
        f"row {row} is of class {data.class_names[classes[0]]!r}, which {problem}{more}. Move its "
        "rows to the right part, or correct the labels.",
    )


def _check_validation(data: "GZSLDataset") -> None:
    split = data.split
    parts = ("train", "val_seen", "val_unseen")
    for name in parts:
        rows = getattr(split, name)
        _check_row_numbers(data, name, rows)
        outside = np.setdiff1d(rows, split.trainval)
        if outside.size:
            raise _error(
                data,
                f"split.{name}",
                f"expected rows of split.trainval, got {outside.size} others, the first is row "
                f"{outside[0]}. Validation uses training rows only.",
            )
    for name, other in (("val_seen", "train"), ("val_unseen", "train"), ("val_unseen", "val_seen")):
        common = np.intersect1d(getattr(split, name), getattr(split, other))
        if common.size:
            problem = f"row {common[0]} is also in split.{other}. Keep each row in one part only."
            raise _error(data, f"split.{name}", problem)
    if split.has_validation:
        _check_training_rows(data, "train", "val_seen", "val_unseen")
    elif any(getattr(split, name).size for name in parts):
        raise _error(
            data,
            "split.train",
            "a validation split needs both train and val_unseen rows. Give both, or none of train, "
            "val_seen and val_unseen.",
        )


CHECKS: dict[str, Callable[["GZSLDataset"], None]] = {
    "arrays: types and shapes": _check_arrays,
    "lengths agree": _check_lengths,
    "labels within the classes, each class with a descriptor": _check_labels,
    "class names unique": _check_names,
    "columns are those of the regions": _check_regions,
    "features finite, not all equal": _check_features,
    "descriptors finite, none zero or constant": _check_descriptors,
    "split rows exist, listed once, parts disjoint": _check_rows,
    "classes seen or unseen; no unseen class with training rows": _check_classes,
    "validation split inside the training rows": _check_validation,
}
