"""Answering "unknown": how much does an image look like one of the classes that the model knows?

Where a head has densities (:class:`~mlis.model.heads.GaussianHead`, alone or in an ensemble), it is
the log-density of the image under the predicted class less that under the background, a normal
distribution of images of any class, known or not: a likelihood ratio, as the relative Mahalanobis
distance (Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", 2021)
with the covariance of each class. Otherwise it is by how many standard deviations of the scores of
all classes the best one exceeds their mean. `benchmarks/reject.py` compares them with others.

What a number of either kind means is kept with the model: the quantiles over validation images of
known classes, from which the threshold of any rate follows.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlis.config import checked_rate
from mlis.errors import DataError

if TYPE_CHECKING:
    from mlis.model.recognizer import Recognizer

UNKNOWN = "unknown"
USUAL_RATE = 0.05
LEVELS: np.ndarray = np.linspace(0.0, 1.0, 101)


def known_scores(scores: np.ndarray, densities: np.ndarray | None) -> np.ndarray:
    """How much each image looks like one of a known class, (N,) float64; more is likelier.

    Args:
        scores: (N, C), the constant subtracted from those of seen classes.
        densities: (N, C + 1) log-densities of the classes and of the background, up to a number
            that is the same for all of a row; None where the head has none.
    """
    if densities is None:
        values = scores.astype(np.float64)
        spread = np.maximum(values.std(axis=1), np.finfo(np.float32).tiny)
        return (values.max(axis=1) - values.mean(axis=1)) / spread
    best = scores.argmax(axis=1)[:, None]
    return np.take_along_axis(densities, best, axis=1)[:, 0].astype(np.float64) - densities[:, -1]


def class_weighted_quantiles(values: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """Smallest values that at least each of `LEVELS` of the weight does not exceed.

    Args:
        values: (N,), N at least 1.
        weights: (N,) positive.
    """
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    at = np.searchsorted(share, LEVELS - 1e-9)
    return tuple(float(values[order[i]]) for i in np.minimum(at, len(values) - 1))


def known_levels(scores: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """Share of the known classes' validation images that look less known, (N,) from 0 to 1.

    Args:
        scores: (N,) of `known_scores`.
        quantiles: stored with the model.

    Raises:
        DataError: the model has none.
    """
    _check_quantiles(quantiles)
    return np.interp(scores, quantiles, LEVELS)


def turned_away(
    quantiles: Sequence[float],
    known: np.ndarray,
    is_seen: np.ndarray,
    unknown: np.ndarray | None = None,
    rate: float = USUAL_RATE,
) -> dict[str, float]:
    """Share of images, in per cent, that are answered "unknown" at a rate.

    A rate is calibrated on validation images; of others another share is turned away.

    Args:
        quantiles: stored with the model; without any nothing is turned away, and nothing returned.
        known: (N,) `known_scores` of images of known classes.
        is_seen: (N,) bool, which of these are of seen classes.
        unknown: (M,) of images of none of the classes.
        rate: of the images of known classes.

    Returns:
        By kind of class, "seen", "unseen" and "unknown", those that have images.
    """
    if not quantiles:
        return {}
    others = np.empty(0) if unknown is None else unknown
    groups = {"seen": known[is_seen], "unseen": known[~is_seen], "unknown": others}
    return {
        name: 100 * float((known_levels(scores, quantiles) < rate).mean())
        for name, scores in groups.items()
        if len(scores)
    }


def check_reject(recognizer: "Recognizer", rate: float | str | None) -> None:
    """Check that a recognizer can turn images away at a rate, before any is computed.

    Raises:
        SettingsError: the rate is not above 0 and below 1.
        DataError: the model has no quantiles, or a class of the name "unknown".
    """
    if rate is None:
        return
    checked_rate(rate)
    _check_quantiles(recognizer.metadata.rejection)
    if UNKNOWN in recognizer.class_names:
        raise DataError(
            f"cannot answer 'unknown': class {recognizer.class_names.index(UNKNOWN)} of the model "
            "has that name. Give it another one (rename_classes)."
        )


def _check_quantiles(quantiles: Sequence[float]) -> None:
    if not quantiles:
        raise DataError(
            "cannot answer 'unknown': expected the rejection quantiles of validation images in the "
            "model, got none. Train it again with validation classes (an older mlis did not store "
            "them, and a constant given as classification.calibration leaves validation out)."
        )
