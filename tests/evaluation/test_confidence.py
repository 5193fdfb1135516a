"""Calibration error, reliability diagram and temperature."""

import json
import logging

import numpy as np
import pytest
from scipy.special import softmax

from mlis.errors import DataError, SettingsError
from mlis.evaluation import best_temperature, evaluate_confidence

SEEN = np.array([True, True, False, False])


def drawn(rows: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose probabilities at this temperature are true: labels are drawn from them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=2.0, size=(rows, 4))
    chances = softmax(scores / temperature, axis=1)
    labels = (chances.cumsum(1) < rng.random((rows, 1))).sum(1)
    return scores, labels


def ece_of(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Written from the definition, without ties: images sorted, cut into parts of equal size."""
    order = np.argsort(confidence)
    parts = np.array_split(order, bins)
    gaps = [len(p) * abs(right[p].mean() - confidence[p].mean()) for p in parts]
    return 100 * sum(gaps) / len(confidence)


def test_the_error_is_that_of_the_definition():
    scores, labels = drawn(600, 1.0)
    found = evaluate_confidence(scores, labels, SEEN, temperature=0.5)
    chances = softmax(scores / 0.5, axis=1)
    confidence, right = chances.max(1), scores.argmax(1) == labels
    seen = SEEN[labels]
    assert found.all.images.tolist() == [40] * 15
    assert found.all.ece == pytest.approx(ece_of(confidence, right, 15))
    for part, rows in ((found.seen, seen), (found.unseen, ~seen)):
        single = evaluate_confidence(scores[rows], labels[rows], SEEN, temperature=0.5, bins=1).all
        assert part.images.sum() == rows.sum()
        assert single.ece == pytest.approx(ece_of(confidence[rows], right[rows], 1))
        assert part.ece >= single.ece


def test_true_probabilities_have_a_small_error_and_too_sure_ones_a_large_one():
    scores, labels = drawn(4000, 1.0)
    true = evaluate_confidence(scores, labels, SEEN)
    sure = evaluate_confidence(scores, labels, SEEN, temperature=0.25)
    assert true.all.ece < 4 < 10 < sure.all.ece
    assert (sure.all.confidence > sure.all.accuracy).mean() > 0.8


def test_predictions_of_equal_confidence_share_a_bin_in_any_order():
    scores = np.tile([[4.0, 0.0, 0.0, 0.0]], (90, 1))
    labels = np.repeat([0, 1, 2], [60, 20, 10])
    forward = evaluate_confidence(scores, labels, SEEN)
    backward = evaluate_confidence(scores, labels[::-1], SEEN)
    assert forward.to_dict() == backward.to_dict()
    assert forward.all.images.tolist() == [90]
    assert forward.all.accuracy.tolist() == pytest.approx([100 * 60 / 90])


def test_fewer_images_than_bins():
    found = evaluate_confidence(np.eye(4)[:3], np.array([0, 1, 1]), SEEN)
    assert found.unseen is None
    assert found.seen.images.sum() == 3
    assert found.to_dict()["ECE_unseen"] is None
    assert "unseen –" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_no_image_at_all():
    found = evaluate_confidence(np.empty((0, 4)), np.empty(0, dtype=int), SEEN)
    assert found.to_dict() == {"ECE": None, "ECE_seen": None, "ECE_unseen": None}


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_a_temperature_is_a_positive_number(temperature):
    with pytest.raises(SettingsError, match="temperature"):
        evaluate_confidence(np.eye(4), np.arange(4), SEEN, temperature=temperature)


def test_huge_scores_do_not_overflow():
    scores, labels = 1e30 * np.eye(4), np.arange(4)
    assert evaluate_confidence(scores, labels, SEEN).all.ece == 0


# --- the temperature ------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(true):
    scores, labels = drawn(20_000, true)
    assert best_temperature(scores, labels, SEEN) == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_it_is_in_the_unit_of_the_scores(scale):
    scores, labels = drawn(500, 1.0)
    assert best_temperature(scale * scores, labels, SEEN) == pytest.approx(
        scale * best_temperature(scores, labels, SEEN), rel=1e-3
    )


def test_nothing_near_it_is_likelier_and_kinds_and_classes_count_alike():
    scores, labels = drawn(300, 2.0)
    right = scores.argmax(1) == labels
    counts = np.bincount(labels)
    weights = 1 / (counts * np.where(SEEN, SEEN.sum(), (~SEEN).sum()))

    def loss(temperature: float) -> float:
        confidence = softmax(scores / temperature, axis=1).max(1)
        likelihood = np.where(right, confidence, 1 - confidence)
        return -float(weights[labels] @ np.log(likelihood))

    best = best_temperature(scores, labels, SEEN)
    assert loss(best) <= min(loss(0.99 * best), loss(1.01 * best))
    again = np.flatnonzero(labels == 0)  # one class has all its images twice
    doubled = np.concatenate([np.arange(len(labels)), again])
    found = best_temperature(scores[doubled], labels[doubled], SEEN)
    assert found == pytest.approx(best, rel=1e-3)


def test_a_few_hopeless_images_do_not_rule_it():
    """Their label has a probability of next to nothing at any temperature that suits the others."""
    scores, labels = drawn(2_000, 1.0)
    best = best_temperature(scores, labels, SEEN)
    rows = np.arange(10)
    scores[rows, (scores[rows].argmax(1) + 1) % 4] -= 1e4
    labels[rows] = (scores[rows].argmax(1) + 1) % 4
    assert best_temperature(scores, labels, SEEN) == pytest.approx(best, rel=0.1)


@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 3], [1, 2, 3, 0]], ids=["all right", "worse than chance"]
)
def test_without_a_best_one_it_is_1_and_said(labels, caplog):
    with caplog.at_level(logging.WARNING, logger="mlis"):
        assert best_temperature(np.eye(4), np.array(labels), SEEN) == 1.0
    assert "4 validation images" in caplog.text


def test_constant_scores_have_no_best_one(caplog):
    assert best_temperature(np.zeros((5, 4)), np.arange(5) % 4, SEEN) == 1.0


def test_wrong_arguments_of_the_temperature():
    with pytest.raises(DataError, match=r"labels in 0\.\.3"):
        best_temperature(np.eye(4), np.array([0, 1, 2, 4]), SEEN)
    with pytest.raises(DataError, match="non-empty"):
        best_temperature(np.empty((0, 4)), np.empty(0, dtype=int), SEEN)
