"""Measures against hand-computed numbers, scikit-learn, plain loops and their own invariants."""

# ruff: noqa: SIM300 (takes the attributes S, H, T1, AUSUC for constants)

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from mlis.errors import DataError
from mlis.evaluation import (
    SeenUnseenCurve,
    best_calibration,
    evaluate,
    harmonic_mean,
    seen_unseen_curve,
    summarise,
)

# Six images, classes: cat, dog seen; fox, owl unseen. Worked out by hand:
#   image  label  scores               arg max  best seen  best unseen  margin
#   0      cat    [8, 2, 1, 0]         cat      cat        fox          +7
#   1      cat    [3, 6, 1, 0]         dog      dog (no)   fox          +5   never right
#   2      dog    [1, 4, 5, 0]         fox      dog        fox          -1
#   3      fox    [5, 1, 3, 0]         cat      cat        fox          +2
#   4      fox    [0, 1, 9, 2]         fox      dog        fox          -8
#   5      owl    [0, 2, 6, 5]         fox      dog        fox (no)     -4   never right
# U = (1/2 + 0)/2 = 25 %, S = (1/2 + 0)/2 = 25 %, H = 25; T1 = (1 + 0)/2 = 50.
# Points (U, S) as c grows: (0, 75) -8 (25, 75) -1 (25, 25) +2 (50, 25) +7 (50, 0):
# area = 0.25·75 + 0.25·25 = 25; H at the points: 0, 37.5, 25, 33.33, 0.
HAND = np.array(
    [
        [8, 2, 1, 0],
        [3, 6, 1, 0],
        [1, 4, 5, 0],
        [5, 1, 3, 0],
        [0, 1, 9, 2],
        [0, 2, 6, 5],
    ],
    dtype=np.float32,
)
HAND_LABELS = np.array([0, 0, 1, 2, 2, 3])
HAND_SEEN = np.array([True, True, False, False])
NAMES = ("cat", "dog", "fox", "owl")


def test_hand_computed_example():
    result = evaluate(HAND, HAND_LABELS, HAND_SEEN, NAMES)
    assert (result.U, result.S, result.H, result.T1) == (25, 25, 25, 50)
    assert result.AUSUC == pytest.approx(25)
    assert result.best_H == pytest.approx(37.5)
    assert result.overall == pytest.approx(100 * 2 / 6)
    assert [(row.name, row.seen, row.images, row.accuracy) for row in result.per_class] == [
        ("cat", True, 2, 50.0),
        ("dog", True, 1, 0.0),
        ("fox", False, 2, 50.0),
        ("owl", False, 1, 0.0),
    ]
    assert [(c.label, c.predicted, c.count, c.share) for c in result.confusions] == [
        ("cat", "dog", 1, 50.0),
        ("dog", "fox", 1, 100.0),
        ("fox", "cat", 1, 50.0),
        ("owl", "fox", 1, 100.0),
    ]
    curve = seen_unseen_curve(HAND, HAND_LABELS, HAND_SEEN)
    np.testing.assert_allclose(curve.U, [0, 25, 25, 50, 50])
    np.testing.assert_allclose(curve.S, [75, 75, 25, 25, 0])
    np.testing.assert_array_equal(curve.knots, [-8, -1, 2, 7])
    assert best_calibration(HAND, HAND_LABELS, HAND_SEEN) == -4.5  # between -8 and -1


def calibrated(scores: np.ndarray, seen_mask: np.ndarray, constant: float) -> np.ndarray:
    return np.where(seen_mask, scores.astype(np.float64) - constant, scores)


def loop_accuracy(scores, labels, classes, candidates):
    """Mean over `classes` of the share of their images whose best candidate is their label."""
    shares = []
    for c in classes:
        rows = [i for i in range(len(labels)) if labels[i] == c]
        if rows:
            right = [max(candidates, key=lambda j, i=i: scores[i, j]) == c for i in rows]
            shares.append(100 * sum(right) / len(right))
    return sum(shares) / len(shares)


