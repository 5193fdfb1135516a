"""Which of several trained methods to average, by their accuracy on validation classes.

A validation split holds out a few classes, so that the harmonic mean of one method moves by several
points between splits, and the method that is best on held-out classes is often not the best on
the test classes. So validation chooses between *like* methods, those of one family, where
differences are consistent; *unlike* families are averaged, with the shares nearest to equal ones
that are within one standard error of the best (docs/auto.md).
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlis.evaluation import SeenUnseenCurve, TradeOff, average_constant
from mlis.methods.base import Method
from mlis.protocol import HeldOut

QUARTERS = 4
"""Shares of families are multiples of one over this."""
ONE_SPLIT = 15.0
"""Points of H that count as noise where there is one split, from which none can be estimated."""


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
        shares: of each member, with sum 1; the members of a family have equal ones.
        held_out: the ensemble's scores on the folds that all members were tried on.
    """

    weights: Mapping[str, float]
    shares: Mapping[str, float]
    held_out: Sequence[HeldOut]

    @property
    def curves(self) -> list[SeenUnseenCurve]:
        """Of each fold."""
        return [one.curve() for one in self.held_out]


def choose_members(trials: Sequence[Trial]) -> Choice:
    """The best subset of each family, averaged over families with the shares of `_shares`.

    Scores of a member are divided by their spread, those of a family by its own. Of the shares that
    are as good as the best (`nearest_of_equals`) the ones nearest to equal shares are taken.
    """
    families: list[dict[str, float]] = []
    for name in dict.fromkeys(one.family for one in trials):
        subset = _best_subset([one for one in trials if one.family == name])
        unit = spread(combine(trials, subset))
        families.append({one: weight / unit for one, weight in subset.items()})
    common = set.intersection(*(set(o.folds) for o in trials if any(o.name in f for f in families)))
    shares = _shares(len(families))
    tried = [_shared(families, share) for share in shares]
    H = np.stack([fold_H(combine(trials, weights, common)) for weights in tried])
    chosen = nearest_of_equals(H, np.abs(shares - 1 / len(families)).sum(1))
    weights = tried[chosen]
    if len(weights) == 1:
        weights = dict.fromkeys(weights, 1.0)
    parts = zip(families, shares[chosen].tolist(), strict=True)
    shown = {name: share / len(family) for family, share in parts if share for name in family}
    return Choice(weights, shown, combine(trials, weights))


def _shares(families: int) -> np.ndarray:
    """(K, families) shares, each row with sum 1: all quarters, and equal ones."""
    draws = itertools.combinations_with_replacement(range(families), QUARTERS)
    rows = sorted(tuple(map(draw.count, range(families))) for draw in draws)
    found = [tuple(part / QUARTERS for part in row) for row in rows]
    return np.array(list(dict.fromkeys([(1 / families,) * families, *found])))


def _shared(families: Sequence[Mapping[str, float]], shares: np.ndarray) -> dict[str, float]:
    """Weights of the members of families with these shares; of equal ones, as they are."""
    return {
        name: weight * share * len(families)
        for family, share in zip(families, shares.tolist(), strict=True)
        for name, weight in family.items()
        if share > 0
    }


def nearest_of_equals(H: np.ndarray, distance: Sequence[float] | np.ndarray) -> int:
    """Number of the choice that is as good as the best and nearest to what is taken in doubt.

    As good: on average no more behind the best than one standard error of that difference over
    folds; on one fold, than `ONE_SPLIT` points.

    Args:
        H: (C, F) of C choices on F folds, in per cent.
        distance: (C,) from the choice that is taken where validation says nothing.
    """
    best = int(H.mean(1).argmax())
    behind = H[best] - H
    folds = H.shape[1]
    noise = behind.std(1, ddof=1) / folds**0.5 if folds > 1 else np.full(len(H), ONE_SPLIT)
    equal = np.flatnonzero(behind.mean(1) <= noise)
    return min(equal.tolist(), key=lambda i: (round(float(distance[i]), 9), -H[i].mean()))


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


def fold_H(held_out: Sequence[HeldOut]) -> np.ndarray:
    """(F,) H of each fold at the constant that is best on average."""
    return H_at_common_constant([one.curve() for one in held_out])


def H_at_common_constant(curves: Sequence[SeenUnseenCurve]) -> np.ndarray:
    """(F,) H of each curve at the constant that is best on average."""
    constant = average_constant(curves)
    return np.array([curve.H[np.searchsorted(curve.knots, constant)] for curve in curves])


def mean_H(held_out: Sequence[HeldOut]) -> float:
    """Mean H over folds at the constant that is best on average."""
    return float(fold_H(held_out).mean())


def spread(held_out: Sequence[HeldOut]) -> float:
    """Standard deviation of scores, each row's highest subtracted; mean over folds."""
    found = [np.std(one.scores - one.scores.max(1, keepdims=True)) for one in held_out]
    return max(float(np.mean(found)), 1e-12)
