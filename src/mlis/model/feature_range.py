"""Warns of features far outside the training range."""

import sys
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from mlis.errors import FeatureRangeWarning
from mlis.model.preprocessing import FeatureScaler

MOST_EXCESS = 0.001
"""Mean excess from which there is a warning: one value in a thousand is a range too far away.

Measured on two benchmarks with 1280-d features: test images, unseen classes included, below
0.000001; three times the values 0.002; raw features on a model of normalised ones 0.3 to 0.4.
"""
FEW_CLASSES, MOST_EXCESS_OF_FEW = 15, 0.15
"""Of fewer seen classes, features of others leave the range by themselves: up to 0.1 measured."""


@dataclass(frozen=True, eq=False)
class FeatureRange:
    """The range of each training feature, one more range added on either side.

    The excess of a value is how many of the training's ranges it lies outside of that.

    Attributes:
        low, high: (Dx,) bounds.
        width: (Dx,) of the training's range; of a constant feature, the median of the others.
        scaler: averages rows of several regions, whose means' range this is.
    """

    low: Tensor
    high: Tensor
    width: Tensor
    scaler: FeatureScaler

    @classmethod
    def of(cls, scaler: FeatureScaler, like: Tensor) -> "FeatureRange | None":
        """Of a scaler's training rows, in the device and dtype of `like`; None if not known."""
        if scaler.low is None or scaler.high is None:
            return None
        low, high = scaler.low.to(like), scaler.high.to(like)
        width = high - low
        varying = width[width > 0]
        width = torch.where(width > 0, width, varying.median() if len(varying) else 1.0)
        return cls(low - width, high + width, width, scaler)

    def excess(self, x: Tensor) -> Tensor:
        """Of each value of (B, Dx) features; zero within the bounds."""
        return torch.maximum(self.low - x, x - self.high).clamp_(min=0) / self.width


class RangeWatch:
    """Looks at the batches of one call.

    Args:
        bounds: of the training's features.
        classes: number of classes in training.
    """

    def __init__(self, bounds: FeatureRange, classes: int):
        self._bounds = bounds
        self._most = MOST_EXCESS_OF_FEW if classes < FEW_CLASSES else MOST_EXCESS
        self._excess, self._far, self._all = 0.0, 0, 0
        self._worst, self._column = 0.0, 0

    def look(self, part: Tensor, low: Tensor, high: Tensor) -> None:
        """Count the values of (B, Dx) features, whose minima and maxima are `low`, `high` (Dx,)."""
        bounds = self._bounds
        if bounds.scaler.regions > 1:
            part = bounds.scaler.pooled(part)
            low, high = part.amin(0), part.amax(0)
        self._all += part.numel()
        if not bool(((low < bounds.low) | (high > bounds.high)).any()):
            return
        excess = bounds.excess(part)
        by_column = excess.sum(0, dtype=torch.float64)
        self._excess += float(by_column.sum())
        self._far += int((excess > 0).sum())
        if float(by_column.max()) > self._worst:
            self._worst, self._column = float(by_column.max()), int(by_column.argmax())

    def warn(self) -> None:
        """Warn if the values are too far away on average. The texts are not many: they are kept."""
        if self._excess <= self._most * self._all:
            return
        bounds, column = self._bounds, self._column
        width = float(bounds.width[column])
        low, high = float(bounds.low[column]) + width, float(bounds.high[column]) - width
        share = float(f"{100 * self._far / self._all:.1g}")
        warnings.warn(
            f"features: {share:g}% of the values lie outside the training "
            f"range by more than its width, most in column {column}, which was {low:.4g} to "
            f"{max(low, high):.4g} in training: these predictions are not reliable. Check that "
            "features are computed as in training (image model, normalisation, units).",
            FeatureRangeWarning,
            stacklevel=_level_outside(),
        )


def _level_outside() -> int:
    """The `stacklevel` of the first caller outside this package, whose line the warning shows."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _inside(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _inside(module: str) -> bool:
    return module.partition(".")[0] in ("mlis", "contextlib", "torch")
