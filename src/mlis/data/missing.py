"""Missing values in descriptors, coded as a number such as -1."""

import logging
from collections.abc import Sequence

import numpy as np

from mlis.data.labels import shorten
from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)


def handle_missing(
    descriptors: np.ndarray, marker: float | None, what: str, class_names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Replace `marker` in (C, Da) descriptors by the mean of the other classes.

    A class is then neither similar nor dissimilar to others in an unknown value. Without a marker,
    a warning is logged if -1 may be one.

    Returns:
        (C, Da) float32, and notes for the provenance.

    Raises:
        DataError: all values of a class or column are missing.
    """
    if marker is None:
        warn_of_minus_one(descriptors, what, class_names)
        return descriptors, ()
    gaps = descriptors == np.float32(marker)
    if gaps.all(axis=1).any():
        name = class_names[int(gaps.all(axis=1).argmax())]
        raise DataError(f"{what}: all values of class {name!r} are missing. Fill in at least one.")
    if gaps.all(axis=0).any():
        column = int(gaps.all(axis=0).argmax())
        raise DataError(f"{what}: column {column} is missing for all classes. Omit it.")
    means = np.where(gaps, 0, descriptors).sum(axis=0) / (~gaps).sum(axis=0)
    note = (
        f"{int(gaps.sum())} of {gaps.size} descriptor values are missing ({marker:g}) and were "
        "replaced by the mean of the other classes"
    )
    return np.where(gaps, means, descriptors).astype(np.float32), (note,)


def warn_of_minus_one(descriptors: np.ndarray, what: str, class_names: Sequence[str]) -> None:
    """Log a warning if -1 is the only negative number in (C, Da) values (NaN if missing).

    Values of -1 and 1 only are taken for no and yes.
    """
    minus = descriptors == -1
    if not minus.any() or (descriptors[~minus] < 0).any() or (descriptors[~minus] == 1).all():
        return
    classes = [name for name, row in zip(class_names, minus, strict=False) if row.any()]
    logger.warning(
        "%s: -1 in %d values, of %s, is the only negative number and is read as a value. If it "
        "marks a missing value, use --missing -1, or replace it by the mean of the other classes.",
        *(what, int(minus.sum()), shorten(classes)),
    )
