"""Which of several trained methods to average, by their accuracy on validation classes.

A validation split holds out a few classes, so that the harmonic mean of one method moves by several
points between splits, and the method that is best on held-out classes is often not the best on
the test classes. So validation chooses between *like* methods, those of one family, where
differences are consistent; *unlike* families are averaged, equally, which is usually better than
the best of them (docs/auto.md). Only a family that is hopeless on validation is left out.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlis.evaluation import SeenUnseenCurve, TradeOff, average_constant
from mlis.methods.base import Method
from mlis.protocol import HeldOut

HOPELESS = 15.0
"""Points of H below the best family from which a family is left out."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A method of the portfolio and its scores on the folds that it was tried on.

    Attributes:
        name: of the method.
        family: methods of one family are alternatives, families are averaged.
        method: with the settings that are best on these folds.
        folds: scores of held-out rows by the number of the fold.
        seconds: of a training on a fold.
    """

    name: str
    family: str
    method: Method
    folds: Mapping[int, HeldOut]
    seconds: float

    @property
    def spread(self) -> float:
        """The unit of its scores."""
        return spread(list(self.folds.values()))


@dataclass(frozen=True, eq=False)
class Choice:
    """Weights of the members of an ensemble, and what it does on the folds.

    Attributes:
        weights: factor of each member's scores, by name.
        held_out: the ensemble's scores on the folds that all members were tried on.
    """

    weights: Mapping[str, float]
    held_out: Sequence[HeldOut]

    @property
    def curves(self) -> list[SeenUnseenCurve]:
        """Of each fold."""
        return [one.curve() for one in self.held_out]


def choose_members(trials: Sequence[Trial]) -> Choice:
    """The best subset of each family, averaged over families that are not hopeless.

    Scores of a member are divided by their spread, those of a family by its own.
    """
    families: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(one.family for one in trials):
        families[name] = _best_subset([one for one in trials if one.family == name])
    worth = {name: mean_H(combine(trials, weights)) for name, weights in families.items()}
    best = max(worth.values())
    kept = [name for name in families if worth[name] >= best - HOPELESS]
    weights: dict[str, float] = {}
    for name in kept:
        unit = spread(combine(trials, families[name]))
        weights |= {one: weight / unit for one, weight in families[name].items()}
    if len(weights) == 1:
        weights = dict.fromkeys(weights, 1.0)
    return Choice(weights, combine(trials, weights))


def _best_subset(family: Sequence[Trial]) -> dict[str, float]:
    """Equal weights, in units of spread, of the members whose average has the best H."""
    subsets = [
        {one.name: 1 / one.spread for one in subset}
        for size in range(len(family), 0, -1)  # of equals the largest: averages vary less
        for subset in itertools.combinations(family, size)
    ]
    common = set.intersection(*(set(one.folds) for one in family))
    return max(subsets, key=lambda weights: round(mean_H(combine(family, weights, common)), 9))


def combine(
    trials: Sequence[Trial], weights: Mapping[str, float], folds: Iterable[int] | None = None
) -> list[HeldOut]:
    """Weighted sums of the members' scores, on the folds that all of them have."""
    members = [one for one in trials if one.name in weights]
    if folds is None:
        folds = set.intersection(*(set(one.folds) for one in members))
    found: list[HeldOut] = []
    for fold in sorted(folds):
        first = members[0].folds[fold]
        scores = np.zeros_like(first.scores)
        for one in members:
            scores += np.float32(weights[one.name]) * one.folds[fold].scores
        densities = (one.folds[fold].densities for one in members)
        known = next((each for each in densities if each is not None), None)
        about = (first.labels, first.seen_mask, first.class_names)
        found.append(HeldOut(scores, *about, densities=known))
    return found


def tradeoff(curves: Sequence[SeenUnseenCurve]) -> TradeOff:
    """What a model keeps, with `average_constant` as the best."""
    return TradeOff.of(curves, average_constant(curves))


def mean_H(held_out: Sequence[HeldOut]) -> float:
    """Mean H over folds at the constant that is best on average."""
    curves = [one.curve() for one in held_out]
    constant = average_constant(curves)
    return float(np.mean([curve.H[np.searchsorted(curve.knots, constant)] for curve in curves]))


def spread(held_out: Sequence[HeldOut]) -> float:
    """Standard deviation of scores, each row's highest subtracted; mean over folds."""
    found = [np.std(one.scores - one.scores.max(1, keepdims=True)) for one in held_out]
    return max(float(np.mean(found)), 1e-12)
