"""Descriptors with a number that stands for a missing value, such as -1 in tables of attributes."""

import logging
from collections.abc import Sequence

import numpy as np

from mlis.data.labels import shorten
from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)


def handle_missing(
    descriptors: np.ndarray, marker: float | None, what: str, class_names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(C, Da) float32 with the mean of the other classes where the `marker` was, and a note.

    So a class is neither like nor unlike others by what is not known of it. Without a marker, a
    warning where -1 may be one.

    Raises:
        DataError: nothing is known of a class, or of a column.
    """
    if marker is None:
        warn_of_minus_one(descriptors, what, class_names)
        return descriptors, ()
    gaps = descriptors == np.float32(marker)
    if gaps.all(axis=1).any():
        name = class_names[int(gaps.all(axis=1).argmax())]
        raise DataError(f"{what}: all values of class {name!r} are missing: fill some in.")
    if gaps.all(axis=0).any():
        column = int(gaps.all(axis=0).argmax())
        raise DataError(f"{what}: column {column} is missing for all classes. Leave it out.")
    means = np.where(gaps, 0, descriptors).sum(axis=0) / (~gaps).sum(axis=0)
    note = (
        f"{int(gaps.sum())} of {gaps.size} descriptor values are missing ({marker:g}) and became "
        "the mean of the other classes"
    )
    return np.where(gaps, means, descriptors).astype(np.float32), (note,)


def warn_of_minus_one(descriptors: np.ndarray, what: str, class_names: Sequence[str]) -> None:
    """Log a warning where -1 is the only negative number of (C, Da) values, NaN where missing.

    Not where all are -1 or 1, which code no and yes.
    """
    minus = descriptors == -1
    if not minus.any() or (descriptors[~minus] < 0).any() or (descriptors[~minus] == 1).all():
        return
    classes = [name for name, row in zip(class_names, minus, strict=False) if row.any()]
    logger.warning(
        "%s: -1 in %d values, of %s, is the only negative number and is read as a value. If it "
        "stands for a missing one, say --missing -1, or put the other classes' mean there.",
        *(what, int(minus.sum()), shorten(classes)),
    )
