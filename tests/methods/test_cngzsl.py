"""CN-GZSL: standardisation, initialisation and loss against loops and known answers."""

import math

import numpy as np
import pytest
import torch

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Config
from mlis.methods.cngzsl import CNGZSL, LEAST, ClassStandardisation
from mlis.model.preprocessing import TrainingTensors, prepare
from simulated import tiny

PRECISION = Precision.of("float64", "cpu")
DOUBLE = Config(precision="float64")
LIKE = torch.zeros((), dtype=torch.float64)


def tensors(**changes) -> tuple[CNGZSL, TrainingTensors]:
    one = CNGZSL(DOUBLE, **{"hidden": 6, "batch_size": 20, **changes})
    training = tiny().for_training()
    return one, prepare(training, one.config.preprocessing, PRECISION)[1]


@pytest.mark.parametrize("spread", ["variance", "deviation"])
def test_units_are_standardised_over_classes(spread):
    h = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 80.0]]).double()
    found = ClassStandardisation(2, spread, LIKE)(h)
    for unit in range(2):
        values = h[:, unit].numpy()
        spreads = {"variance": values.var() + 1e-5, "deviation": math.sqrt(values.var() + 1e-5)}
        wanted = (values - values.mean()) / spreads[spread]
        np.testing.assert_allclose(found[:, unit], wanted, rtol=1e-12)


def test_running_averages_are_used_afterwards_and_no_other_class():
    cs = ClassStandardisation(2, "variance", LIKE)
    first = torch.tensor([[1.0, 2.0], [3.0, 8.0]]).double()
    second = torch.tensor([[0.0, 1.0], [4.0, 5.0]]).double()
    cs(first)
    cs(second)
    mean = 0.9 * (0.1 * np.array([2.0, 5.0])) + 0.1 * np.array([2.0, 3.0])
    variance = 0.9 * (0.9 + 0.1 * np.array([1.0, 9.0])) + 0.1 * np.array([4.0, 4.0])
    cs.eval()
    h = torch.tensor([[7.0, -2.0]]).double()
    wanted = (h.numpy() - mean) / (variance + 1e-5)
    np.testing.assert_allclose(cs(h), wanted, rtol=1e-12)
    others = torch.cat((h, 100 * torch.rand((5, 2)).double()))
    assert torch.equal(cs(others)[:1], cs(h))


def test_a_dead_unit_does_not_dominate():
    """Activated by an unseen class alone, it would be divided by 0.00001."""
    cs = ClassStandardisation(2, "variance", LIKE)
    seen = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]]).double()
    for _ in range(400):
        cs(seen)
    cs.eval()
    found = cs(torch.tensor([[5.0, 1.0]]).double())
    assert float(cs.variance[1]) < 1e-12
    average = float(cs.variance.mean())
    assert float(found[0, 1]) == pytest.approx(1 / (LEAST * average + 1e-5), rel=1e-6)


def test_the_last_layer_keeps_the_variance_of_logits():
    """Eq. 10: for standardised hidden units, an output's variance is 1 over their number."""
    one, data = tensors(hidden=200)
    network = one.network(data, PRECISION, 0)
    last, first = network[6].weight.detach(), network[0].weight.detach()
    bound = math.sqrt(3 / (200 * 9))
    assert float(last.abs().max()) <= bound
    assert float(last.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert 0.9 * 0.5 < float(first.abs().max()) <= 0.5  # 1 / √Da


def test_the_loss_and_its_gradient():
    one, data = tensors(spread="deviation")
    descriptors = 2 * data.descriptors
    network = one.network(data, PRECISION, 0)
    found = one.losses(network, data, descriptors)(stream(3, "batch"))["cross_entropy"]
    rows = torch.randint(len(data.y), (20,), generator=stream(3, "batch"))
    first, second, last = network[0], network[2], network[6]

    def standard(rows: list[torch.Tensor]) -> list[torch.Tensor]:
        h = torch.stack(rows)
        variance = (h - h.mean(0)).square().mean(0)
        variance = torch.maximum(variance, LEAST * variance.mean()) + 1e-5
        return list((h - h.mean(0)) / variance.sqrt())

    seen = data.seen.tolist()
    hidden = [torch.relu(first.weight @ descriptors[c] + first.bias) for c in seen]
    hidden = standard([second.weight @ h + second.bias for h in hidden])
    hidden = standard([torch.relu(h) for h in hidden])
    prototypes = [torch.relu(last.weight @ h + last.bias) for h in hidden]
    terms = []
    for row in rows:
        x = data.x[row]
        logits = [5 * x / x.norm() @ (5 * p / p.norm()) for p in prototypes]
        terms.append(-torch.log_softmax(torch.stack(logits), 0)[seen.index(int(data.y[row]))])
    wanted = torch.stack(terms).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
    parameters = list(network.parameters())
    pairs = [torch.autograd.grad(loss, parameters) for loss in (found, wanted)]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


def test_features_are_not_scaled_and_descriptors_have_the_length_of_their_root():
    training = tiny().for_training()
    recognizer = CNGZSL(DOUBLE, steps=2, hidden=6).fit(training, device="cpu").recognizer
    assert torch.equal(recognizer.preprocessing.factor, torch.ones(9))
    assert torch.equal(recognizer.preprocessing.shift, torch.zeros(9))
    assert CNGZSL(DOUBLE).config.preprocessing.feature_scaling == "none"
    assert bool((recognizer.head.prototypes >= 0).all())
    lengths = training.descriptors * 7.0
    scaled = type(training)(**{**vars(training), "descriptors": lengths})
    again = CNGZSL(DOUBLE, steps=2, hidden=6).fit(scaled, device="cpu").recognizer
    torch.testing.assert_close(again.head.prototypes, recognizer.head.prototypes)
