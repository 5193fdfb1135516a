"""FREE: the margin centre loss, the other class, what the softmax sees."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.generators.vae_gan import trainer as vae_gan
from mlis.methods import free
from mlis.methods.free import FREE, FREETrainer, centre_loss, nearest_others, random_others
from mlis.model.preprocessing import prepare
from simulated import small, tiny
from updates import watched
from vae_gan_reference import (
    Parameters,
    code,
    critic_loss,
    hidden,
    layer,
    leaky,
    made,
    normal,
    score,
    variational,
    weighted_errors,
)

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


def described(P: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    """μ and s."""
    h = layer(P, "refinement.last", leaky(layer(P, "refinement.first", x)))
    return h[:, :4], h[:, 4:]


def semantic_loss(P: Parameters, x: Tensor, a: Tensor, eps: Tensor) -> Tensor:
    """WL1 of â = sigmoid(μ + sigmoid(s) ε)."""
    mean, spread = described(P, x)
    return weighted_errors(torch.sigmoid(mean + torch.sigmoid(spread) * eps), a)


@pytest.mark.parametrize(
    ("fakes", "other_class", "on_fakes"),
    [("encoded", "random", "yes"), ("prior", "nearest", "no"), ("prior", "random", "yes")],
)
def test_the_updates_follow_their_losses(fakes, other_class, on_fakes, monkeypatch):
    """FR and centres, then critic, on each of two batches; E, G (and FR) on the second."""
    options = {"reconstruction_weight": 0.3, "adversarial_weight": 2.5, "margin": 1.0}
    one = trainer(fakes=fakes, other_class=other_class, decoder_on_fakes=on_fakes, **options)
    rows, rng = one.rows.split(24), torch.Generator()
    rng.set_state(one.rng.get_state())
    torch.randint(len(one.labels), (48,), generator=rng)  # the rows of the next step
    updates = watched(monkeypatch, one, free, vae_gan)
    one.step()
    for part in rows:
        x, labels = one.data.x[part], one.labels[part]
        a, eps = one.descriptors[labels], normal(rng, 24, 4)
        refinement, critic = updates.pop(0), updates.pop(0)
        P = refinement.before
        points, centres = described(P, x)[0], P["centres.values"]
        if other_class == "random":
            others = random_others(labels, len(centres), rng)
        else:
            others = nearest_others(points, centres, labels)
        centre = centre_loss(points, centres, labels, others, 1.0, 0.8)
        refinement.follows(0.5 * centre + 0.3 * semantic_loss(P, x, a, eps))
        assert refinement.moved == {"refinement", "centres"}
        P, noise, alpha = critic.before, normal(rng, 24, 3), torch.rand(24, 1, generator=rng)
        z = code(P, torch.cat((x, a), 1), noise) if fakes == "encoded" else noise
        critic.follows(critic_loss(P, x, made(P, hidden(P, z, a)), a, alpha.double()))
        assert critic.moved == {"critic"}
    (last,) = updates
    P, pair = last.before, torch.cat((x, a), 1)
    fake = made(P, hidden(P, code(P, pair, normal(rng, 24, 3)), a))
    total = variational(P, x, fake, pair) - 2.5 * score(P, fake, a).mean()
    last.follows(total + 0.3 * semantic_loss(P, fake, a, normal(rng, 24, 4)))
    assert last.moved == {"encoder", "generator"} | ({"refinement"} if on_fakes == "yes" else set())


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
