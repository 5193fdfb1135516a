"""After Liu et al.: network, loss and recognizer against loops; the head that scores pairs."""

import math

import numpy as np
import pytest
import torch

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Config
from mlis.methods.zicldm import RelationNetwork, ZICLDMReconstruction, centred, relation_loss
from mlis.model.preprocessing import TrainingTensors, prepare
from simulated import tiny

DOUBLE = Config(precision="float64")
PRECISION = Precision.of("float64", "cpu")
SIZES = {"common": 6, "hidden": 5, "relation": 4, "batch_size": 12}


def tensors(**changes) -> tuple[ZICLDMReconstruction, TrainingTensors, RelationNetwork]:
    one = ZICLDMReconstruction(DOUBLE, **{**SIZES, **changes})
    data = prepare(tiny().for_training(), one.config.preprocessing, PRECISION)[1]
    return one, data, RelationNetwork(9, 4, one, PRECISION, stream(0, "test"))


def looped(network: RelationNetwork, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Scores pair by pair, the relation layer on the concatenation."""
    one, two = network.semantic[0], network.semantic[2]
    relation = torch.cat((network.metric.visual.weight, network.metric.semantic.T), dim=1)
    rows = []
    for row in x:
        v = torch.relu(network.visual.weight @ row + network.visual.bias)
        scores = []
        for descriptor in a:
            s = torch.relu(two.weight @ torch.relu(one.weight @ descriptor + one.bias) + two.bias)
            units = torch.relu(relation @ torch.cat((v, s)) + network.metric.visual.bias)
            scores.append(network.metric.output @ units + network.bias)
        rows.append(torch.stack(scores))
    return torch.stack(rows)


def test_a_step_learns_matches_among_the_classes_of_its_batch():
    one, data, network = tensors(semantic_decay=0.3)
    descriptors = centred(data.descriptors, data.seen)
    found = one.losses(network, data, descriptors)(stream(3, "batch"))
    rows = torch.randint(len(data.y), (12,), generator=stream(3, "batch"))
    present = sorted({int(data.y[row]) for row in rows})
    assert len(present) < len(data.seen) or len(present) > 2
    scores = looped(network, data.x[rows], descriptors[present])
    r = 1 / (1 + torch.exp(-scores))
    errors = [
        (r[i, j] - float(int(data.y[row]) == c)) ** 2
        for i, row in enumerate(rows)
        for j, c in enumerate(present)
    ]
    wanted = sum(errors) / len(errors)
    torch.testing.assert_close(found["relation"], wanted, rtol=1e-10, atol=0)
    decay = sum(float((p.detach() ** 2).sum()) for p in network.semantic.parameters())
    assert float(found["penalty"].detach()) == pytest.approx(0.15 * decay)
    parameters = list(network.parameters())
    both = [torch.autograd.grad(loss, parameters) for loss in (found["relation"], wanted)]
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_the_loss_of_known_scores():
    scores = torch.tensor([[0.0, math.log(3)], [-math.log(3), 0.0]])
    found = relation_loss(scores, torch.tensor([0, 0]))
    assert float(found) == pytest.approx((0.5**2 + 0.75**2 + 0.75**2 + 0.5**2) / 4)


def test_the_recognizer_scores_as_the_network_does():
    _, data, network = tensors()
    descriptors = centred(data.descriptors, data.seen)
    refiner, head = network.parts(descriptors)
    with torch.no_grad():
        wanted = looped(network, data.x[:7], descriptors) - network.bias
        found = head(refiner(data.x[:7]))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    some = head.chosen(torch.tensor([4, 1]))
    torch.testing.assert_close(some(refiner(data.x[:7])), wanted[:, [4, 1]], rtol=1e-9, atol=1e-12)


def test_descriptors_are_centred_on_the_seen_ones():
    a = torch.tensor([[1.0, 2.0], [3.0, 2.0], [10.0, 10.0]])
    found = centred(a, torch.tensor([0, 1]))
    root = math.sqrt(2)
    np.testing.assert_allclose(found, [[-root, 0], [root, 0], [8 * root, 8 * root]], rtol=1e-6)
    same = centred(torch.ones((3, 4)), torch.tensor([0, 1]))
    assert torch.equal(same, torch.zeros((3, 4)))


def test_features_are_standardised():
    training = tiny().for_training()
    recognizer = (
        ZICLDMReconstruction(DOUBLE, steps=2, **SIZES).fit(training, device="cpu").recognizer
    )
    scaled = recognizer.preprocessing(torch.from_numpy(training.features).double())
    np.testing.assert_allclose(scaled.mean(0), np.zeros(9), atol=1e-5)
    np.testing.assert_allclose(scaled.std(0, correction=0), np.ones(9), rtol=1e-5)
