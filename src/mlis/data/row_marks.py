"""Splits given by marking each row as `train`, `val` or `test`.

Rows marked `train` or `val` are training rows. Rows marked `test` are `test_seen` or `test_unseen`
according to their class; all rows of unseen classes must be marked `test`. Classes whose training
rows are all `val` are the unseen classes of the validation split, like those of `val_loc` in the
benchmarks; if there are none, a random fifth of the training classes. The other `val` rows are its
held-out rows; if there are none, a random fifth of the rows.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlis.data.splits import HELD_OUT_FRACTION, Split, choose_unseen, hold_out
from mlis.errors import DataError

MARKS = ("train", "val", "test")


def read_marks(marks: Sequence[Any] | np.ndarray, what: str) -> np.ndarray:
    """(N,) text in `MARKS`; case and surrounding white space are ignored.

    Raises:
        DataError: begins with `what`; names the first invalid row and its value.
    """
    values = marks.tolist() if isinstance(marks, np.ndarray) else list(marks)
    words = [value.strip().casefold() if isinstance(value, str) else value for value in values]
    for row, word in enumerate(words):
        if word not in MARKS:
            raise DataError(f"{what}: row {row}: expected train, val or test, got {values[row]!r}.")
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
    """The split defined by the marks.

    Its validation part is empty if no row is `val`, or if fewer than two classes would remain to
    train on.

    Args:
        marks: (N,) of `MARKS`.
        labels: (N,) class indices.
        class_names: C names, for messages.
        unseen_classes: indices; default: the classes without training rows.
        what: first part of every message.
        seed: of the choices in the validation split that the marks leave open.

    Raises:
        DataError: a training row of an unseen class, a seen class with test rows only, or no
            training rows.
    """
    if "train" not in marks:
        raise DataError(f"{what}: expected rows marked train, got none. Mark the rows to train on.")
    trainval = np.flatnonzero(marks != "test")
    if unseen_classes is None:
        unseen_classes = np.setdiff1d(np.arange(len(class_names)), labels[trainval])
    unseen = np.isin(labels, unseen_classes)
    test = marks == "test"
    for bad, problem in (
        (~test & unseen, "is unseen: its rows must be test"),
        (
            test & ~unseen & ~np.isin(labels, labels[trainval]),
            "is seen, but has no row marked train",
        ),
    ):
        if bad.any():
            row = int(bad.argmax())
            name = class_names[int(labels[row])]
            raise DataError(
                f"{what}: row {row} is marked {str(marks[row])!r}, but its class {name!r} "
                f"{problem}."
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
