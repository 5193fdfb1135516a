"""FREE: the margin centre loss, the other class, what the softmax sees."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.methods.free import FREE, FREETrainer, centre_loss, nearest_others, random_others
from mlis.model.preprocessing import prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SIZES = {"batch_size": 24, "hidden": 6, "critic_hidden": 5, "noise": 3, "critic_steps": 2}
SMALL = FREE(small("float64"), steps=4, init_std=0.3, **SIZES)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trainer(**options) -> FREETrainer:
    settings = replace(SMALL, **options)
    _, data = prepare(tiny().for_training(), settings.config.preprocessing, DOUBLE)
    return FREETrainer(data, settings, DOUBLE, 0)


@pytest.mark.parametrize(("margin", "balance"), [(0.5, 0.8), (3.0, 0.5), (0.0, 0.1)])
def test_centre_loss_and_its_gradients(margin, balance):
    points, centres = numbers(7, 3).requires_grad_(), numbers(4, 3, seed=1).requires_grad_()
    labels, others = torch.tensor([0, 1, 2, 3, 0, 1, 2]), torch.tensor([1, 2, 3, 0, 2, 3, 0])
    total = points.new_zeros(())
    for b in range(7):
        own = ((points[b] - centres[labels[b]]) ** 2).sum()
        other = ((points[b] - centres[others[b]]) ** 2).sum()
        value = margin + balance * own - (1 - balance) * other
        total = total + (value if float(value.detach()) > 0 else 0.0)
    wanted = total / 7
    found = centre_loss(points, centres, labels, others, margin, balance)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    pairs = [torch.autograd.grad(loss, (points, centres)) for loss in (found, wanted)]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_a_random_class_is_every_other_one_equally_often():
    labels = torch.arange(4).repeat(10_000)
    others = random_others(labels, 4, stream(0, "test"))
    table = torch.zeros(4, 4).index_put_((labels, others), torch.ones(len(labels)), accumulate=True)
    assert torch.equal(table.diagonal(), torch.zeros(4))
    rest = table[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(rest, torch.full((12,), 10_000 / 3), rtol=0.1, atol=0)


def test_the_nearest_other_class():
    centres = torch.tensor([[0.0], [1.0], [5.0]])
    found = nearest_others(
        torch.tensor([[0.1], [0.9], [4.0], [4.0]]), centres, torch.tensor([0, 1, 2, 1])
    )
    assert found.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize("other_class", ["random", "nearest"])
def test_the_losses_of_a_batch(other_class):
    """SAMC of μ, and the weighted L1 of â = sigmoid(μ + sigmoid(s) ε), from the weights."""
    one = trainer(other_class=other_class, margin=1.0)
    x, labels = one.data.x[:8], one.labels[:8]
    state = one.rng.get_state()
    found = one.refinement_losses(x, labels)
    one.rng.set_state(state)
    eps = one.normal(8, 4)
    layers = one.refinement
    h = x @ layers.first.weight.T + layers.first.bias
    h = torch.where(h > 0, h, 0.2 * h)
    mean, spread = (h @ layers.last.weight.T + layers.last.bias).split(4, dim=1)
    centres = one.centres.values
    if other_class == "random":
        others = random_others(labels, len(centres), one.rng)
    else:
        others = nearest_others(mean, centres, labels)
    d = torch.sigmoid(mean + torch.sigmoid(spread) * eps) - one.descriptors[labels]
    semantic = (d.abs() ** 3 / d.norm(dim=1, keepdim=True)).sum() / 8
    wanted = centre_loss(mean, centres, labels, others, 1.0, 0.8), semantic
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_frozen_refinement_learns_from_real_rows_alone():
    taken = {}
    for choice in ("yes", "no"):
        one, steps = trainer(decoder_on_fakes=choice), []
        step = one.adam_refinement.step
        one.adam_refinement.step = lambda step=step, steps=steps: steps.append(step())
        before = one.centres.values.detach().clone()
        one.step()
        taken[choice] = len(steps)
        assert not torch.equal(before, one.centres.values)
    assert taken == {"yes": 3, "no": 2}  # two critic steps, each with real rows


def test_the_softmax_sees_features_hidden_units_and_the_mean_descriptor():
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    x = found.preprocessing(torch.from_numpy(data.for_testing().features).double())
    parts = found.refiner(x).split([9, 6, 4], dim=1)
    torch.testing.assert_close(parts[0], x)
    first, inner = found.refiner.parts[1].parts
    h = x @ first.weight.T + first.bias
    torch.testing.assert_close(parts[1], torch.where(h > 0, h, 0.2 * h))
    last = inner.parts[1].parts[0]
    assert last.weight.shape == (4, 6)  # μ, without s
    torch.testing.assert_close(parts[2], torch.sigmoid(parts[1] @ last.weight.T + last.bias))


def test_a_training_continued_from_a_snapshot_ends_with_the_same_bits():
    one, other = trainer(), trainer(init_std=0.1)
    one.step()
    other.load_state({name: value.clone() for name, value in one.state().items()})
    for part in (one, other):
        part.step()
        part.step()
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name
