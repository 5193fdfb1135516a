"""The score of how known an image looks, its quantiles, and the models that keep them."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from cli_cases import small_dataset as small
from mlis.config import checked_rate
from mlis.errors import DataError, ModelFileError, SettingsError
from mlis.image_classifier import top_classes
from mlis.io.checkpoint import load_model, save_model
from mlis.methods.registry import build_method
from mlis.model.recognizer import Recognizer, replace
from mlis.model.rejection import (
    LEVELS,
    UNKNOWN,
    check_reject,
    class_weighted_quantiles,
    known_levels,
    known_scores,
)


@pytest.fixture(scope="module")
def gaussian() -> Recognizer:
    return build_method("gaussian").choose(small(), seed=0).recognizer


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.asarray(small().for_testing().features)


def test_the_score_is_the_log_density_over_that_of_any_class(gaussian, rows):
    head = gaussian.head.double()
    h = gaussian.preprocessing(torch.from_numpy(rows[:8]).double())
    z = (h - head.offset) @ head.projection.T
    square, linear = head.weight.chunk(2, dim=1)
    variances = 1 / (1 - 2 * square)
    means = linear * variances
    cov = torch.from_numpy(np.cov(means.numpy().T, bias=True)) + variances.mean(0).diag()
    normal = torch.distributions.MultivariateNormal
    other = normal(means.mean(0), cov).log_prob(z)
    own = torch.stack(
        [normal(m, v.diag()).log_prob(z) for m, v in zip(means, variances, strict=True)], 1
    )
    best = gaussian.predict(rows[:8])
    expected = own.numpy()[np.arange(8), best] - other.numpy()
    np.testing.assert_allclose(gaussian.known_scores(rows[:8]), expected, rtol=1e-3, atol=1e-2)
    head.float()


def test_without_densities_the_best_score_stands_out(rows):
    scores = np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(known_scores(scores, None), [2**0.5, 0.0])


def test_quantiles_weigh_rows():
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.25, 0.25])
    found = class_weighted_quantiles(values, weights)
    assert len(found) == len(LEVELS)
    assert (found[0], found[25], found[26], found[50], found[51]) == (1, 1, 2, 2, 3)
    np.testing.assert_array_equal(known_levels(np.array([0.0, 9.0]), found), [0, 1])


@pytest.mark.parametrize("name", ["gaussian", "ridge"])
def test_a_higher_rate_turns_away_more_and_the_model_keeps_it(name, rows, tmp_path):
    recognizer = build_method(name).choose(small(), seed=0).recognizer
    away = [recognizer.unknown(rows, rate) for rate in ("1%", 0.05, "30%", 0.9)]
    assert all((a <= b).all() for a, b in itertools.pairwise(away))
    assert away[-1].mean() > away[0].mean()
    save_model(recognizer, tmp_path / "model")
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.unknown(rows, "30%"), away[2])


def test_unknown_is_the_first_of_the_classes(gaussian, rows):
    unknown = gaussian.unknown(rows, 0.3)
    plain, found = top_classes(gaussian, rows, 3), top_classes(gaussian, rows, 3, "30%")
    assert unknown.any()
    assert not unknown.all()
    for no, before, after in zip(unknown, plain, found, strict=True):
        assert [one.name for one in after[:1]] == [UNKNOWN if no else before[0].name]
        assert after[1:] == before[:2] if no else after == before


def test_a_model_without_quantiles_says_what_to_do(gaussian, rows):
    metadata = dataclasses.replace(gaussian.metadata, rejection=())
    old = replace(gaussian, metadata=metadata)
    with pytest.raises(DataError, match="Train it again"):
        old.unknown(rows, 0.05)
    with pytest.raises(DataError, match="Train it again"):
        check_reject(old, 0.05)
    named = replace(gaussian, class_names=(UNKNOWN, *gaussian.class_names[1:]))
    with pytest.raises(DataError, match="class 0"):
        check_reject(named, 0.05)


def test_damaged_quantiles_do_not_load(gaussian, tmp_path):
    metadata = dataclasses.replace(gaussian.metadata, rejection=(2.0, 1.0))
    save_model(replace(gaussian, metadata=metadata), tmp_path / "model")
    with pytest.raises(ModelFileError, match="rejection"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("rate", ["5", "0", "100%", "many", float("nan"), -0.1])
def test_a_rate_is_a_share(rate):
    with pytest.raises(SettingsError, match=r"0\.05 or 5%"):
        checked_rate(rate)
