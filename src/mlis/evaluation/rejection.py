"""Is "unknown" answered for the right images: AUROC, and accuracy of the images that are answered.

An image is answered if its score reaches a threshold. Lowering the threshold from the highest score
answers more and more images: coverage is the share of images that are answered, risk the share of
those that are answered wrongly (El-Yaniv, Wiener: "On the Foundations of Noise-free Selective
Classification", JMLR 2010; the area under the curve: Geifman, El-Yaniv, "Selective Classification
for Deep Neural Networks", NeurIPS 2017). An image of an unknown class is wrong whenever it is
answered. Images of equal score are answered together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlis.errors import DataError

# SciPy ships no types
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

_POINTS = 101  # of the curve in JSON


@dataclass(frozen=True, eq=False)
class Rejection:
    """Result of :func:`evaluate_rejection`.

    Attributes:
        coverage: (K,) rising shares of images that are answered, in per cent; the last is 100.
        risk: (K,) share of those that are answered wrongly, in per cent.
        area: mean risk over coverages, each image weighted alike, in per cent; lower is better.
        auroc: probability that an image of a known class has a higher score than one of an unknown
            class, ties counting one half, in per cent; None without images of unknown classes.
        unknown: images of unknown classes.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float
    auroc: float | None
    unknown: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the curve at 101 coverages at most."""
        some = np.unique(np.linspace(0, len(self.risk) - 1, _POINTS).round().astype(int))
        return {
            "AUROC_unknown": self.auroc,
            "unknown_images": self.unknown,
            "AURC": self.area,
            "risk_coverage": [
                [round(float(c), 4), round(float(r), 4)]
                for c, r in zip(self.coverage[some], self.risk[some], strict=True)
            ],
        }

    def at(self, *coverages: float) -> list[tuple[float, float]]:
        """Coverage and risk where at least these shares, in per cent, are answered."""
        places = np.searchsorted(self.coverage, np.array(coverages) - 1e-9)
        return [(float(self.coverage[i]), float(self.risk[i])) for i in places]

    def __str__(self) -> str:
        found = [f"{risk:.1f} at {at:.0f}%" for at, risk in self.at(80, 90, 100)]
        start = "" if self.auroc is None else f"AUROC of unknown {self.auroc:.1f}  "
        return f"{start}risk by coverage: {', '.join(found)}  area {self.area:.1f}"


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Area under the ROC curve in per cent, from ranks (Mann, Whitney, 1947).

    Args:
        known: (N,) scores of images of known classes, which are to be higher.
        unknown: (M,) scores of images of unknown classes.

    Raises:
        DataError: one of them is empty, or a score is not finite.

    >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    87.5
    """
    from scipy.stats import rankdata

    known, unknown = _scores(known, "known"), _scores(unknown, "unknown")
    ranks = rankdata(np.concatenate([known, unknown]))
    pairs = len(known) * len(unknown)
    wins = ranks[: len(known)].sum() - len(known) * (len(known) + 1) / 2
    return float(100 * wins / pairs)


def evaluate_rejection(
    known: np.ndarray, right: np.ndarray, unknown: np.ndarray | None = None
) -> Rejection:
    """AUROC and the risk-coverage curve.

    Args:
        known: (N,) scores of test images of known classes; images of higher ones are answered.
        right: (N,) bool, whether the predicted class is the label.
        unknown: (M,) scores of images of unknown classes, if there are any.

    Raises:
        DataError: shapes disagree, a score is not finite, or there is no image.
    """
    known, right = _scores(known, "known"), np.asarray(right)
    if right.shape != known.shape or right.dtype != bool:
        raise DataError(
            f"right: expected bool of shape {known.shape}, one per score, got {right.dtype} of "
            f"shape {right.shape}. Compare predictions with labels."
        )
    others = np.empty(0) if unknown is None or not len(unknown) else _scores(unknown, "unknown")
    scores = np.concatenate([known, others])
    wrong = np.concatenate([~right, np.ones(len(others), dtype=bool)])
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    answered = ends + 1
    risk = 100 * np.cumsum(wrong[order])[ends] / answered
    area = float(np.average(risk, weights=np.diff(answered, prepend=0)))
    area_known = auroc(known, others) if len(others) else None
    return Rejection(100 * answered / len(scores), risk, area, area_known, len(others))


def _scores(values: np.ndarray, what: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(
            f"{what}: expected a score for each of at least one image, got shape {values.shape}. "
            "Bring images to measure on."
        )
    if not np.isfinite(values).all():
        row = int((~np.isfinite(values)).argmax())
        raise DataError(
            f"{what}: expected finite scores, got {values[row]} in row {row}. Check the features "
            "of that image."
        )
    return values
