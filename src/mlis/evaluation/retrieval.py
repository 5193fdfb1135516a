"""Retrieval: is the nearest image of another one of the same class? From features alone.

Recall@1 is the share of images whose nearest neighbour by cosine is of their class. MAP@R looks at
the R nearest, R being the number of other images of the class: the mean of the precision at every
rank that holds an image of the class, counting zero for the ranks that do not (Musgrave, Belongie,
Lim: "A Metric Learning Reality Check", ECCV 2020, section 3.2). Both as in their library.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlis.compute.memory import enough_memory, in_parts
from mlis.errors import DataError


@dataclass(frozen=True)
class Retrieval:
    """Means over images, per cent; None where no image has another one of its class.

    Attributes:
        recall_at_1: of the nearest neighbour.
        map_at_r: of the R nearest.
        images: how many were asked for: those with another image of their class. All of them,
            and the ones without, are what they are compared with.
    """

    recall_at_1: float | None
    map_at_r: float | None
    images: int


def evaluate_retrieval(features: Any, labels: Any, *, chunk: int = 512) -> Retrieval:
    """Measure features (N, D) with class labels (N,) int against each other by cosine.

    An image does not find itself. Of equal cosines the lower row comes first. Memory: some
    `chunk` × N numbers; where that is too much, fewer rows are taken at a time.

    Raises:
        DataError: shapes disagree, or a feature is NaN or infinite (the message has the row).
        OutOfMemoryError: not even one row at a time fits.

    >>> result = evaluate_retrieval([[1, 0], [9, 1], [0, 1], [1, 8]], [0, 0, 1, 0])
    >>> round(result.recall_at_1, 1), round(result.map_at_r, 1), result.images
    (66.7, 75.0, 3)
    """
    features, labels = _checked(features, labels)
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    others = counts[labels] - 1
    queries = np.flatnonzero(others > 0)
    if not len(queries):
        return Retrieval(None, None, 0)
    with enough_memory("retrieval", "Use fewer images"):
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        directions = features / np.maximum(lengths, 1e-12)
    first, average = np.empty(len(queries)), np.empty(len(queries))

    def measure(part: slice) -> None:
        rows = queries[part]
        right = labels[_nearest(directions, rows, others[rows].max())] == labels[rows, None]
        first[part] = right[:, 0]
        average[part] = _average_precision(right, others[rows])

    in_parts(len(queries), chunk, measure, "retrieval", "use fewer images")
    return Retrieval(100 * float(first.mean()), 100 * float(average.mean()), len(queries))


def _nearest(directions: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """(B, count) the rows nearest to each of `rows`, nearest first, itself left out."""
    cosines = directions[rows] @ directions.T
    cosines[np.arange(len(rows)), rows] = -np.inf
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]


def _average_precision(right: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """(B,) average precision among the first R = `relevant` (B,) columns of `right` (B, K)."""
    ranks = np.arange(1, int(right.shape[1]) + 1)
    right = right & (ranks <= relevant[:, None])
    return (np.cumsum(right, axis=1) / ranks * right).sum(1) / relevant


def _checked(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or features.dtype.kind not in "fiu" or features.size == 0:
        raise DataError(
            "expected features to be a non-empty numeric (images, length) array, got "
            f"{features.dtype} of shape {features.shape}"
        )
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"expected labels to be integers of shape ({len(features)},), one for each row of "
            f"features, got {labels.dtype} of shape {labels.shape}"
        )
    if features.dtype.kind != "f":
        features = features.astype(np.float64)
    bad = ~np.isfinite(features).all(1)
    if bad.any():
        raise DataError(f"expected finite features, got NaN or infinity in row {bad.argmax()}")
    return features, labels
