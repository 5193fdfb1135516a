"""The exact seen–unseen curve (Chao et al. 2016), its area, and choosing a calibration constant.

The curve changes only where the constant passes the margin of an image (best seen minus best unseen
score), so it is computed by sorting the margins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlis.compute.memory import in_parts
from mlis.errors import DataError
from mlis.evaluation.checks import checked

_ROWS = 8192  # processed at a time


@dataclass(frozen=True, eq=False)
class SeenUnseenCurve:
    """U and S (per cent) for every constant c subtracted from the seen scores.

    `U[k]`, `S[k]` (K+1,) are the values for `knots[k-1] < c < knots[k]`, with ascending `knots`
    (K,) and −∞ and +∞ at the ends. U rises from 0 to T1; S falls from the accuracy among seen
    classes to 0.
    """

    U: np.ndarray
    S: np.ndarray
    knots: np.ndarray

    @property
    def H(self) -> np.ndarray:
        """(K+1,) harmonic mean of U and S at each point, per cent."""
        total = self.U + self.S
        return 2 * self.U * self.S / np.where(total > 0, total, 1.0)

    @property
    def area(self) -> float:
        """AUSUC, per cent; trapezoidal rule: a tie of a seen and an unseen image counts half."""
        area = np.sum(np.diff(self.U) * (self.S[1:] + self.S[:-1])) / 200
        return min(float(area), 100.0)  # rounding may exceed 100

    def best_constant(self) -> float:
        """The constant with the highest H: the midpoint of the widest interval of knots with it.

        0.0 if no constant gives H > 0.
        """
        H = self.H
        if H.max() <= 0:
            return 0.0
        # H is 0 at both ends, so the best intervals have two finite knots
        best = np.flatnonzero(np.isclose(H, H.max(), rtol=1e-12, atol=0))
        left, right = self.knots[best - 1], self.knots[best]
        widest = (right - left).argmax()
        return float((left[widest] + right[widest]) / 2)


def seen_unseen_curve(
    scores: np.ndarray, labels: np.ndarray, seen_mask: np.ndarray
) -> SeenUnseenCurve:
    """The exact seen–unseen curve; arguments and errors as for :func:`evaluate`.

    Raises:
        DataError: also if there are no images of seen or of unseen classes.
    """
    scores, labels, seen_mask = checked(scores, labels, seen_mask)
    for kind, rows in (("seen", seen_mask[labels]), ("unseen", ~seen_mask[labels])):
        if not rows.any():
            raise DataError(
                f"the seen–unseen curve needs images of both kinds, got none of a {kind} class "
                f"among {len(labels)}; check seen_mask and the split"
            )
    return exact_curve(scores, labels, seen_mask)


def best_calibration(
    validation_scores: np.ndarray, validation_labels: np.ndarray, seen_mask: np.ndarray
) -> float:
    """The constant to subtract from seen scores that maximises H **on validation scores**.

    Never call it with test scores: settings are chosen on validation classes. Arguments as for
    :func:`evaluate`, in the class numbering of the validation split. H is constant between
    neighbouring margins; the result is the midpoint of the interval with the highest H (the widest
    if there are several), or 0.0 if no constant gives H > 0.

    Raises:
        DataError: as :func:`evaluate`, and if there are no images of seen or of unseen classes.
    """
    return seen_unseen_curve(validation_scores, validation_labels, seen_mask).best_constant()


def average_constant(curves: Sequence[SeenUnseenCurve]) -> float:
    """The mean over folds of the constant with the best H: it varies least between folds."""
    return float(np.mean([curve.best_constant() for curve in curves]))


def common_constant(curves: Sequence[SeenUnseenCurve]) -> float:
    """The constant chosen on several validation splits.

    For one curve, its `best_constant`. For several, the constant nearest to zero whose mean H is at
    most one standard error below the highest mean (one-standard-error rule): with few classes the
    optimum is uncertain, and a smaller constant favours the seen classes. 0.0 if no constant gives
    H > 0.
    """
    if len(curves) == 1:
        return curves[0].best_constant()
    knots = np.unique(np.concatenate([curve.knots for curve in curves]))
    constants = np.append((knots[1:] + knots[:-1]) / 2, 0.0)
    H = np.stack([curve.H[np.searchsorted(curve.knots, constants)] for curve in curves])
    mean = H.mean(axis=0)
    best = mean.argmax()
    error = H[:, best].std(ddof=1) / np.sqrt(len(curves))
    supported = constants[(mean >= mean[best] - error) & (mean > 0)]
    return float(supported[np.abs(supported).argmin()]) if len(supported) else 0.0


def exact_curve(scores: np.ndarray, labels: np.ndarray, seen_mask: np.ndarray) -> SeenUnseenCurve:
    """:func:`seen_unseen_curve` of arrays already checked, with images of both kinds."""
    best_seen, top_seen = best_among(scores, seen_mask)
    best_unseen, top_unseen = best_among(scores, ~seen_mask)
    margin = top_seen - top_unseen
    is_seen = seen_mask[labels]
    # an image that is wrong among seen (or unseen) classes alone is wrong for every c
    moves = np.where(is_seen, best_seen, best_unseen) == labels
    knots, where = np.unique(margin[moves], return_inverse=True)
    weight = _class_weights(labels, seen_mask)[moves]
    seen_moves = is_seen[moves]
    gained = np.bincount(where[~seen_moves], weight[~seen_moves], len(knots))
    lost = np.bincount(where[seen_moves], weight[seen_moves], len(knots))
    # S is summed from its zero end, so that both ends are exactly zero
    return SeenUnseenCurve(
        U=np.concatenate([[0.0], np.cumsum(gained)]),
        S=np.concatenate([np.cumsum(lost[::-1])[::-1], [0.0]]),
        knots=knots,
    )


def best_among(scores: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) index and (N,) float64 score of the best class in `mask` of each row."""
    classes = np.flatnonzero(mask)
    best, top = np.empty(len(scores), dtype=np.int64), np.empty(len(scores))

    def find_best(part: slice) -> None:
        among = scores[part][:, classes]
        column = among.argmax(1)
        best[part], top[part] = classes[column], among[np.arange(len(among)), column]

    in_parts(len(scores), _ROWS, find_best, "evaluation", "use fewer images")
    return best, top


def _class_weights(labels: np.ndarray, seen_mask: np.ndarray) -> np.ndarray:
    """(N,) contribution of each image to U or S in per cent; classes have equal weights."""
    images = np.bincount(labels, minlength=len(seen_mask))
    numbers = (int((images[mask] > 0).sum()) for mask in (seen_mask, ~seen_mask))
    kinds = np.where(seen_mask, *numbers)
    return 100.0 / (images[labels] * kinds[labels])
