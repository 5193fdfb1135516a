"""Validation of the arrays of all metrics; errors name row and class."""

import numpy as np

from mlis.compute.memory import enough_memory
from mlis.errors import DataError


def checked(
    scores: np.ndarray, labels: np.ndarray, seen_mask: np.ndarray, *, no_images: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validated scores (N, C), labels (N,) int64 in 0..C-1, and seen_mask (C,) bool.

    N may be 0 with `no_images`.

    Raises:
        DataError: an array has a wrong shape, type or value.
    """
    scores, labels, seen_mask = np.asarray(scores), np.asarray(labels), np.asarray(seen_mask)
    empty = 0 in (scores.shape[1:] if no_images else scores.shape)
    if scores.ndim != 2 or scores.dtype.kind not in "fiu" or empty:
        raise DataError(
            "expected scores to be a non-empty numeric (images, classes) array, got "
            f"{scores.dtype} of shape {scores.shape}"
        )
    N, C = scores.shape
    if labels.shape != (N,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"expected labels to be integers of shape ({N},), one for each row of scores, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    if seen_mask.shape != (C,) or seen_mask.dtype != bool:
        raise DataError(
            f"expected seen_mask to be bool of shape ({C},), one for each column of scores, got "
            f"{seen_mask.dtype} of shape {seen_mask.shape}"
        )
    outside = (labels < 0) | (labels >= C)
    if outside.any():
        row = int(outside.argmax())
        raise DataError(f"expected labels in 0..{C - 1}, got {labels[row]} in row {row}")
    with enough_memory("evaluation", "Use fewer images"):
        _check_finite(scores)
    return scores, labels.astype(np.int64), seen_mask


def _check_finite(scores: np.ndarray) -> None:
    bad = ~np.isfinite(scores)
    if bad.any():
        row, column = np.unravel_index(int(bad.argmax()), bad.shape)
        raise DataError(
            f"expected finite scores, got {scores[row, column]} in row {row}, class {column} "
            f"({int(bad.sum())} such scores in {int(bad.any(1).sum())} rows); check the features "
            "of that image, or whether training diverged"
        )
