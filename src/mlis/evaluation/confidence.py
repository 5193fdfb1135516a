"""Calibration of probabilities: expected error, reliability diagram, temperature scaling.

Of 100 images that are each recognised with probability 0.8, 80 should be recognised correctly. The
expected calibration error (ECE) is the mean over images of |accuracy − confidence| of the image's
bin (Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", ICML 2017, eq. 3).
Bins hold about equally many images (equal mass; Nixon et al., "Measuring Calibration in Deep
Learning", CVPR workshops 2019): confidences crowd near 1, and of bins of equal width most would be
nearly empty. Images of equal confidence share a bin, so that the order of images does not matter.

Temperature scaling (Guo et al., section 4.2) divides scores by one number before the softmax:
predictions stay, probabilities change.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlis.compute.memory import in_parts
from mlis.errors import DataError, SettingsError
from mlis.evaluation.checks import checked

# SciPy ships no types
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

logger: logging.Logger = logging.getLogger(__name__)

BINS = 15
_ROWS = 8192  # processed at a time
_RANGE = 1e3  # the temperature is sought between 1/1000 and 1000 times the spread of scores
_GRID = 16  # temperatures that are tried first: the likelihood need not have a single maximum
_FLAT = 1e-9  # gain over the highest temperature, at which all classes are equally likely


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: K bins of images by confidence, lowest first.

    Attributes:
        confidence: (K,) mean probability of the predicted class, in per cent.
        accuracy: (K,) images whose predicted class is right, in per cent.
        images: (K,) int64, at least 1 each.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    images: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error in per cent."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.images))


@dataclass(frozen=True, eq=False)
class Confidence:
    """Result of :func:`evaluate_confidence`; a part without images is None.

    The parts are the images of seen and of unseen classes, and all of them; in each, all classes
    are candidates.
    """

    all: Reliability | None
    seen: Reliability | None
    unseen: Reliability | None
    temperature: float = field(default=1.0)

    def to_dict(self) -> dict[str, Any]:
        """The expected calibration errors in per cent, for JSON."""
        parts = {"ECE": self.all, "ECE_seen": self.seen, "ECE_unseen": self.unseen}
        return {name: None if part is None else part.ece for name, part in parts.items()}

    def __str__(self) -> str:
        names = {"ECE": "all", "ECE_seen": "seen", "ECE_unseen": "unseen"}
        values = self.to_dict()
        shown = [
            f"{names[name]} {'–' if value is None else format(value, '.1f')}"
            for name, value in values.items()
        ]
        return f"ECE  {'  '.join(shown)}  (temperature {self.temperature:.4g})"


def evaluate_confidence(
    scores: np.ndarray,
    labels: np.ndarray,
    seen_mask: np.ndarray,
    *,
    temperature: float = 1.0,
    bins: int = BINS,
) -> Confidence:
    """Calibration of `softmax(scores / temperature)` on test images.

    Args:
        scores: (N, C) real numbers, with the calibration constant subtracted; N may be 0.
        labels: (N,) int in 0..C-1.
        seen_mask: (C,) bool, True for seen classes.
        temperature: of the recognizer.
        bins: at most so many bins, of about equally many images.

    Raises:
        DataError: as for :func:`mlis.evaluation.evaluate`.
        SettingsError: the temperature is not a positive number, or `bins` is less than 1.

    >>> scores = np.log([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.3, 0.6]])
    >>> found = evaluate_confidence(scores, np.array([0, 1, 2]), np.array([1, 1, 0], bool))
    >>> print(found)  # two seen images at 80 %, one of them right; the unseen one at 60 %, right
    ECE  all 33.3  seen 30.0  unseen 40.0  (temperature 1)
    """
    scores, labels, seen_mask = checked(scores, labels, seen_mask, no_images=True)
    if bins < 1:
        raise SettingsError(f"bins: expected at least 1, got {bins}.")
    confidence, predicted = _confidences(scores, checked_temperature(temperature))
    right, is_seen = predicted == labels, seen_mask[labels]

    def part(rows: np.ndarray) -> Reliability | None:
        return _reliability(confidence[rows], right[rows], bins) if rows.any() else None

    every = np.ones(len(labels), dtype=bool)
    return Confidence(part(every), part(is_seen), part(~is_seen), float(temperature))


def checked_temperature(value: float) -> float:
    """The temperature itself.

    Raises:
        SettingsError: it is not a positive, finite number.
    """
    if not 0 < value < float("inf"):
        raise SettingsError(f"temperature: expected a positive number, got {value}.")
    return float(value)


def best_temperature(scores: np.ndarray, labels: np.ndarray, seen_mask: np.ndarray) -> float:
    """The temperature at which the confidence is likeliest, **on validation scores**.

    Never call it with test scores. It minimises the negative log-likelihood of whether the best
    class is right, whose probability is the confidence c: −log c where it is, −log (1 − c) where it
    is not (top-label calibration; Gupta, Ramdas: "Top-label calibration and multiclass-to-binary
    reductions", ICLR 2022). The likelihood of the label itself (Guo et al.) would be ruled by the
    few images whose label has next to no probability, of which heads of log-densities have many.

    Images of seen and of unseen classes have the same weight in total, as in H, by which the
    calibration constant is chosen; in each, every class has the same, however many images it has.

    Args:
        scores: (N, C) validation scores, with the calibration constant subtracted.
        labels: (N,) int in 0..C-1.
        seen_mask: (C,) bool, True for seen classes.

    Returns:
        The temperature; 1.0, with a warning, where no temperature is best: if all images are
        recognised correctly the lower always seems the better, and if scores are no better than
        chance the higher.

    Raises:
        DataError: shapes disagree, a label is out of range, a score is not finite, or no images.

    >>> scores = np.log([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.2]])
    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> round(best_temperature(scores, labels, np.array([True, False])), 2)  # log 4 / log 3
    1.26
    """
    scores, labels, seen_mask = checked(scores, labels, seen_mask)
    if not len(labels):
        raise DataError("temperature: expected validation images, got none.")
    weights = _balanced(labels, seen_mask)
    best = scores.argmax(axis=1)
    right = best == labels
    middle = np.log(max(float(np.mean(scores.std(axis=1, dtype=np.float64))), 1e-300))

    def loss(logarithm: float) -> float:
        return _loss(scores, best, right, weights, float(np.exp(logarithm)))

    from scipy.optimize import minimize_scalar

    grid = middle + np.linspace(-np.log(_RANGE), np.log(_RANGE), _GRID)
    losses = [loss(one) for one in grid]
    at = int(np.argmin(losses))
    if right.all() or losses[-1] <= losses[at] + _FLAT:
        logger.warning(
            "temperature: no best one on %d validation images, which are %s. It is 1; bring more "
            "validation images.",
            len(labels),
            "all recognised correctly" if right.all() else "recognised no better than by chance",
        )
        return 1.0
    near = grid[max(at - 1, 0)], grid[at + 1]
    found = minimize_scalar(loss, bounds=near, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def _balanced(labels: np.ndarray, seen_mask: np.ndarray) -> np.ndarray:
    """(N,) weights that sum to 1: of all classes of a kind alike, and of both kinds alike."""
    counts = np.bincount(labels, minlength=len(seen_mask))
    kinds = np.array([np.count_nonzero(counts[seen_mask == kind]) for kind in (False, True)])
    weights = 1 / (counts[labels] * kinds[seen_mask[labels].astype(int)])
    return weights / weights.sum()


def _confidences(scores: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """(N,) probability of the best class, from 0 to 1, and (N,) its index."""
    from scipy.special import logsumexp

    confidence, best = np.empty(len(scores)), np.empty(len(scores), dtype=np.int64)

    def fill(part: slice) -> None:
        rows = scores[part].astype(np.float64) / temperature
        best[part] = scores[part].argmax(axis=1)
        confidence[part] = np.exp(rows.max(axis=1) - logsumexp(rows, axis=1))

    in_parts(len(scores), _ROWS, fill, "evaluation", "use fewer images")
    return confidence, best


def _reliability(confidence: np.ndarray, right: np.ndarray, bins: int) -> Reliability:
    """Bins of about equally many images; equal confidences share one."""
    edges = np.quantile(confidence, np.arange(1, bins) / bins, method="inverted_cdf")
    place = np.searchsorted(np.unique(edges), confidence, side="left")
    images = np.bincount(place)
    full = images > 0
    sums = (np.bincount(place, weights=values)[full] for values in (confidence, right))
    mean, accuracy = (100 * total / images[full] for total in sums)
    return Reliability(mean, accuracy, images[full])


def _loss(
    scores: np.ndarray,
    best: np.ndarray,
    right: np.ndarray,
    weights: np.ndarray,
    temperature: float,
) -> float:
    """Weighted mean of −log c where the `best` class is right, of −log (1 − c) elsewhere."""
    from scipy.special import logsumexp

    losses = np.empty(len(best))

    def fill(part: slice) -> None:
        rows = scores[part].astype(np.float64)
        rows = (rows - rows.max(axis=1, keepdims=True)) / temperature
        total = np.asarray(logsumexp(rows, axis=1))  # −log c, as the best has 0
        np.put_along_axis(rows, best[part, None], -np.inf, axis=1)
        others = np.asarray(logsumexp(rows, axis=1))
        losses[part] = total - np.where(right[part], 0.0, others)

    in_parts(len(best), _ROWS, fill, "the temperature", "use fewer validation images")
    return float(losses @ weights)
