"""CE-GZSL: its losses and gradients against loops in float64, its training."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from method_cases import candidates
from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Config
from mlis.errors import DivergenceError
from mlis.methods import pairs
from mlis.methods.cegzsl import CEGZSL, EmbeddingTrainer, instance_loss
from mlis.methods.pairs import PairScorer, PairScores
from mlis.model.preprocessing import prepare
from mlis.training.callbacks import Callback
from simulated import linear_world, small, tiny

DOUBLE = Precision.of("float64", "cpu")
RIDGE = {"generation": {"generator": "ridge"}}
SIZES = {"embedding": 11, "projection": 5, "hidden": 7, "batch_size": 14}


def settings(precision: str = "float32", **changes) -> CEGZSL:
    return CEGZSL(small(precision, **RIDGE), **{**SIZES, "steps": 3, "choices": (1, 3), **changes})


def looped_instance_loss(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    anchors = []
    for i in range(len(z)):
        terms = []
        apart = [
            torch.exp(z[i] @ z[n] / temperature) for n in range(len(z)) if labels[n] != labels[i]
        ]
        for p in range(len(z)):
            if p != i and labels[p] == labels[i]:
                toward = torch.exp(z[i] @ z[p] / temperature)
                terms.append(-torch.log(toward / (toward + sum(apart))))
        if terms:
            anchors.append(sum(terms) / len(terms))
    return sum(anchors) / len(anchors)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_instance_loss_and_its_gradient(temperature):
    rng = torch.Generator().manual_seed(0)
    z = normalize(torch.randn((11, 4), generator=rng, dtype=torch.float64), dim=1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 0, 4, 2])  # 3 and 4 have no positive
    found = instance_loss(z, labels, temperature)
    wanted = looped_instance_loss(z, labels, temperature)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    pair = [torch.autograd.grad(loss, z)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-14)
    assert pair[0].abs().max() > 1e-3


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5]], ids=["no positive", "no negative"])
def test_instance_loss_without_pairs_is_zero(labels):
    z = normalize(torch.randn((3, 4), generator=torch.Generator().manual_seed(1)), dim=1)
    loss = instance_loss(z.requires_grad_(), torch.tensor(labels), 0.1)
    loss.backward()
    assert loss == 0
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_instance_loss_stays_finite_for_a_small_temperature():
    z = torch.eye(4).repeat(2, 1).requires_grad_()
    loss = instance_loss(z, torch.tensor([0, 1, 2, 3, 1, 0, 3, 2]), 1e-3)  # all the wrong way
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1000, rel=1e-3)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(("entries", "slope"), [(1, 0.2), (40, 0.2), (1 << 19, 0.2), (40, 0.0)])
def test_the_comparator_scores_concatenations(entries, slope, monkeypatch):
    """F written as a network on [h ; a], pair by pair, with gradients of all of its weights."""
    monkeypatch.setitem(pairs._ENTRIES, "cpu", entries)
    rng = stream(0, "test")
    comparator = PairScorer(5, 3, 4, 0.7, DOUBLE, rng, slope)
    with torch.no_grad():
        comparator.visual.bias.normal_(generator=rng)
    h = torch.randn((6, 5), generator=rng, dtype=torch.float64).requires_grad_()
    a = torch.randn((7, 3), generator=rng, dtype=torch.float64)
    weights = torch.randn((6, 7), generator=rng, dtype=torch.float64)
    first = torch.cat((comparator.visual.weight, comparator.semantic.T), dim=1)
    rows = []
    for i in range(6):
        pre = [first @ torch.cat((h[i], a[s])) + comparator.visual.bias for s in range(7)]
        hidden = [torch.where(u > 0, u, slope * u) for u in pre]
        rows.append(torch.stack([u @ comparator.output for u in hidden]))
    wanted = torch.stack(rows)
    found = comparator(h, a)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    inputs = [h, *comparator.parameters()]
    both = [torch.autograd.grad((s * weights).sum(), inputs) for s in (found, wanted)]
    assert len(both[0]) == 5
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_pair_scores_by_finite_differences():
    rng = torch.Generator().manual_seed(2)
    p, c, w = (
        torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
        for shape in ((4, 3), (5, 3), (3,))
    )
    for slope in (0.2, 0.0):
        assert torch.autograd.gradcheck(PairScores.apply, (p, c, w, slope))


def trainer(**changes) -> EmbeddingTrainer:
    data = tiny().for_training()
    chosen = settings("float64", **changes)
    return EmbeddingTrainer(
        prepare(data, chosen.config.preprocessing, DOUBLE)[1], chosen, DOUBLE, 0
    )


def test_a_step_follows_both_losses():
    """The step's losses from loops over E, P and F, and Adam's first move along their gradient."""
    one = trainer(learning_rate=0.01, batch_size=10_000, init_std=0.3)
    x, y = one.data.x, one.data.y
    h = torch.relu(x @ one.encoder.weight.T + one.encoder.bias)
    z = h @ one.projection.weight.T + one.projection.bias
    z = z / z.norm(dim=1, keepdim=True)
    seen = one.data.seen.tolist()
    terms = []
    for i in range(len(x)):
        scores = []
        for c in seen:
            u = one.comparator.visual.weight @ h[i] + one.comparator.visual.bias
            u = u + one.data.descriptors[c] @ one.comparator.semantic
            scores.append(torch.where(u > 0, u, 0.2 * u) @ one.comparator.output / 0.1)
        shares = torch.softmax(torch.stack(scores), 0)
        terms.append(-torch.log(shares[seen.index(int(y[i]))]))
    wanted = {"instance": looped_instance_loss(z, y, 0.1), "class": torch.stack(terms).mean()}
    before = {k: v.clone() for k, v in one.encoder.named_parameters()}
    (gradient,) = torch.autograd.grad(sum(wanted.values()), one.encoder.weight)
    found = one.step()
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(float(value.detach()), rel=1e-9)
    moved = (one.encoder.weight - before["weight"]).detach()
    steep = gradient.abs() > 1e-6
    assert steep.float().mean() > 0.5
    torch.testing.assert_close(moved[steep], -0.01 * gradient[steep].sign(), rtol=1e-2, atol=0)


def test_a_batch_holds_no_row_twice():
    """A row that is its own positive would be a pair of cosine 1 to learn nothing from."""
    one, seen = trainer(batch_size=30), []
    one.losses = lambda x, labels: (
        seen.append(x)
        or {
            "instance": (x @ one.encoder.weight.T).sum(),
            "class": x.sum(),
        }
    )
    for _ in range(3):
        one.step()
    assert [len(torch.unique(x, dim=0)) for x in seen] == [30, 30, 30]


def test_choices_are_what_a_training_of_so_many_steps_gives():
    training = tiny().for_training()
    found = candidates(settings(choices=(2, 4), steps=4), training, seed=1)
    assert [one.steps for one in found] == [2, 4]
    for one, recognizer in found.items():
        alone = one.fit(training, seed=1, device="cpu").recognizer
        assert torch.equal(recognizer.refiner.weight, alone.refiner.weight)
        assert torch.equal(recognizer.head.weight, alone.head.weight)
    first, last = (recognizer.refiner.weight for recognizer in found.values())
    assert not torch.equal(first, last)


def test_callbacks_are_told_both_losses_and_divergence_is_named():
    heard = []

    class Ears(Callback):
        def on_step(self, stage, step, total, losses):
            heard.append((stage, step, total, sorted(losses)))

    training = tiny().for_training()
    settings().fit(training, device="cpu", callbacks=[Ears()])
    assert heard[-1] == ("cegzsl", 3, 3, ["class", "instance"])
    with pytest.raises(DivergenceError, match="cegzsl diverged"):
        settings(learning_rate=1e30, steps=20).fit(training, device="cpu")


def test_it_learns():
    """Both losses fall, and unseen classes are told apart; by chance H is 4."""
    data = linear_world(noise=0.15)
    heard = []

    class Ears(Callback):
        def on_step(self, stage, step, total, losses):
            heard.append(dict(losses))

    config = Config(precision="float32").replace(
        {"generation": {"generator": "ridge"}, "classification": {"synthetic_per_unseen": 40}}
    )
    sizes = {"embedding": 64, "projection": 16, "hidden": 32, "batch_size": 128}
    baseline = CEGZSL(config, steps=120, learning_rate=2e-3, **sizes)
    recognizer = baseline.fit(data.for_training(), device="cpu", callbacks=[Ears()]).recognizer
    assert heard[-1]["class"] < 0.5 * heard[0]["class"]
    assert heard[-1]["instance"] < 0.8 * heard[0]["instance"]
    test = data.for_testing()
    scores = recognizer.scores(test.features)
    unseen = ~test.seen_mask[test.labels]
    scores[:, test.seen_mask] = -np.inf
    right = scores[unseen].argmax(1) == test.labels[unseen]
    assert right.mean() > 0.8
