"""Which of several trained methods to average, by what they do on validation classes.

A validation split holds out a few classes, so that the harmonic mean of one method moves by several
points between splits, and the method that is best on held-out classes is often not the best on
the test classes. So validation chooses between *like* methods, those of one family, where
differences are consistent; *unlike* families are averaged, equally, which is nowhere much worse
than the best of them and usually better. Only a family that is hopeless on validation is left out.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlis.evaluation import SeenUnseenCurve, TradeOff
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
    worth = {name: harmonic(combine(trials, weights)) for name, weights in families.items()}
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
    return max(subsets, key=lambda weights: round(harmonic(combine(family, weights, common)), 9))


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
        found.append(HeldOut(scores, first.labels, first.seen_mask, first.class_names))
    return found


def average_constant(curves: Sequence[SeenUnseenCurve]) -> float:
    """The mean over folds of the constant with the best H: it varies least between folds."""
    return float(np.mean([curve.best_constant() for curve in curves]))


def tradeoff(curves: Sequence[SeenUnseenCurve]) -> TradeOff:
    """What a model keeps, with `average_constant` as the best."""
    return TradeOff.of(curves, average_constant(curves))


def harmonic(held_out: Sequence[HeldOut]) -> float:
    """Mean H over folds at the constant that is best on average."""
    curves = [one.curve() for one in held_out]
    constant = average_constant(curves)
    return float(np.mean([curve.H[np.searchsorted(curve.knots, constant)] for curve in curves]))


def spread(held_out: Sequence[HeldOut]) -> float:
    """Standard deviation of scores, each row's highest subtracted; mean over folds."""
    found = [np.std(one.scores - one.scores.max(1, keepdims=True)) for one in held_out]
    return max(float(np.mean(found)), 1e-12)


@dataclass(frozen=True)
class Estimate:
    """What is to be expected of the test, from validation: (low, middle, high), per cent.

    Attributes:
        U, S, H, T1: accuracy on unseen classes, on seen classes, their harmonic mean, and the
            accuracy on unseen classes among themselves.
    """

    U: tuple[float, float, float]
    S: tuple[float, float, float]
    H: tuple[float, float, float]
    T1: tuple[float, float, float]

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {middle:.0f} ({low:.0f} to {high:.0f})"
            for name, (low, middle, high) in vars(self).items()
        )


LEAST_RANGE = 4.0
"""Half the width of an estimate's range at least, in points."""


def expect(
    held_out: Sequence[HeldOut],
    unseen: int,
    rng: np.random.Generator,
    learning: Sequence[float] = (),
    calibration: float | str = "validation",
) -> Estimate:
    """Estimate U, S, H and T1 of a test with `unseen` unseen classes.

    A validation split differs from the test in three ways, which are corrected. The constant was
    chosen on its rows: with several folds, each is measured at the constant of the others. Fewer
    classes may be held out than are unseen in the test: accuracy falls by some points with each
    doubling of the classes that compete, which is measured by dropping half of those that are held
    out. And fewer classes were trained on: `learning`.

    Args:
        held_out: the chosen ensemble's scores on each fold.
        unseen: number of unseen classes in the test.
        rng: draws the halves.
        learning: points of T1 that each fold loses by training on fewer seen classes than there
            are.
        calibration: the constant, or how it is chosen, as `classification.calibration`.
    """
    curves = [one.curve() for one in held_out]
    points: list[tuple[float, float, float]] = []
    for i, (curve, one) in enumerate(zip(curves, held_out, strict=True)):
        others = [other for j, other in enumerate(curves) if j != i] or [curve]
        at = int(np.searchsorted(curve.knots, tradeoff(others).constant(calibration)))
        count = int((~one.seen_mask).sum())
        change = learning[i] if learning else 0.0
        change -= _fall(one, rng) * np.log2(max(unseen, 1) / count)
        points.append((curve.U[at] + change, curve.S[at], curve.U[-1] + change))
    U, S, T1 = (np.clip(values, 0, 100) for values in np.array(points).T)
    H = 2 * U * S / np.maximum(U + S, 1e-9)
    return Estimate(*(_range(values) for values in (U, S, H, T1)))


def _fall(one: HeldOut, rng: np.random.Generator, draws: int = 8) -> float:
    """Points of T1 lost when twice as many held-out classes compete, at least 0."""
    classes = np.flatnonzero(~one.seen_mask)
    if len(classes) < 4:
        return 0.0
    whole = accuracy_among(one, classes)
    halves = [
        accuracy_among(one, rng.permutation(classes)[: len(classes) // 2]) for _ in range(draws)
    ]
    doublings = np.log2(len(classes) / (len(classes) // 2))
    return max(float(np.mean(halves)) - whole, 0.0) / float(doublings)


def accuracy_among(one: HeldOut, classes: np.ndarray) -> float:
    """Mean per-class accuracy among these classes alone."""
    rows = np.isin(one.labels, classes)
    predicted = classes[one.scores[rows][:, classes].argmax(1)]
    right = predicted == one.labels[rows]
    labels = one.labels[rows]
    return 100 * float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _range(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and two standard deviations of a fold below and above, within 0 to 100."""
    middle = float(values.mean())
    half = max(2 * float(values.std(ddof=1)) if len(values) > 1 else 0.0, LEAST_RANGE)
    return max(middle - half, 0.0), middle, min(middle + half, 100.0)