def brute_force_curve(scores, labels, seen_mask):
    """U and S by loops, at a constant in every interval between margins and beyond both ends."""
    margins = np.unique(scores[:, seen_mask].max(1) - scores[:, ~seen_mask].max(1))
    constants = [margins[0] - 1, *((margins[1:] + margins[:-1]) / 2), margins[-1] + 1]
    everything = range(len(seen_mask))
    points = []
    for c in constants:
        shifted = calibrated(scores, seen_mask, c)
        points.append(
            [
                loop_accuracy(shifted, labels, np.flatnonzero(kind), everything)
                for kind in (~seen_mask, seen_mask)
            ]
        )
    return np.array(constants), *np.array(points).T


def random_problem(seed: int, images: int = 120, classes: int = 7, unseen: int = 3):
    """Scores that know a little of the label; classes of unequal size; classes shuffled."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images - classes) ** 2])
    labels = np.minimum(labels % classes, classes - 1)
    scores = rng.normal(size=(images, classes))
    scores[np.arange(images), labels] += 1.2
    seen_mask = rng.permutation(np.arange(classes) >= unseen)
    return scores, labels, seen_mask


@pytest.mark.parametrize("seed", range(2))
def test_agrees_with_scikit_learn(seed: int):
    scores, labels, seen_mask = random_problem(seed)
    result = evaluate(scores, labels, seen_mask, [f"c{i}" for i in range(7)])
    predicted = scores.argmax(1)
    for value, rows in ((result.S, seen_mask[labels]), (result.U, ~seen_mask[labels])):
        macro = metrics.recall_score(
            labels[rows], predicted[rows], labels=np.unique(labels[rows]), average="macro"
        )
        assert value == pytest.approx(100 * macro)
    both = metrics.balanced_accuracy_score(labels, predicted)
    assert (result.U * 3 + result.S * 4) / 7 == pytest.approx(100 * both)
    assert result.overall == pytest.approx(100 * metrics.accuracy_score(labels, predicted))
    expected = metrics.confusion_matrix(labels, predicted, labels=range(7))
    np.testing.assert_array_equal(result.confusion_counts, expected)
    per_class = metrics.recall_score(labels, predicted, average=None)
    np.testing.assert_allclose([row.accuracy for row in result.per_class], 100 * per_class)
    unseen = np.flatnonzero(~seen_mask)
    rows = ~seen_mask[labels]
    zero_shot = unseen[scores[rows][:, unseen].argmax(1)]
    expected = metrics.balanced_accuracy_score(labels[rows], zero_shot)
    assert result.T1 == pytest.approx(100 * expected)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("decimals", [8, 0], ids=["distinct margins", "tied margins"])
def test_curve_is_the_brute_force_curve(seed: int, decimals: int):
    scores, labels, seen_mask = random_problem(seed, images=60)
    scores = (scores * 3).round(decimals)
    constants, U, S = brute_force_curve(scores, labels, seen_mask)
    curve = seen_unseen_curve(scores, labels, seen_mask)
    interval = np.searchsorted(curve.knots, constants)
    # within a kind, arg max breaks ties by the lower index, like `max` in the loops above
    np.testing.assert_allclose(curve.U[interval], U, atol=1e-9)
    np.testing.assert_allclose(curve.S[interval], S, atol=1e-9)
    result = evaluate(scores, labels, seen_mask, [str(i) for i in range(7)])
    assert result.AUSUC == pytest.approx(100 * metrics.auc(U / 100, S / 100))
    H = [harmonic_mean(u, s) for u, s in zip(U, S, strict=True)]
    assert result.best_H == pytest.approx(max(H))


@pytest.mark.parametrize("seed", range(3))
def test_best_calibration_reaches_best_h_and_is_mid_interval(seed: int):
    scores, labels, seen_mask = random_problem(seed)
    names = [str(i) for i in range(7)]
    constant = best_calibration(scores, labels, seen_mask)
    best = evaluate(scores, labels, seen_mask, names).best_H

    def H(c: float) -> float:
        return evaluate(calibrated(scores, seen_mask, c), labels, seen_mask, names).H

    assert H(constant) == pytest.approx(best)
    knots = seen_unseen_curve(scores, labels, seen_mask).knots
    right = np.searchsorted(knots, constant)
    half = (knots[right] - knots[right - 1]) / 2
    for sign in (-1, 1):
        assert H(constant + sign * 0.99 * half) == pytest.approx(best)
        assert H(constant + sign * 1.01 * half) < best - 1e-9


def test_best_calibration_takes_the_widest_of_equally_good_intervals():
    # margins: unseen right at 0 and 11, seen right at 1 and 20; H = 66.7 in (0, 1) and (11, 20)
    margins = np.array([0.0, 11.0, 1.0, 20.0])
    scores = np.stack([margins, np.zeros(4)], axis=1)
    labels = np.array([1, 1, 0, 0])
    assert best_calibration(scores, labels, np.array([True, False])) == 15.5


def test_best_calibration_is_zero_when_no_constant_helps():
    scores = np.array([[0.0, 3.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])  # wrong within their kind
    assert best_calibration(scores, np.array([0, 2]), HAND_SEEN) == 0.0


small_scores = hnp.arrays(
    np.float64, st.tuples(st.integers(2, 12), st.just(5)), elements=st.integers(-6, 6)
)


@st.composite
def problems(draw):
    """Integer scores (exact sums, many ties), at least one image of each kind."""
    scores = draw(small_scores)
    unseen = draw(st.integers(1, 4))
    seen_mask = np.arange(5) >= unseen
    rest = draw(st.lists(st.integers(0, 4), min_size=len(scores) - 2, max_size=len(scores) - 2))
    return scores, np.array([0, 4, *rest]), seen_mask


@settings(max_examples=30)
@given(problems())
def test_extreme_constants(problem):
    scores, labels, seen_mask = problem
    result = evaluate(scores, labels, seen_mask, "abcde")
    unseen_only = evaluate(calibrated(scores, seen_mask, 1e3), labels, seen_mask, "abcde")
    assert unseen_only.S == 0
    assert unseen_only.U == result.T1 == unseen_only.T1
    seen_only = evaluate(calibrated(scores, seen_mask, -1e3), labels, seen_mask, "abcde")
    assert seen_only.U == 0
    assert seen_only.S >= result.S
    assert seen_only.AUSUC == pytest.approx(result.AUSUC)
    assert unseen_only.AUSUC == pytest.approx(result.AUSUC)


@settings(max_examples=30)
@given(problems(), st.data())
def test_a_constant_added_to_all_scores_of_an_image_changes_nothing(problem, data):
    scores, labels, seen_mask = problem
    shift = data.draw(hnp.arrays(np.float64, (len(scores), 1), elements=st.integers(-50, 50)))
    before = evaluate(scores, labels, seen_mask, "abcde")
    assert evaluate(scores + shift, labels, seen_mask, "abcde").to_dict() == before.to_dict()
    constant = best_calibration(scores, labels, seen_mask)
    assert best_calibration(scores + shift, labels, seen_mask) == constant


@settings(max_examples=30)
@given(problems())
def test_curve_is_monotone_and_bounds_the_measures(problem):
    scores, labels, seen_mask = problem
    result = evaluate(scores, labels, seen_mask, "abcde")
    curve = result.curve
    assert isinstance(curve, SeenUnseenCurve)
    assert curve.U[0] == curve.S[-1] == 0
    assert (np.diff(curve.U) >= 0).all()
    assert (np.diff(curve.S) <= 0).all()
    assert curve.U[-1] == pytest.approx(result.T1)
    assert -1e-9 <= result.AUSUC <= result.T1 * curve.S[0] / 100 + 1e-9
    assert result.best_H >= result.H


def test_classes_without_images_are_left_out_and_named():
    keep = HAND_LABELS != 3
    result = evaluate(HAND[keep], HAND_LABELS[keep], HAND_SEEN, NAMES)
    assert result.U == 50  # fox alone
    assert result.T1 == 100
    assert result.without_images == ("owl",)
    assert result.per_class[3].accuracy is None
    assert result.notes == ()


@pytest.mark.parametrize(
    ("kind", "defined", "undefined", "note"),
    [
        ("seen", {"S": 25.0}, ("U", "H", "T1", "AUSUC", "best_H"), "no unseen class has test"),
        ("unseen", {"U": 25.0, "T1": 50.0}, ("S", "H", "AUSUC", "best_H"), "no seen class has"),
    ],
)
def test_one_kind_without_images(kind, defined, undefined, note):
    rows = HAND_SEEN[HAND_LABELS] == (kind == "seen")
    result = evaluate(HAND[rows], HAND_LABELS[rows], HAND_SEEN, NAMES)
    for name, value in defined.items():
        assert getattr(result, name) == value
    assert all(getattr(result, name) is None for name in undefined)
    assert len(result.notes) == 1
    assert note in result.notes[0]
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["H"] is None
    assert "H –" in str(result)
    with pytest.raises(DataError, match="images of both kinds"):
        seen_unseen_curve(HAND[rows], HAND_LABELS[rows], HAND_SEEN)


def test_to_dict_is_strict_json_and_labels_the_optimistic_number():
    result = evaluate(HAND, HAND_LABELS, HAND_SEEN, NAMES).to_dict()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert "best_H" not in result
    assert result["best_H_optimistic"] == pytest.approx(37.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_with_their_place(bad: float):
    scores = HAND.copy()
    scores[3, 1] = bad
    with pytest.raises(DataError, match=r"row 3, class 1 \(1 such scores in 1 rows\)"):
        evaluate(scores, HAND_LABELS, HAND_SEEN, NAMES)
    with pytest.raises(DataError, match="row 3, class 1"):
        best_calibration(scores, HAND_LABELS, HAND_SEEN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": HAND[0]}, r"non-empty numeric \(images, classes\)"),
        ({"scores": HAND[:, :0]}, "non-empty"),
        ({"scores": HAND.astype(str)}, "numeric"),
        ({"labels": HAND_LABELS[:5]}, r"shape \(6,\)"),
        ({"labels": HAND_LABELS.astype(float)}, "integers"),
        ({"labels": HAND_LABELS + 1}, r"labels in 0\.\.3, got 4 in row 5"),
        ({"labels": HAND_LABELS - 1}, r"labels in 0\.\.3, got -1 in row 0"),
        ({"seen_mask": np.array([0, 1])}, "seen_mask to be bool"),
        ({"seen_mask": HAND_SEEN[:3]}, r"shape \(4,\)"),
        ({"class_names": NAMES[:3]}, "expected 4 class names .* got 3"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {
        "scores": HAND,
        "labels": HAND_LABELS,
        "seen_mask": HAND_SEEN,
        "class_names": NAMES,
    }
    with pytest.raises(DataError, match=message):
        evaluate(**{**arguments, **change})


def test_summarise_uses_the_sample_deviation():
    seeds = [{"U": u, "S": 50.0, "H": 40.0, "per_class": []} for u in (1.0, 2.0, 6.0)]
    summary = summarise(seeds)
    assert summary["U"] == [1.0, 2.0, 6.0]
    assert summary["U_mean"] == 3.0
    assert summary["U_std"] == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert summary["S_std"] == 0.0
    assert "per_class" not in summary


@pytest.mark.parametrize(
    ("results", "message"),
    [([], "at least one seed"), ([{"U": 1.0}, {"S": 1.0}], "'U'.* result 1")],
)
def test_summarise_refuses(results, message):
    with pytest.raises(DataError, match=message):
        summarise(results)
