"""SJE and VGSE's mixtures: losses against loops and known answers, the optimum of each mixture."""

import itertools
import math

import numpy as np
import pytest
import torch

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Config
from mlis.methods.sje import SJE, double_softmax_loss, ranking_loss
from mlis.methods.vgse import VGSE, mixture
from mlis.model.preprocessing import TrainingTensors, prepare
from simulated import linear_world, tiny

DOUBLE = Config(precision="float64")


def tensors() -> TrainingTensors:
    return prepare(tiny().for_training(), DOUBLE.preprocessing, Precision.of("float64", "cpu"))[1]


# --- SJE ----------------------------------------------------------------------------------------


def test_the_ranking_loss_follows_the_worst_class_alone():
    scores = torch.tensor([[2.0, 1.5, 0.0], [0.0, 5.0, 3.0], [1.0, 1.0, 1.0]]).requires_grad_()
    loss = ranking_loss(scores, torch.tensor([0, 1, 2]))
    assert float(loss.detach()) == pytest.approx((0.5 + 0 + 1) / 3)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[0].tolist() == pytest.approx([-1 / 3, 1 / 3, 0])
    assert gradient[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("loss", [ranking_loss, double_softmax_loss])
def test_losses_row_by_row(loss):
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn((7, 5), generator=rng, dtype=torch.float64)
    labels = torch.randint(5, (7,), generator=rng)
    terms = []
    for row, y in zip(scores.tolist(), labels.tolist(), strict=True):
        if loss is ranking_loss:
            terms.append(max((c != y) + f - row[y] for c, f in enumerate(row)))
        else:
            q = [math.exp(f) / sum(map(math.exp, row)) for f in row]
            terms.append(-math.log(math.exp(q[y]) / sum(map(math.exp, q))))
    assert float(loss(scores, labels)) == pytest.approx(sum(terms) / 7)


def test_a_batch_is_scored_against_the_seen_classes():
    data = tensors()
    one = SJE(DOUBLE, batch_size=15, penalty=0.5)
    network = torch.nn.Linear(9, 4, dtype=torch.float64).requires_grad_(False)
    found = one.losses(network, data, data.descriptors)(stream(3, "batch"))
    rows = torch.randint(len(data.y), (15,), generator=stream(3, "batch"))
    seen = data.seen.tolist()
    terms = []
    for row in rows:
        projected = network.weight @ data.x[row] + network.bias
        y = int(data.y[row])
        own = projected @ data.descriptors[y]
        terms.append(max((c != y) + float(projected @ data.descriptors[c] - own) for c in seen))
    assert float(found["ranking"]) == pytest.approx(sum(terms) / 15)
    norms = float(network.weight.norm() + network.bias.norm())
    assert float(found["penalty"]) == pytest.approx(0.5 * norms)


def test_scores_are_bilinear():
    training = tiny().for_training()
    recognizer = SJE(DOUBLE, steps=5).fit(training, device="cpu").recognizer
    units = torch.from_numpy(training.descriptors).double()
    units = units / units.norm(dim=1, keepdim=True)
    # 9 classes of 4 numbers: weights of all of them are combinations of 4
    weight = recognizer.head.weight
    solved = torch.linalg.lstsq(units, weight).solution
    torch.testing.assert_close(units @ solved, weight, rtol=1e-6, atol=1e-9)


# --- VGSE-SMO -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, -1.0, -0.1])
@pytest.mark.parametrize("size", [3, 30])
def test_no_other_mixture_is_closer(alpha, size):
    """Conditions of the optimum: the gradient is lowest, and equal, where r is above its bound."""
    rng = np.random.default_rng(size)
    for _ in range(5):
        others, target = rng.normal(size=(8, size)), rng.normal(size=size)
        r = mixture(target, others, alpha)
        assert r.sum() == pytest.approx(1, abs=1e-9)
        assert (r >= alpha - 1e-9).all()
        gradient = others @ (r @ others - target)
        free = r > alpha + 1e-8
        scale = np.abs(gradient).max() + np.abs(others @ target).max()
        assert np.ptp(gradient[free]) < 1e-7 * scale
        assert (gradient[~free] >= gradient[free].min() - 1e-7 * scale).all()


def test_mixtures_of_known_answer():
    square = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(mixture(np.array([0.2, 0.3]), square, 0.0), [0.5, 0.2, 0.3])
    np.testing.assert_allclose(mixture(np.array([2.0, 0.0]), square, 0.0), [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(mixture(np.array([2.0, 0.0]), square, -1.0), [-1, 2, 0], atol=1e-9)
    np.testing.assert_allclose(mixture(np.array([3.0]), np.array([[3.0]]), 0.0), [1])
    twins = mixture(np.array([1.0, 1.0]), np.ones((3, 2)), 0.0)
    assert twins.sum() == pytest.approx(1)
    assert np.isfinite(twins).all()


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_grid_finds_none_closer(alpha):
    rng = np.random.default_rng(1)
    others, target = rng.normal(size=(3, 2)), 3 * rng.normal(size=2)
    found = np.linalg.norm(mixture(target, others, alpha) @ others - target)
    steps = np.linspace(alpha, 1 - 2 * alpha, 151)
    shares = [(a, b, 1 - a - b) for a, b in itertools.product(steps, steps) if 1 - a - b >= alpha]
    best = np.linalg.norm(np.array(shares) @ others - target, axis=1).min()
    assert found <= best + 1e-9
    assert found > best - 0.2


def test_vectors_hold_mixtures_of_class_means_and_descriptors():
    """Rotated: products of the first part are those of centred means, and their mixtures."""
    data = tensors()
    vectors = VGSE(DOUBLE, alpha=-1.0).class_vectors(data)
    given = data.descriptors.numpy()
    seen, unseen = data.seen.tolist(), data.unseen.tolist()
    means = {c: data.x[data.y == c].mean(0).numpy() for c in seen}
    for u in unseen:
        r = mixture(given[u], given[seen], -1.0)
        means[u] = sum(share * means[c] for share, c in zip(r, seen, strict=True))
    centre = np.mean([means[c] for c in seen], axis=0)
    phi = np.stack([means[c] - centre for c in range(9)])
    phi /= np.linalg.norm(phi, axis=1, keepdims=True)
    first = vectors[:, :-4].numpy()
    np.testing.assert_allclose(first @ first.T, phi @ phi.T, atol=1e-6)
    np.testing.assert_allclose(vectors[:, -4:], given, atol=1e-12)


def test_vectors_depend_on_no_unseen_row_and_each_unseen_class_is_by_itself():
    data = linear_world(noise=0.1)
    training = data.for_training()
    everything = prepare(training, DOUBLE.preprocessing, Precision.of("float64", "cpu"))[1]
    vectors = VGSE(DOUBLE).class_vectors(everything)
    descriptors = everything.descriptors.clone()
    descriptors[everything.unseen[1:]] = 1.0
    changed = TrainingTensors(
        everything.x, everything.y, descriptors, everything.seen, everything.unseen
    )
    again = VGSE(DOUBLE).class_vectors(changed)
    one = everything.unseen[0]
    torch.testing.assert_close(vectors[one], again[one])
