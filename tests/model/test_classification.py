"""Stage 2 against scikit-learn's solution of the same problem, and what it must not depend on."""

import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mlis.config import Classification
from mlis.errors import DivergenceError
from mlis.model.classification import class_weights, fit_classifier


def clouds(n: int = 300, C: int = 5, D: int = 8, seed: int = 0, dtype=torch.float64):
    """Overlapping classes of very different sizes, features ≥ 0."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.multinomial(torch.arange(1.0, C + 1), n, replacement=True, generator=rng)
    means = torch.randn(C, D, generator=rng)
    return torch.relu(means[y] + torch.randn(n, D, generator=rng)).to(dtype), y


def scikit_learn(x: torch.Tensor, y: torch.Tensor, penalty: float, balance: str):
    """The same objective, (1/Σs) Σ s·loss + λ/2 ‖W‖², on centred features of mean length 1."""
    X = x.numpy() - x.numpy().mean(0)
    length = np.linalg.norm(X, axis=1).mean()
    weights = np.ones(len(y)) if balance == "samples" else 1 / np.bincount(y)[y]
    model = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(X / length, y.numpy(), sample_weight=weights / weights.sum())
    return model, X / length, length


@pytest.mark.parametrize("balance", ["samples", "classes"])
@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_equals_scikit_learn(penalty, balance):
    x, y = clouds()
    settings = Classification(
        weight_decay=penalty, tolerance=1e-11, max_iterations=3000, balance=balance
    )
    ours = fit_classifier(x.clone(), y, 5, settings)
    model, X, length = scikit_learn(x, y, penalty, balance)
    np.testing.assert_allclose(ours.weight * length, model.coef_, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        torch.softmax(ours(x), 1), model.predict_proba(X), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_default_settings_converge(dtype, caplog):
    x, y = clouds(C=6, n=400)
    ours = fit_classifier(x.to(dtype, copy=True), y, 6, Classification())
    model, X, _ = scikit_learn(x, y, Classification().penalty(6), "classes")
    probabilities = torch.softmax(ours(x.to(dtype)), 1)
    assert ours.weight.dtype == dtype
    assert np.abs(probabilities.numpy() - model.predict_proba(X)).max() < 2e-2
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_smaller_tolerance_comes_nearer():
    x, y = clouds(C=6, n=400)
    model, X, _ = scikit_learn(x, y, Classification().penalty(6), "classes")
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-9):
        settings = Classification(tolerance=tolerance, max_iterations=3000)
        ours = fit_classifier(x.clone(), y, 6, settings)
        errors.append(np.abs(torch.softmax(ours(x), 1).numpy() - model.predict_proba(X)).max())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_the_features_does_not_matter(factor, dtype):
    x, y = clouds(dtype=dtype)
    one = fit_classifier(x.clone(), y, 5, Classification())
    two = fit_classifier(x * factor, y, 5, Classification())
    near = {"rtol": 0, "atol": 2e-3 if dtype == torch.float32 else 1e-9}
    first, second = torch.softmax(one(x), 1), torch.softmax(two(x * factor), 1)
    torch.testing.assert_close(first, second, **near)
    clear = first.topk(2, 1).values.diff(dim=1).abs()[:, 0] > 2e-2
    assert clear.float().mean() > 0.8
    assert torch.equal(first.argmax(1)[clear], second.argmax(1)[clear])


def test_class_weights():
    labels = torch.tensor([2, 2, 2, 0])
    assert class_weights(labels, 4, "samples").tolist() == [0.25] * 4
    expected = [1 / 6, 1 / 6, 1 / 6, 1 / 2]
    np.testing.assert_allclose(class_weights(labels, 4, "classes"), expected, rtol=1e-15)


def test_a_class_without_samples_is_never_predicted():
    x, y = clouds()
    classifier = fit_classifier(x.clone(), y, 7, Classification())
    for points in (x, -1e6 * x, torch.zeros_like(x), 1e6 * x):
        scores = classifier(points)
        assert torch.isfinite(scores).all()
        assert scores.argmax(1).max() < 5


def test_identical_features_are_no_error():
    x = torch.ones(6, 3)
    classifier = fit_classifier(x.clone(), torch.tensor([0, 1] * 3), 2, Classification())
    assert torch.isfinite(classifier(x)).all()


def test_features_that_are_not_finite_are_named():
    x, y = clouds()
    x[3, 2] = float("inf")
    with pytest.raises(DivergenceError, match="classification: refined features"):
        fit_classifier(x, y, 5, Classification())


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_many_classes_are_learned_whatever_the_tolerance(tolerance):
    """The gradient at zero is below the tolerance: the optimiser must not take that for the end."""
    C, D = 400, 30
    means = torch.randn(C, D, generator=torch.Generator().manual_seed(0))
    x, y = means.repeat(3, 1), torch.arange(C).repeat(3)
    x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    steepest = (x - x.mean(0)).div(x.norm(dim=1).mean()).abs().max() / C
    assert steepest < 1e-2  # ten times the entries of the gradient, or more
    classifier = fit_classifier(x.clone(), y, C, Classification(tolerance=tolerance))
    assert (classifier(x).argmax(1) == y).float().mean() > 0.95


class Chunks:
    """Features handed out in chunks, each anew, as a reader of a file does."""

    def __init__(self, features: torch.Tensor, most: int):
        self.features, self.most, self.passes = features, most, 0
        self.shape, self.dtype, self.device = features.shape, features.dtype, features.device

    def split(self, size: int) -> Iterator[torch.Tensor]:
        self.passes += 1
        for part in self.features.split(min(size, self.most)):
            yield part.clone()


@pytest.mark.parametrize("most", [7, 1000])
@pytest.mark.parametrize(
    ("balance", "dtype"), [("samples", torch.float32), ("classes", torch.float64)]
)
def test_chunks_give_what_the_whole_gives(balance, dtype, most):
    x, y = clouds(dtype=dtype)
    settings = Classification(balance=balance, weight_decay=1e-2)
    chunks = Chunks(3 * x + 2, most)
    ours = fit_classifier(chunks, y, 7, settings)
    whole = fit_classifier(3 * x + 2, y, 7, settings)
    near = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 1e-10}
    z = 3 * x + 2
    assert ours.weight.dtype == dtype
    torch.testing.assert_close(torch.softmax(ours(z), 1), torch.softmax(whole(z), 1), **near)
    assert torch.equal(chunks.features, z)
    assert 3 < chunks.passes < 100


@pytest.mark.parametrize("where", [0, 299])
def test_chunks_that_are_not_finite_are_named(where):
    x, y = clouds()
    x[where, 2] = float("nan")
    with pytest.raises(DivergenceError, match="classification: refined features"):
        fit_classifier(Chunks(x, 50), y, 5, Classification())
