"""From what people write as labels to class indices, with help where a name nearly fits."""

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from mlis.errors import DataError

_LONGEST = 60  # characters of a name that are looked at or shown


def index_labels(
    labels: Sequence[int | str] | np.ndarray, class_names: Sequence[str], what: str
) -> np.ndarray:
    """(N,) int64 class indices of labels given as indices 0..C-1 or as names.

    Raises `DataError`, beginning with `what`, that names the first bad row.
    """
    try:
        values = np.asarray(labels)
    except ValueError as error:
        raise DataError(f"{what} must be 1-d, one label a row: {error}") from error
    if values.ndim == 2 and 1 in values.shape:
        values = values.ravel()
    if values.ndim != 1:
        raise DataError(f"{what} must be 1-d, one label a row, but got shape {values.shape}.")
    if values.dtype == object and all(isinstance(v, int | np.integer) for v in values):
        values = values.astype(np.int64)
    if values.dtype.kind in "OUST":
        return _index_names(values.tolist(), class_names, what)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{what} must be class indices or class names, but got {values.dtype}.")
    bad = np.flatnonzero(values != np.floor(values))  # NaN is; infinities are caught below
    if bad.size:
        raise DataError(f"{what}: row {bad[0]} is {values[bad[0]]}, not a whole number.")
    bad = np.flatnonzero((values < 0) | (values >= len(class_names)))
    if bad.size:
        value, count = values[bad[0]], len(class_names)
        hint = " Labels seem to count from 1: subtract 1." if value == count else ""
        raise DataError(
            f"{what}: row {bad[0]} is {value:g}, but there are {count} classes (descriptors), so "
            f"labels go from 0 to {count - 1}.{hint}"
        )
    return values.astype(np.int64)


def class_indices(
    classes: Iterable[int | str] | np.ndarray, class_names: Sequence[str], what: str
) -> np.ndarray:
    """Sorted unique indices of classes given as indices or names; none given is allowed."""
    return np.unique(index_labels(list(classes), class_names, what))


def suggestion(name: str, class_names: Sequence[str]) -> str:
    """` Did you mean …?` for a name that nearly fits (case, underscores, a typing error)."""
    by_form = {plain(known): known for known in class_names}
    close = difflib.get_close_matches(plain(name[:_LONGEST]), by_form, n=1, cutoff=0.7)
    return f" Did you mean {by_form[close[0]]!r}?" if close else ""


def shorten(names: Sequence[str]) -> str:
    """The first few of many names, for a message; whatever bytes they are, it stays one line."""
    shown = [
        name if name.isprintable() and len(name) <= _LONGEST else ascii(name[:_LONGEST])
        for name in names[:12]
    ]
    return (", ".join(shown) + (", …" if len(names) > 12 else "")) or "none"


def plain(name: str) -> str:
    """A name without case, punctuation and white space."""
    return "".join(c for c in name.casefold() if c.isalnum())


def _index_names(values: list, class_names: Sequence[str], what: str) -> np.ndarray:
    index = {name: i for i, name in enumerate(class_names)}
    result = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        found = index.get(value) if isinstance(value, str) else None
        if found is None:
            hint = suggestion(value, class_names) if isinstance(value, str) else ""
            raise DataError(
                f"{what}: row {row} is {value!r}, which is none of the {len(index)} class "
                f"names.{hint} Give each label the name of a class that has a descriptor."
            )
        result[row] = found
    return result
