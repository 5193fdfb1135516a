"""The compact trade-off: what "seen-loss=P" means, against the definition on every image."""

import dataclasses
import json

import numpy as np
import pytest

from mlis.evaluation import TradeOff, common_constant, seen_unseen_curve
from mlis.evaluation.tradeoff import MOST

SEEN = np.arange(9) < 6


def fold(seed: int, images: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Scores of nine classes, too high for the six seen ones; and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 9, images)
    scores = rng.normal(size=(images, 9)) + 2.5 * np.eye(9)[labels] + 1.5 * SEEN
    return scores, labels


def accuracy(scores: np.ndarray, labels: np.ndarray, constant: float, seen: bool) -> float:
    """Mean per class, class by class."""
    predicted = (scores - constant * SEEN).argmax(1)
    classes = np.flatnonzero(seen == SEEN)
    return 100 * float(np.mean([(predicted[labels == c] == c).mean() for c in classes]))


@pytest.fixture(scope="module", params=[1, 3])
def folds(request):
    return [fold(seed) for seed in range(request.param)]


@pytest.fixture(scope="module")
def known(folds) -> TradeOff:
    curves = [seen_unseen_curve(scores, labels, SEEN) for scores, labels in folds]
    return TradeOff.of(curves, common_constant(curves))


def mean(folds, constant: float, seen: bool) -> float:
    return float(np.mean([accuracy(*one, constant, seen) for one in folds]))


@pytest.mark.parametrize("loss", [0, 2, 5, 10, 25])
def test_seen_loss_is_the_largest_constant_that_loses_at_most_so_much(folds, known, loss):
    constant = known.constant(f"seen-loss={loss}")
    least = mean(folds, 0.0, True) - loss - 1e-3
    assert constant >= 0
    assert mean(folds, constant, True) >= least
    knots = np.unique(np.concatenate([seen_unseen_curve(*one, SEEN).knots for one in folds]))
    beyond = knots[knots > constant]
    after = (beyond[0] + beyond[1]) / 2  # past the next image that moves
    assert mean(folds, after, True) < least


def test_the_best_constant_and_numbers_stay(folds, known):
    curves = [seen_unseen_curve(*one, SEEN) for one in folds]
    assert known.constant("validation") == known.constant("h") == common_constant(curves)
    assert known.constant(0.25) == 0.25
    assert known.splits == len(folds)


def test_what_is_kept_is_small_and_exact(folds, known):
    assert len(known.constants) <= MOST
    assert {0.0, known.best} <= set(known.constants)
    for point in known.points[::10]:
        assert pytest.approx(mean(folds, point.constant, True), abs=1e-3) == point.S
        assert pytest.approx(mean(folds, point.constant, False), abs=1e-3) == point.U
    gaps = np.abs(np.diff(known.U)) + np.abs(np.diff(known.S))
    assert gaps.max() < 6  # no jump on the way


def test_everything_may_be_lost(known):
    end = known.at(known.constant("seen-loss=100"))
    assert end.S < 2
    assert max(known.U) == end.U


def test_round_trip_and_what_is_refused(known):
    values = json.loads(json.dumps(known.to_dict()))
    assert TradeOff.from_dict(values) == known
    K = len(known.constants)
    for change in (
        {"S": values["S"][:-1]},
        {"U": [101.0] * K},
        {"U": ["a"] * K},
        {"S": [None] * K},
        {"constants": values["constants"][::-1]},
        {"best": 0.123},
        {"best": "0"},
        {"splits": 0},
        {"splits": True},
        {"more": 1},
    ):
        with pytest.raises((ValueError, TypeError)):
            TradeOff.from_dict({**values, **change})
    with pytest.raises(ValueError, match="expected constants"):
        TradeOff.from_dict({})


def test_a_trade_off_of_a_single_point():
    """Of images that are all wrong nothing moves, so that only constant 0 is kept."""
    scores, labels = np.eye(9)[[1, 2, 7, 8]] * 1.0, np.array([2, 1, 8, 7])
    known = TradeOff.of([seen_unseen_curve(scores, labels, SEEN)], 0.0)
    assert known.constants == (0.0,)
    assert known.at(3.0)[1:] == (0.0, 0.0, 0.0)
    assert known.constant("seen-loss=5") == 0.0
    assert dataclasses.replace(known) == known
