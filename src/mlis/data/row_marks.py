"""A split that the rows bring along: each is marked `train`, `val` or `test`.

Rows marked `train` or `val` are the training rows. Of the rows marked `test`, those of seen classes
are `test_seen` and those of unseen classes `test_unseen`; a row of an unseen class can be nothing
else. Classes whose training rows are all `val` are the unseen classes of the validation split, as
those of `val_loc` in the benchmarks; where there is none, a fifth of the training classes by seed.
The other `val` rows are its held-out rows; where there is none, a fifth of the rows by seed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlis.data.splits import HELD_OUT_FRACTION, Split, choose_unseen, hold_out
from mlis.errors import DataError

MARKS = ("train", "val", "test")


def read_marks(marks: Sequence[Any] | np.ndarray, what: str) -> np.ndarray:
    """(N,) text, each one of `MARKS`; upper case and white space around it are allowed.

    Raises `DataError`, beginning with `what`, that names the first bad row and its value.
    """
    values = marks.tolist() if isinstance(marks, np.ndarray) else list(marks)
    words = [value.strip().casefold() if isinstance(value, str) else value for value in values]
    for row, word in enumerate(words):
        if word not in MARKS:
            raise DataError(
                f"{what}: row {row} is {values[row]!r}, but expected train, val or test."
            )
    return np.array(words, dtype="<U5")


def split_by_marks(
    marks: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    unseen_classes: np.ndarray | None,
    what: str,
    *,
    seed: int = 0,
) -> Split:
    """The split that the marks ask for.

    Its validation part is empty where no row is `val`, or the marks leave fewer than two classes
    to train on while others are held out.

    Args:
        marks: (N,) of `MARKS`.
        labels: (N,) class indices.
        class_names: C names, for messages.
        unseen_classes: indices; where absent, the classes without training rows.
        what: the beginning of every message.
        seed: of what the marks leave open in the validation split.

    Raises:
        DataError: a training row of an unseen class, a seen class with test rows alone, or no
            training row at all.
    """
    if "train" not in marks:
        raise DataError(f"{what}: no row is train. Mark the rows to train on.")
    trainval = np.flatnonzero(marks != "test")
    if unseen_classes is None:
        unseen_classes = np.setdiff1d(np.arange(len(class_names)), labels[trainval])
    unseen = np.isin(labels, unseen_classes)
    test = marks == "test"
    for bad, problem in (
        (~test & unseen, "is unseen: its rows can only be test"),
        (test & ~unseen & ~np.isin(labels, labels[trainval]), "is seen, and no row of it is train"),
    ):
        if bad.any():
            row = int(bad.argmax())
            name = class_names[int(labels[row])]
            raise DataError(
                f"{what}: row {row} is {str(marks[row])!r}, but its class {name!r} {problem}."
            )
    split = Split(trainval, np.flatnonzero(test & ~unseen), np.flatnonzero(test & unseen))
    return _with_validation(split, marks, labels, seed) if (marks == "val").any() else split


def _with_validation(split: Split, marks: np.ndarray, labels: np.ndarray, seed: int) -> Split:
    rows = split.trainval
    trained = np.unique(labels[marks == "train"])
    unseen = np.setdiff1d(labels[marks == "val"], trained)
    if len(trained) < (2 if unseen.size else 3):
        return split
    rng = np.random.default_rng([seed, 2])
    if not unseen.size:
        unseen = choose_unseen(trained, rng)
    apart = np.isin(labels[rows], unseen)
    train = rows[~apart & (marks[rows] == "train")]
    val_seen = rows[~apart & (marks[rows] == "val")]
    if not val_seen.size:
        train, val_seen = hold_out(train, labels, HELD_OUT_FRACTION, rng)
    return replace(split, train=train, val_seen=val_seen, val_unseen=rows[apart])
