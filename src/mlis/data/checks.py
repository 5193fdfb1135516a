"""What every dataset must be. Each check has a name, shown by `mlis data info`.

Rows and columns in messages count from 0. A file is named where the provenance knows it.
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
    """Run all of `CHECKS` in order; the first that fails raises `DataError`."""
    for check in CHECKS.values():
        check(data)


def _fail(data: "GZSLDataset", field: str, problem: str, remedy: str) -> DataError:
    origin = data.provenance
    file = origin.features if field in ("features", "labels") else origin.descriptors
    if field != "descriptors":
        file = file.partition(":")[0]  # "att_splits.mat:att" names a variable too
    source = f"{origin.name} ({file})" if file else origin.name
    return DataError(f"{source}: {field}: {problem} {remedy}")


def _check_arrays(data: "GZSLDataset") -> None:
    for field, ndim, dtype in (
        ("features", 2, np.float32),
        ("labels", 1, np.int64),
        ("descriptors", 2, np.float32),
    ):
        array = getattr(data, field)
        if not isinstance(array, np.ndarray):
            problem = f"expected a numpy array, but got {type(array).__name__}."
        elif array.ndim != ndim or array.dtype != dtype or not array.flags.c_contiguous:
            problem = (
                f"expected a {ndim}-d {np.dtype(dtype)} array in C order, but got shape "
                f"{array.shape} of {array.dtype}."
            )
        elif 0 in array.shape:
            problem = f"is empty: shape {array.shape}."
        else:
            continue
        raise _fail(data, field, problem, "GZSLDataset.from_arrays converts what it can.")


def _check_lengths(data: "GZSLDataset") -> None:
    if len(data.features) != len(data.labels):
        swapped = data.features.shape[1] == len(data.labels)
        raise _fail(
            data,
            "features",
            f"{len(data.features)} rows, but there are {len(data.labels)} labels.",
            "Rows and columns are swapped: transpose the features."
            if swapped
            else "Give one label for each row of the features.",
        )
    if len(data.class_names) != data.num_classes:
        raise _fail(
            data,
            "class_names",
            f"{len(data.class_names)} names, but {data.num_classes} descriptors.",
            "Give each class one name and one descriptor, in the same order.",
        )


def _check_labels(data: "GZSLDataset") -> None:
    bad = np.flatnonzero((data.labels < 0) | (data.labels >= data.num_classes))
    if bad.size:
        raise _fail(
            data,
            "labels",
            f"row {bad[0]} is {data.labels[bad[0]]}, a class without a descriptor: there are "
            f"{data.num_classes}, numbered 0 to {data.num_classes - 1}.",
            "Add the class's descriptor, or correct the label (do labels count from 1?).",
        )


def _check_names(data: "GZSLDataset") -> None:
    for i, name in enumerate(data.class_names):
        if not isinstance(name, str) or not name.strip():
            raise _fail(data, "class_names", f"name {i} is {name!r}.", "Give a non-empty string.")
        check_unicode(name, f"{data.provenance.name}: class_names: name {i}")
    name, count = Counter(data.class_names).most_common(1)[0]
    if count > 1:
        rows = [i for i, other in enumerate(data.class_names) if other == name]
        raise _fail(
            data, "class_names", f"{name!r} names {count} classes: {rows}.", "Make names unique."
        )


def _check_features(data: "GZSLDataset") -> None:
    where = stored(data.features)
    if where is not None and where.file.finite:
        return  # seen when this very file was opened before
    first, all_equal = None, len(data.features) > 1
    for start, chunk in row_chunks(data.features):
        finite = np.isfinite(chunk)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise _fail(
                data,
                "features",
                f"row {start + row}, column {column} is {chunk[row, column]}.",
                "Remove the row or compute its features again (float16 overflows above 65504).",
            )
        first = chunk[0].copy() if first is None else first
        all_equal = all_equal and all(np.array_equal(first, row) for row in chunk)
    if all_equal:
        raise _fail(
            data,
            "features",
            f"all {len(data.features)} rows are equal.",
            "Compute the features again: these tell no image from another.",
        )


def _check_descriptors(data: "GZSLDataset") -> None:
    bad = find_not_finite(data.descriptors)
    if bad is not None:
        raise _fail(
            data,
            "descriptors",
            f"row {bad[0]} (class {data.class_names[bad[0]]!r}), column {bad[1]} is "
            f"{data.descriptors[bad]}.",
            "Fill it in.",
        )
    columns = data.descriptors.shape[1]
    for i, row in enumerate(data.descriptors):
        if not row.any() or (columns > 1 and (row == row[0]).all()):
            raise _fail(
                data,
                "descriptors",
                f"row {i} (class {data.class_names[i]!r}) is {row[0]:g} in all {columns} columns.",
                "A descriptor must say something: fill in this class's values.",
            )
    if data.num_classes > 1 and (data.descriptors == data.descriptors[0]).all():
        raise _fail(
            data,
            "descriptors",
            f"all {data.num_classes} rows are equal.",
            "Give values that tell the classes apart.",
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
            raise _fail(
                data,
                f"split.{name}",
                f"{taken.size} rows are in split.{other} too, row {taken[0]} first.",
                "Keep each row in one part only.",
            )
        owner[rows] = number


def _check_row_numbers(data: "GZSLDataset", name: str, rows: np.ndarray) -> None:
    if rows.size and (rows[0] < 0 or rows[-1] >= len(data.labels)):
        worst = rows[0] if rows[0] < 0 else rows[-1]
        raise _fail(
            data,
            f"split.{name}",
            f"row {worst} does not exist: rows go from 0 to {len(data.labels) - 1}.",
            "Correct the split (do its rows count from 1?).",
        )
    repeated = rows[1:][rows[1:] == rows[:-1]]
    if repeated.size:
        raise _fail(
            data, f"split.{name}", f"row {repeated[0]} is listed twice.", "List each row once."
        )


def _check_classes(data: "GZSLDataset") -> None:
    split = data.split
    if not split.trainval.size:
        raise _fail(data, "split.trainval", "no rows to train on.", "Give training rows.")
    both = np.intersect1d(data.labels[split.test_seen], data.labels[split.test_unseen])
    if both.size:
        raise _class_fault(
            data, "test_seen", both, "has test_unseen rows too: a class is seen or unseen, not both"
        )
    _check_training_rows(data, "trainval", "test_seen", "test_unseen")


def _check_training_rows(data: "GZSLDataset", train: str, seen: str, unseen: str) -> None:
    """No class of part `unseen` has rows in part `train`, and each class of part `seen` has."""
    trained, known, new = (
        np.unique(data.labels[getattr(data.split, name)]) for name in (train, seen, unseen)
    )
    leaked = np.intersect1d(trained, new)
    if leaked.size:
        raise _class_fault(
            data, unseen, leaked, f"is unseen, but has training rows in split.{train}"
        )
    missing = np.setdiff1d(known, trained)
    if missing.size:
        raise _class_fault(
            data, seen, missing, f"is seen, but has no training rows in split.{train}"
        )


def _class_fault(data: "GZSLDataset", part: str, classes: np.ndarray, problem: str) -> DataError:
    rows: np.ndarray = getattr(data.split, part)
    row = rows[data.labels[rows] == classes[0]][0]
    more = f" ({classes.size} such classes)" if classes.size > 1 else ""
    return _fail(
        data,
        f"split.{part}",
        f"row {row} is of class {data.class_names[classes[0]]!r}, which {problem}{more}.",
        "Move its rows to the right part, or correct the labels.",
    )


def _check_validation(data: "GZSLDataset") -> None:
    split = data.split
    parts = ("train", "val_seen", "val_unseen")
    for name in parts:
        rows = getattr(split, name)
        _check_row_numbers(data, name, rows)
        outside = np.setdiff1d(rows, split.trainval)
        if outside.size:
            raise _fail(
                data,
                f"split.{name}",
                f"{outside.size} rows are outside split.trainval, row {outside[0]} first.",
                "Validation uses training rows only.",
            )
    for name, other in (("val_seen", "train"), ("val_unseen", "train"), ("val_unseen", "val_seen")):
        common = np.intersect1d(getattr(split, name), getattr(split, other))
        if common.size:
            raise _fail(
                data, f"split.{name}", f"row {common[0]} is in split.{other} too.", "Keep one."
            )
    if not split.has_validation:
        if any(getattr(split, name).size for name in parts):
            raise _fail(
                data,
                "split.train",
                "a validation split needs both train and val_unseen rows.",
                "Give both, or none of train, val_seen and val_unseen.",
            )
        return
    _check_training_rows(data, "train", "val_seen", "val_unseen")


CHECKS: dict[str, Callable[["GZSLDataset"], None]] = {
    "arrays: types and shapes": _check_arrays,
    "lengths agree": _check_lengths,
    "labels within the classes, each class with a descriptor": _check_labels,
    "class names unique": _check_names,
    "features finite, not all equal": _check_features,
    "descriptors finite, none zero or constant": _check_descriptors,
    "split rows exist, listed once, parts disjoint": _check_rows,
    "classes seen or unseen; no unseen class with training rows": _check_classes,
    "validation split inside the training rows": _check_validation,
}
