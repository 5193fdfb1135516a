"""AUROC and the risk-coverage curve against slow counts of pairs and thresholds."""

import numpy as np
import pytest

from mlis.errors import DataError
from mlis.evaluation import auroc, evaluate_rejection


def scores(seed: int):
    rng = np.random.default_rng(seed)
    known, unknown = rng.integers(2, 12, 60).astype(float), rng.integers(0, 9, 25).astype(float)
    return known, rng.random(60) < 0.7, unknown  # integers: many are equal


@pytest.mark.parametrize("seed", range(3))
def test_auroc_counts_pairs(seed):
    known, _, unknown = scores(seed)
    pairs = [(a > b) + 0.5 * (a == b) for a in known for b in unknown]
    assert auroc(known, unknown) == pytest.approx(100 * np.mean(pairs), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_unknown", [True, False])
def test_the_curve_counts_answered_images_at_every_threshold(seed, with_unknown):
    known, right, unknown = scores(seed)
    found = evaluate_rejection(known, right, unknown if with_unknown else None)
    every = np.concatenate([known, unknown]) if with_unknown else known
    points, area = [], 0.0
    for threshold in sorted(set(every.tolist()), reverse=True):
        answered = sum(one >= threshold for one in every)
        good = sum(one >= threshold and ok for one, ok in zip(known, right, strict=True))
        points.append((100 * answered / len(every), 100 * (answered - good) / answered))
        area += points[-1][1] * sum(one == threshold for one in every) / len(every)
    np.testing.assert_allclose(np.stack([found.coverage, found.risk], 1), points, rtol=1e-12)
    assert found.area == pytest.approx(area, rel=1e-12)
    assert (found.auroc is None) is not with_unknown
    assert found.to_dict()["risk_coverage"][-1][0] == 100


def test_order_of_images_does_not_matter():
    known, right, unknown = scores(0)
    order = np.random.default_rng(1).permutation(len(known))
    one = evaluate_rejection(known, right, unknown)
    other = evaluate_rejection(known[order], right[order], unknown[::-1])
    np.testing.assert_array_equal(one.risk, other.risk)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(DataError, match="row 1"):
        auroc(np.array([1.0, np.nan]), np.array([0.0]))
    with pytest.raises(DataError, match=r"\(3,\)"):
        evaluate_rejection(np.zeros(3), np.array([True]))
    with pytest.raises(DataError, match=r"\(0,\)"):
        evaluate_rejection(np.zeros(0), np.zeros(0, dtype=bool))
