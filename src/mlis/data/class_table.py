"""Classes and descriptors of an estimator, in the forms that `fit` accepts.

A mapping or data frame names its rows; an array is given with its labels, or alone if `y` holds row
numbers. Labels are matched by the rules of :mod:`mlis.data.labels`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mlis.data.labels import label_text, match_labels
from mlis.data.missing import warn_of_minus_one
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError

HOW = (
    "Give a mapping {class label: vector}, or an array of shape (C, Da) with its C labels as "
    "classes=, or an array alone if y holds row numbers 0..C-1."
)


@dataclass(frozen=True, eq=False)
class ClassTable:
    """All C classes and the class of each training row.

    Attributes:
        classes: (C,) sorted labels, seen and unseen.
        descriptors: (C, Da) float32 in this order.
        labels: (n,) int64, indices into `classes`.
    """

    classes: np.ndarray
    descriptors: np.ndarray
    labels: np.ndarray

    @property
    def unseen(self) -> np.ndarray:
        """Indices of the classes without rows."""
        return np.setdiff1d(np.arange(len(self.classes)), self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as text."""
        return tuple(map(label_text, self.classes.tolist()))


def class_table(
    y: np.ndarray,
    descriptors: Mapping[Any, ArrayLike] | ArrayLike | None = None,
    classes: ArrayLike | None = None,
) -> ClassTable:
    """Match labels `y` (n,) to descriptors.

    Args:
        y: label of each training row.
        descriptors: None (one-hot vectors of the classes in `y`), a mapping {label: vector}, a data
            frame indexed by label, or an array (C, Da).
        classes: C labels of an array of descriptors.

    Raises:
        DataError: the arguments do not match each other or `y`; names the class.

    >>> table = class_table(np.array(["b", "a"]), {"c": [0, 1], "b": [1, 0], "a": [1, 1]})
    >>> table.names, table.labels, table.unseen
    (('a', 'b', 'c'), array([1, 0]), array([2]))
    """
    if descriptors is None:
        if classes is not None:
            raise DataError(f"classes: expected descriptors, whose rows it names, got none. {HOW}")
        found, labels = np.unique(y, return_inverse=True)
        return ClassTable(found, np.eye(len(found), dtype=np.float32), labels.astype(np.int64))
    names, rows = _labelled_rows(descriptors, classes)
    shown = np.arange(len(rows)) if names is None else names
    warn_of_minus_one(rows, "descriptors", [str(name) for name in shown.tolist()])
    if names is None:
        return _by_position(y, rows)
    order = np.argsort(names, kind="stable")
    names, rows = names[order], rows[order]
    repeated = np.flatnonzero(names[1:] == names[:-1])
    if repeated.size:
        raise DataError(
            f"descriptors: class {_shown(names, repeated[0])} has more than one. Keep one."
        )
    if _kind(y[0].item()) != _kind(names[0].item()):
        raise DataError(
            f"y: expected labels like {_shown(names, 0)}, as of the descriptors, got "
            f"{_shown(y, 0)}. Give both as text or both as numbers. {HOW}"
        )
    found = ClassTable(names, rows, np.empty(0, dtype=np.int64))
    texts = [label_text(label) for label in y.tolist()]
    return replace(found, labels=match_labels(texts, found.names, "y", rows=False))


def _labelled_rows(descriptors: Any, classes: Any) -> tuple[np.ndarray | None, np.ndarray]:
    """Labels of the descriptors, or None if by position, and the (C, Da) rows."""
    if isinstance(descriptors, Mapping):
        own, rows = list(descriptors), _stack(descriptors)
    elif hasattr(descriptors, "index") and hasattr(descriptors, "to_numpy"):
        own, rows = list(descriptors.index), descriptors.to_numpy()
    else:
        own, rows = None, _array(descriptors)
    if own is not None and classes is not None:
        raise DataError(
            "classes: expected None, as the descriptors name their classes. Omit classes=."
        )
    rows = as_float32(rows, "descriptors")
    if not rows.size:
        raise DataError(f"descriptors: expected a non-empty array, got shape {rows.shape}. {HOW}")
    given = own if own is not None else classes
    if given is None:
        return None, rows
    names = _label_array(given)
    if len(names) != len(rows):
        raise DataError(
            f"classes: expected one label for each of the {len(rows)} descriptors, got "
            f"{len(names)}."
        )
    return names, rows


def _stack(descriptors: Mapping[Any, ArrayLike]) -> np.ndarray:
    vectors = {label: np.asarray(vector) for label, vector in descriptors.items()}
    shapes = {vector.shape for vector in vectors.values()}
    for label, vector in vectors.items():
        if vector.ndim != 1:
            raise DataError(f"descriptors[{label!r}]: expected a vector, got shape {vector.shape}.")
    if len(shapes) > 1:
        first = next(iter(vectors))
        other = next(k for k, v in vectors.items() if v.shape != vectors[first].shape)
        raise DataError(
            f"descriptors: expected equal lengths, got {len(vectors[first])} for {first!r} and "
            f"{len(vectors[other])} for {other!r}."
        )
    return np.stack(list(vectors.values())) if vectors else np.empty((0, 0))


def _array(descriptors: Any) -> np.ndarray:
    try:
        return np.asarray(descriptors)
    except ValueError as error:
        raise DataError(f"descriptors: expected a (C, Da) array: {error}. {HOW}") from None


def _label_array(labels: Any) -> np.ndarray:
    """Labels as a sortable 1-d array; mixed types are rejected, not converted."""
    labels = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    kinds = sorted({_kind(label) for label in labels})
    if len(kinds) > 1:
        raise DataError(f"class labels: expected one type, got {' and '.join(kinds)}.")
    names = np.asarray(labels)
    if names.ndim != 1 or names.dtype.kind not in "iufbU":
        raise DataError(f"class labels: expected strings or numbers, got {' '.join(kinds)}.")
    return names


def _kind(label: Any) -> str:
    if isinstance(label, str):
        return "str"
    if isinstance(label, int | float | np.number) and not isinstance(label, bool):
        return "number"
    return type(label).__name__


def _by_position(y: np.ndarray, rows: np.ndarray) -> ClassTable:
    """Classes numbered from 0 by the rows of an array."""
    if y.dtype.kind not in "iu":
        raise DataError(f"y: expected row numbers of the descriptors, got {_shown(y, 0)}. {HOW}")
    count = len(rows)
    remedy = (
        f"Give classes=range({count}) if label 0 is the first row of the descriptors, "
        f"classes=range(1, {count + 1}) if label 1 is."
    )
    labels = match_labels(y, [f"row {i}" for i in range(count)], "y", remedy=remedy)
    return ClassTable(np.arange(count), rows, labels)


def _shown(labels: np.ndarray, position: int) -> str:
    """One label as a Python literal: 'a', not np.str_('a')."""
    return repr(labels.tolist()[position])
