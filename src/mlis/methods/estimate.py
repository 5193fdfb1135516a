"""Predicts the test accuracy from the validation splits alone."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlis.data.dataset import GZSLDataset
from mlis.methods.base import JobOptions, Method
from mlis.methods.portfolio import tradeoff
from mlis.protocol import HeldOut


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


def lost_by_fewer(method: Method, part: GZSLDataset, whole: GZSLDataset, how: JobOptions) -> float:
    """Points of T1 that a fold loses by having fewer seen classes than the whole training.

    The gain from half of the fold's seen classes to all of them is one doubling; it is measured by
    training a method twice, which should be a quick one.

    Args:
        method: to measure with.
        part: a fold.
        whole: the dataset of the fold.
        how: seed, device, …, as of :meth:`~mlis.methods.base.Method.fit`.
    """
    labels, split = part.labels, part.split
    seen = np.unique(labels[split.train])
    half = np.random.default_rng(0).permutation(seen)[: len(seen) // 2]
    if len(half) < 2:
        return 0.0
    train, val_seen = (rows[np.isin(labels[rows], half)] for rows in (split.train, split.val_seen))
    smaller = dataclasses.replace(split, train=train, val_seen=val_seen)
    fewer = dataclasses.replace(part, split=smaller)
    found: list[float] = []
    for one in (part, fewer):
        training, test = one.for_validation()
        recognizer = method.fit(training, exemplars=False, **how).recognizer
        scores = recognizer.scores(test.features)
        held_out = HeldOut(scores, test.labels, test.seen_mask, test.class_names)
        found.append(accuracy_among(held_out, np.flatnonzero(~test.seen_mask)))
    gain = (found[0] - found[1]) / float(np.log2(len(seen) / len(half)))
    return max(gain, 0.0) * float(np.log2(len(whole.seen_classes) / len(seen)))
