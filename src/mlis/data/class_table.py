"""Which classes there are, in what order, with which descriptors: the ways to tell an estimator.

A mapping or a data frame names its rows, an array needs its labels beside it, and an array alone
is read by position, which is only safe when labels are positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mlis.data.labels import suggestion
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError

HOW = (
    "Give a mapping {class label: vector}, or an array of shape (C, Da) with its C labels as "
    "classes=, or an array alone when y holds integers 0..C-1 that number its rows."
)


@dataclass(frozen=True, eq=False)
class ClassTable:
    """All C classes and the class of each training row.

    Attributes:
        classes: (C,) labels, sorted, seen and unseen.
        descriptors: (C, Da) float32 in that order.
        labels: (n,) int64, the rows' positions in `classes`.
    """

    classes: np.ndarray
    descriptors: np.ndarray
    labels: np.ndarray

    @property
    def unseen(self) -> np.ndarray:
        """Positions of the classes without rows."""
        return np.setdiff1d(np.arange(len(self.classes)), self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as text."""
        return tuple(map(str, self.classes.tolist()))


def class_table(
    y: np.ndarray,
    descriptors: Mapping[Any, ArrayLike] | ArrayLike | None = None,
    classes: ArrayLike | None = None,
) -> ClassTable:
    """Read the classes of labels `y` (n,) and their descriptors.

    Args:
        y: label of each training row.
        descriptors: None (the classes of `y`, one-hot), a mapping {label: vector}, a data frame
            whose index holds the labels, or (C, Da) numbers.
        classes: labels of the C rows of `descriptors` where it is an array.

    Raises:
        DataError: the two do not fit each other or `y`; the message names the class.

    >>> table = class_table(np.array(["b", "a"]), {"c": [0, 1], "b": [1, 0], "a": [1, 1]})
    >>> table.names, table.labels, table.unseen
    (('a', 'b', 'c'), array([1, 0]), array([2]))
    """
    if descriptors is None:
        if classes is not None:
            raise DataError(f"classes= names the rows of descriptors, but there are none. {HOW}")
        found, labels = np.unique(y, return_inverse=True)
        return ClassTable(found, np.eye(len(found), dtype=np.float32), labels.astype(np.int64))
    names, rows = _labelled_rows(descriptors, classes)
    if names is None:
        names = _positions(y, len(rows))
    order = np.argsort(names, kind="stable")
    names, rows = names[order], rows[order]
    repeated = np.flatnonzero(names[1:] == names[:-1])
    if repeated.size:
        raise DataError(
            f"class {_shown(names, repeated[0])} has more than one descriptor: keep one."
        )
    return ClassTable(names, rows, _find(y, names))


def _labelled_rows(descriptors: Any, classes: Any) -> tuple[np.ndarray | None, np.ndarray]:
    """The labels of the descriptors, None where they go by position, and their (C, Da) rows."""
    if isinstance(descriptors, Mapping):
        own, rows = list(descriptors), _stack(descriptors)
    elif hasattr(descriptors, "index") and hasattr(descriptors, "to_numpy"):
        own, rows = list(descriptors.index), descriptors.to_numpy()
    else:
        own, rows = None, _array(descriptors)
    if own is not None and classes is not None:
        raise DataError("descriptors name their classes already: leave classes= out.")
    rows = as_float32(rows, "descriptors")
    if not rows.size:
        raise DataError(f"descriptors are empty: shape {rows.shape}. {HOW}")
    given = own if own is not None else classes
    if given is None:
        return None, rows
    names = _label_array(given)
    if len(names) != len(rows):
        raise DataError(
            f"expected one label in classes= for each of the {len(rows)} descriptors, but got "
            f"{len(names)}."
        )
    return names, rows


def _stack(descriptors: Mapping[Any, ArrayLike]) -> np.ndarray:
    vectors = {label: np.asarray(vector) for label, vector in descriptors.items()}
    shapes = {vector.shape for vector in vectors.values()}
    for label, vector in vectors.items():
        if vector.ndim != 1:
            raise DataError(
                f"descriptors[{label!r}] must be a vector, but has shape {vector.shape}."
            )
    if len(shapes) > 1:
        first = next(iter(vectors))
        other = next(k for k, v in vectors.items() if v.shape != vectors[first].shape)
        raise DataError(
            f"descriptors must have one length, but that of {first!r} has {len(vectors[first])} "
            f"numbers and that of {other!r} {len(vectors[other])}."
        )
    return np.stack(list(vectors.values())) if vectors else np.empty((0, 0))


def _array(descriptors: Any) -> np.ndarray:
    try:
        return np.asarray(descriptors)
    except ValueError as error:
        raise DataError(f"descriptors are no (C, Da) array: {error}. {HOW}") from None


def _label_array(labels: Any) -> np.ndarray:
    """Labels as a 1-d array that can be sorted; a mixture of types is refused, not converted."""
    labels = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    kinds = sorted({_kind(label) for label in labels})
    if len(kinds) > 1:
        raise DataError(f"class labels must be of one type, but are of {' and '.join(kinds)}.")
    names = np.asarray(labels)
    if names.ndim != 1 or names.dtype.kind not in "iufbU":
        raise DataError(f"class labels must be strings or numbers, but are of {' '.join(kinds)}.")
    return names


def _kind(label: Any) -> str:
    if isinstance(label, str):
        return "str"
    if isinstance(label, int | float | np.number) and not isinstance(label, bool):
        return "number"
    return type(label).__name__


def _positions(y: np.ndarray, count: int) -> np.ndarray:
    if y.dtype.kind not in "iu":
        raise DataError(
            f"y holds {_shown(y, 0)}, not integers that could number the descriptors. {HOW}"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= count:
        hint = " Labels seem to count from 1." if low == 1 and high == count else ""
        raise DataError(
            f"y goes from {low} to {high}, but the {count} descriptors are numbered 0 to "
            f"{count - 1}.{hint} {HOW}"
        )
    return np.arange(count)


def _find(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(n,) position of each label in `classes`; an unknown one is an error that names its row."""
    known = {label: i for i, label in enumerate(classes.tolist())}
    labels, inverse = np.unique(y, return_inverse=True)
    for label in labels.tolist():
        if label not in known:
            row = int(np.flatnonzero(y == label)[0])
            hint = suggestion(label, list(known)) if _all_text(label, known) else ""
            raise DataError(
                f"y: row {row} is of class {label!r}, which has no descriptor (there are "
                f"{len(known)}, such as {_shown(classes, 0)}).{hint} Add its descriptor, or "
                "correct the label."
            )
    return np.array([known[label] for label in labels.tolist()], dtype=np.int64)[inverse]


def _all_text(label: Any, known: Mapping[Any, int]) -> bool:
    return isinstance(label, str) and all(isinstance(other, str) for other in known)


def _shown(labels: np.ndarray, position: int) -> str:
    """One label as its user wrote it: 'a', not np.str_('a')."""
    return repr(labels.tolist()[position])
