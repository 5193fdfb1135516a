"""Retrieval metrics of features: Recall@1 and MAP@R by cosine similarity.

Recall@1 is the fraction of images whose nearest neighbour is of their class. MAP@R considers the R
nearest neighbours, where R is the number of other images of the class: it is the mean over ranks of
the precision at ranks with an image of the class, and zero at the others (Musgrave, Belongie, Lim:
"A Metric Learning Reality Check", ECCV 2020, section 3.2). Both agree with pytorch-metric-learning.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlis.compute.memory import enough_memory, in_parts
from mlis.errors import DataError


@dataclass(frozen=True)
class Retrieval:
    """Means over images in per cent; None if no image has another one of its class.

    Attributes:
        recall_at_1: Recall@1.
        map_at_r: MAP@R.
        images: number of queries, which are the images with another image of their class; the
            gallery contains all images.
    """

    recall_at_1: float | None
    map_at_r: float | None
    images: int


def evaluate_retrieval(features: Any, labels: Any, *, chunk: int = 512) -> Retrieval:
    """Evaluate retrieval with features (N, D) and class labels (N,) int.

    A query does not retrieve itself. Ties are ordered by row. Memory: about `chunk` × N numbers; on
    a shortage, fewer rows are processed at a time.

    Raises:
        DataError: shapes disagree, or a feature is not finite (names the row).
        OutOfMemoryError: not even one row fits into memory.

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
    """(B, count) nearest other rows of each of `rows`, nearest first."""
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
