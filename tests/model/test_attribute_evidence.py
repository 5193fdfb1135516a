"""What attributes say about two classes, where the truth is known."""

import numpy as np
import pytest
import torch

from mlis.model.attribute_evidence import AttributeRegression


def world(seed: int = 0, classes: int = 40, attributes: int = 6, noise: float = 0.02):
    """Class means (S, 20) linear in descriptors, plus three features that no attribute explains."""
    rng = np.random.default_rng([seed, 91])
    descriptors = rng.random((classes, attributes))
    look = rng.normal(size=(attributes, 20))
    means = np.concatenate([descriptors @ look, rng.normal(size=(classes, 3))], axis=1)
    means += noise * rng.normal(size=means.shape)
    return torch.from_numpy(means), torch.from_numpy(descriptors), torch.from_numpy(look)


@pytest.mark.parametrize("seed", range(3))
def test_trust_in_a_prediction_is_that_of_regressions_without_the_class(seed):
    means, descriptors, _ = world(seed, classes=12, attributes=3, noise=0.1)
    found = AttributeRegression(means, torch.zeros(means.shape[1])).fit(descriptors)
    # the same ridge regression without each class, at the penalty that was chosen
    points = means - means.mean(0)
    scale = points.square().sum().div(len(points)).sqrt()
    gram = (points / scale) @ (points / scale).T + 1
    values = (descriptors - descriptors.mean(0)) / descriptors.std(0, correction=0)
    figures = {}
    for penalty in (10.0 ** (i / 4) for i in range(-20, 5)):
        errors = []
        for i in range(len(means)):
            rest = [j for j in range(len(means)) if j != i]
            kernel = gram[rest][:, rest] + penalty * torch.eye(len(rest)).double()
            errors.append(values[i] - gram[i, rest] @ torch.linalg.solve(kernel, values[rest]))
        figures[penalty] = torch.stack(errors)
    errors = min(figures.values(), key=lambda error: float(error.square().sum()))
    for j in range(values.shape[1]):
        x, y = values[:, j].numpy(), (values - errors)[:, j].numpy()
        (slope, offset), (squares,), *_ = np.polyfit(x, y, 1, full=True)
        assert slope > 0
        assert found.slope[j].item() == pytest.approx(slope, rel=1e-6)
        assert found.offset[j].item() == pytest.approx(offset, rel=1e-6, abs=1e-9)
        assert found.variance[j].item() == pytest.approx(squares / len(x), rel=1e-6)


def test_evidence_is_the_log_likelihood_ratio():
    means, descriptors, _ = world()
    found = AttributeRegression(means, torch.full((means.shape[1],), 0.01)).fit(descriptors)
    one, other = descriptors[:5], descriptors[5:10]
    predicted = found.predict(means[:5])
    deviation = found.variance.sqrt() * found.spread

    def log_prob(values):
        mean = found.centre + found.slope * (values - found.centre) + found.offset * found.spread
        return torch.distributions.Normal(mean, deviation).log_prob(predicted)

    ratio = log_prob(one) - log_prob(other)
    torch.testing.assert_close(found.evidence(predicted, one, other).float(), ratio.float())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("attribute", [0, 3, 5])
def test_the_attribute_in_which_two_classes_differ_comes_first(seed, attribute):
    """Two classes that were never seen, alike but for one attribute; images of the first."""
    means, descriptors, look = world(seed)
    found = AttributeRegression(means, torch.full((means.shape[1],), 0.01)).fit(descriptors)
    rng = np.random.default_rng(seed)
    one = torch.from_numpy(rng.random(descriptors.shape[1]))
    other = one + 0.02 * torch.from_numpy(rng.normal(size=len(one)))  # nearly alike elsewhere
    one[attribute], other[attribute] = 0.9, 0.1
    x = torch.cat([one @ look, torch.from_numpy(rng.normal(size=3))])[None]
    x = x + 0.1 * torch.from_numpy(rng.normal(size=x.shape))
    predicted = found.predict(x)
    evidence = found.evidence(predicted, one[None], other[None])[0]
    assert evidence.argmax() == attribute
    assert evidence[attribute] > 1
    swapped = found.evidence(predicted, other[None], one[None])[0]
    torch.testing.assert_close(swapped, -evidence)
    similar = [found.similarity(predicted, each[None]).item() for each in (one, other)]
    assert similar[0] > similar[1]


def test_what_cannot_be_seen_or_never_varied_says_nothing():
    means, descriptors, look = world(noise=0.05)
    rng = np.random.default_rng(5)
    hidden = torch.from_numpy(rng.random((len(means), 1)))  # in no feature
    constant = torch.full((len(means), 1), 0.3).double()
    wider = torch.cat([descriptors, hidden, constant], dim=1)
    found = AttributeRegression(means, torch.full((means.shape[1],), 0.01)).fit(wider)
    one, other = torch.zeros(1, 8).double(), torch.ones(1, 8).double()
    x = torch.cat([one[0, :6] @ look, torch.zeros(3).double()])[None]
    evidence = found.evidence(found.predict(x), one, other)[0]
    assert evidence[7] == 0
    assert evidence[6].abs() < 0.2 * evidence[:6].min()


def test_images_that_vary_within_classes_say_less():
    means, descriptors, _ = world()
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(4000, means.shape[1])))
    sure, unsure = (
        AttributeRegression(means, within).fit(descriptors) for within in (0.1 * rows, rows)
    )
    assert (unsure.variance > 2 * sure.variance).all()
    same = AttributeRegression(means, torch.ones(means.shape[1])).fit(descriptors)
    torch.testing.assert_close(same.variance, unsure.variance, rtol=0.1, atol=0)
