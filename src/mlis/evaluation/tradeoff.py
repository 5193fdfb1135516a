"""The trade-off between seen and unseen classes that a model keeps, and the choice of a constant.

A compact form of the seen-unseen curve on validation classes, so that the calibration constant can
be chosen again later, without training.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from mlis.config import seen_loss
from mlis.evaluation.curve import SeenUnseenCurve

MOST = 200
"""Constants of a trade-off at most."""
EXAMPLES = ("seen-loss=0", "seen-loss=2", "seen-loss=5", "seen-loss=10", "validation")
"""Choices of a constant that are worth showing side by side."""
_LOSSES = np.arange(0, 25.25, 0.25)  # points of S: exact to a quarter point up to here, then coarse
_DIGITS = 4  # of what is stored
_TOLERANCE = 2 * 10.0**-_DIGITS  # a difference of two rounded values


class OperatingPoint(NamedTuple):
    """U, S and H (per cent) at a calibration constant."""

    constant: float
    U: float
    S: float
    H: float


@dataclass(frozen=True)
class TradeOff:
    """U and S (per cent) by the constant subtracted from seen scores, on validation classes.

    Attributes:
        constants: (K,) ascending, at most 200; 0 and `best` are among them.
        U, S: (K,) at these constants, means over validation splits.
        best: the constant with the best H, as it was chosen in training.
        splits: number of validation splits.
    """

    constants: tuple[float, ...]
    U: tuple[float, ...]
    S: tuple[float, ...]
    best: float
    splits: int

    @classmethod
    def of(cls, curves: Sequence[SeenUnseenCurve], best: float) -> Self:
        """The compact form of the mean of exact curves.

        Args:
            curves: one for each validation split.
            best: the constant with the best H.
        """
        knots = np.unique(np.concatenate([curve.knots for curve in curves]))
        # midpoints, as between knots nothing changes: no rounding moves an image
        constants = np.unique(np.append((knots[1:] + knots[:-1]) / 2, [0.0, best]))
        at = [np.searchsorted(curve.knots, constants) for curve in curves]
        U = np.mean([curve.U[i] for curve, i in zip(curves, at, strict=True)], axis=0)
        S = np.mean([curve.S[i] for curve, i in zip(curves, at, strict=True)], axis=0)
        always = np.searchsorted(constants, [0.0, best])
        kept = np.unique(np.append(_spaced(U, S, S[always[0]]), always))
        columns = (values[kept].tolist() for values in (constants, *np.round((U, S), _DIGITS)))
        return cls(*map(tuple, columns), best=float(best), splits=len(curves))

    @property
    def points(self) -> list[OperatingPoint]:
        """All of them, by ascending constant."""
        return [self.at(constant) for constant in self.constants]

    def at(self, constant: float) -> OperatingPoint:
        """U, S and H at a constant, interpolated between those that are kept."""
        U, S = (float(np.interp(constant, self.constants, of)) for of in (self.U, self.S))
        return OperatingPoint(constant, U, S, 2 * U * S / (U + S) if U + S else 0.0)

    def constant(self, calibration: float | str) -> float:
        """The constant of a choice.

        Args:
            calibration: "seen-loss=P": the largest at which S is at most P points below S at 0;
                any other text: the one with the best H; or the constant itself.
        """
        if not isinstance(calibration, str):
            return float(calibration)
        if (loss := seen_loss(calibration)) is None:
            return self.best
        least = self.at(0.0).S - loss - _TOLERANCE
        return max(c for c, S in zip(self.constants, self.S, strict=True) if least <= S)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), **{name: list(getattr(self, name)) for name in _COLUMNS}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            ValueError, TypeError, LookupError: it is something else.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if sorted(values) != sorted(names):
            raise ValueError(f"expected {', '.join(names)}, got {', '.join(values)}")
        columns = np.array([values[name] for name in _COLUMNS], dtype=np.float64)
        best, splits = values["best"], values["splits"]
        ascending = columns.ndim == 2 and 0 < columns.shape[1] <= MOST
        ascending = ascending and bool((np.diff(columns[0]) > 0).all())
        measures = ascending and bool(((columns[1:] >= 0) & (columns[1:] <= 100)).all())
        if not measures or not np.isfinite(columns).all() or not {0.0, best} <= {*columns[0]}:
            raise ValueError("expected ascending constants, 0 and the best among them, U and S")
        if type(splits) is not int or splits < 1 or type(best) not in (int, float):
            raise ValueError(f"expected a number and a whole number ≥ 1, got {best!r}, {splits!r}")
        return cls(*(tuple(column.tolist()) for column in columns), best=float(best), splits=splits)


_COLUMNS = ("constants", "U", "S")


def _spaced(U: np.ndarray, S: np.ndarray, start: float) -> np.ndarray:
    """Indices at which S has fallen by a quarter point more, and others evenly over U and S.

    Args:
        U, S: (N,) by ascending constant; U never falls, S never rises.
        start: S at constant 0.
    """
    levels = np.concatenate([start - _LOSSES, _levels(S[-1], S[0], 36)])
    last = np.searchsorted(-S, -levels + 1e-9, side="right") - 1  # with at least that S
    first = np.searchsorted(U, _levels(U[0], U[-1], 60) - 1e-9)
    return np.concatenate([last, first]).clip(0, len(U) - 1)


def _levels(low: float, high: float, count: int) -> np.ndarray:
    return low + (high - low) * np.arange(count) / (count - 1)
