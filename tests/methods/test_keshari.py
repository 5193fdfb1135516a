"""After Keshari et al.: each loss by loops, hard samples, whose turn it is, what is synthesised."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.methods.keshari import (
    Centres,
    KeshariReconstruction,
    OverCompleteTrainer,
    batch_triplet,
    over_complete,
)
from mlis.model.preprocessing import prepare
from mlis.training.layers import Linear
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SIZES = {"batch_size": 6, "hidden": 7, "latent": 3, "embedding": 5, "classes": 4}
SMALL = KeshariReconstruction(small("float64"), steps=4, class_samples=3, warm_up=0, **SIZES)


def trainer(data=None, **options) -> OverCompleteTrainer:
    settings = replace(SMALL, **options)
    training = (data or tiny()).for_training()
    _, tensors = prepare(training, settings.config.preprocessing, DOUBLE)
    return OverCompleteTrainer(tensors, settings, DOUBLE, 0)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perceptron(network, u: Tensor) -> Tensor:
    h = (u @ network.first.weight.T + network.first.bias).clamp(min=0)
    return h @ network.last.weight.T + network.last.bias


def encoded(one: OverCompleteTrainer, x: Tensor) -> tuple[Tensor, Tensor]:
    E, first = one.encoder, cast(Linear, one.encoder.layers[0])
    h = (x @ first.weight.T + first.bias).clamp(min=0)
    return h @ E.mean.weight.T + E.mean.bias, h @ E.log_variance.weight.T + E.log_variance.bias


def test_hard_samples_lie_toward_the_nearest_sample_of_another_class():
    samples = numbers(4, 3, 2)
    centres, spread = over_complete(samples, 0.3)
    for j in range(4):
        mean = sum(samples[j]) / 3
        others = [samples[c, k] for c in range(4) for k in range(3) if c != j]
        nearest = min(others, key=lambda one: float((one - mean).norm()))
        torch.testing.assert_close(centres[j], mean + 0.3 * (nearest - mean))
        variance = torch.stack([(one - mean) ** 2 for one in samples[j]]).sum(0) / 2
        torch.testing.assert_close(spread[j], variance.sqrt())
    alone, _ = over_complete(samples[:1], 0.0)
    torch.testing.assert_close(alone[0], samples[0].mean(0))


def test_the_triplet_loss_and_its_gradient():
    points, labels = numbers(7, 3).requires_grad_(), torch.tensor([0, 2, 0, 1, 2, 2, 0])
    total = torch.zeros((), dtype=torch.float64)
    margin = 0.4
    active = 0
    for i in range(7):
        apart = [(points[i] - points[j]).norm() for j in range(7) if labels[j] != labels[i]]
        own = [
            (points[i] - points[j]).norm() for j in range(7) if labels[j] == labels[i] and j != i
        ]
        term = margin + max(own, default=torch.zeros(())) - min(apart)
        active += int(term > 0)
        total = total + term.clamp(min=0) / 7
    found = batch_triplet(points, labels, margin)
    torch.testing.assert_close(found, total, rtol=1e-10, atol=0)
    assert 0 < active < 7
    pair = [torch.autograd.grad(loss, points)[0] for loss in (found, total)]
    torch.testing.assert_close(*pair, rtol=1e-8, atol=1e-12)
    assert float(batch_triplet(points, torch.zeros(7), margin).detach()) == 0  # one class


def test_centres_follow_their_class_half_way():
    centres = Centres(4, 2, DOUBLE)
    centres.values.copy_(numbers(4, 2, seed=1))
    before, points = centres.values.clone(), numbers(2, 3, 2)
    classes = torch.tensor([3, 1])
    wanted = 0.0
    for j, c in enumerate([3, 1]):
        wanted += sum(0.5 * float(((points[j, i] - before[c]) ** 2).sum()) for i in range(3)) / 6
    assert float(centres.loss(points, classes)) == pytest.approx(wanted, rel=1e-12)
    centres.follow(points, classes)
    for j, c in enumerate([3, 1]):
        moved = before[c] - 0.5 * (3 * before[c] - points[j].sum(0)) / 4
        torch.testing.assert_close(centres.values[c], moved)
    assert torch.equal(centres.values[[0, 2]], before[[0, 2]])


def test_the_losses_of_a_batch():
    one = trainer(regressor_weight=0.4)
    x, labels = one.data.x[:6], one.data.y[:6]
    a = one.descriptors[labels]
    assert float((one.descriptors**2).mean()) == pytest.approx(1)
    torch.testing.assert_close(
        a / a[0, 0], one.data.descriptors[labels] / one.data.descriptors[labels][0, 0]
    )
    state = one.rng.get_state()
    found, regression = one.vae_losses(x, a), one.regression(x, a)
    one.rng.set_state(state)
    eps, prior, other = (one._normal(6, 3) for _ in range(3))

    def made(z: Tensor) -> Tensor:
        return torch.sigmoid(perceptron(one.generator, torch.cat((z, a), 1)))

    def described(u: Tensor) -> Tensor:
        return 0.5 * ((perceptron(one.regressor, u) - a) ** 2).sum() / 6

    mean, log_variance = encoded(one, x)
    back = made(mean + (log_variance / 2).exp() * eps)
    code = encoded(one, made(prior))[0] - prior
    wanted = {
        "error": -(x * back.log() + (1 - x) * (1 - back).log()).sum() / 6,
        "kl": 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 6,
        "descriptor": described(made(prior)),
        "code": 0.5 * (code**2).sum() / 6,
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(regression, described(x) + 0.4 * described(made(other)))


def test_a_step_follows_the_weighted_losses():
    """Adam's first move of G and of f, each by the gradient of its own loss alone."""
    weights = {"kl_weight": 0.3, "descriptor_weight": 0.7, "code_weight": 0.2}
    one = trainer(learning_rate=0.01, centre_weight=0.6, **weights)
    watched = (one.generator.last, one.embedding)
    before = [layer.weight.detach().clone() for layer in watched]
    given: dict[str, Tensor] = {}
    losses, batch = one.vae_losses, one.batch

    def told(x: Tensor, a: Tensor) -> dict[str, Tensor]:
        found = losses(x, a)
        total = found["error"] + 0.3 * found["kl"] + 0.7 * found["descriptor"]
        total = total + 0.2 * found["code"]
        given["G"] = torch.autograd.grad(total, watched[0].weight, retain_graph=True)[0]
        return found

    def drawn() -> tuple[Tensor, Tensor]:
        samples, classes = batch()
        points = torch.relu(one.embedding(samples.flatten(0, 1)))
        triplet = batch_triplet(points, classes.repeat_interleave(6), one.settings.margin)
        total = triplet + 0.6 * 0.5 * (points**2).sum(1).mean()  # centres are 0
        given["f"] = torch.autograd.grad(total, watched[1].weight)[0]
        return samples, classes

    one.vae_losses, one.batch = told, drawn
    one.step()
    for layer, old, gradient in zip(watched, before, given.values(), strict=True):
        moved, steep = layer.weight.detach() - old, gradient.abs() > 1e-6
        assert steep.double().mean() > 0.1
        torch.testing.assert_close(moved[steep], -0.01 * gradient[steep].sign(), rtol=1e-2, atol=0)
    assert (one.centres.values.abs().sum(1) > 0).sum() <= 4


def test_a_batch_of_the_embedding():
    """K samples of G and K hard ones, of different classes, unseen ones too."""
    one = trainer(class_samples=400, classes=3, toward=0.25)
    samples, classes = one.batch()
    assert samples.shape == (3, 800, one.data.x.shape[1])
    assert len(set(classes.tolist())) == 3
    centres, spread = over_complete(samples[:, :400], 0.25)
    inside = centres > 3 * spread  # where samples are not cut off at 0
    hard = samples[:, 400:]
    assert float(hard.min()) >= 0
    apart = ((hard.mean(1) - centres) / spread)[inside]
    assert inside.double().mean() > 0.3
    assert float(apart.abs().max()) < 6 / 20  # six standard errors
    drawn = {c for _ in range(40) for c in one.batch()[1].tolist()}
    assert drawn == set(range(one.data.num_classes))


def test_every_other_synthetic_row_is_hard():
    one = trainer(toward=1.0, class_samples=4)
    descriptors, labels = one.data.descriptors, one.data.unseen.repeat(4)
    made = one.sampler(descriptors)(labels, stream(0, "test"))
    z = torch.randn((len(labels), 3), generator=stream(0, "test"), dtype=torch.float32).double()
    pairs = torch.cat((z, one.descriptors[labels]), 1)
    ordinary = torch.sigmoid(perceptron(one.generator, pairs))
    torch.testing.assert_close(made[::2], ordinary[::2])
    assert ((made - ordinary)[1::2].abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(one.sampler(descriptors)(labels, stream(0, "test")), made)


def test_hard_samples_keep_the_sign_of_the_features():
    data = tiny()
    signed = replace(data, features=data.features - data.features.mean(0))
    config = small("float64", preprocessing={"feature_scaling": "standard"})
    for one, negative in ((trainer(signed, config=config), True), (trainer(), False)):
        labels = one.data.unseen.repeat(20)
        made = one.sampler(one.data.descriptors)(labels, stream(0, "test"))
        assert bool((made < 0).any()) == negative


def test_the_softmax_sees_the_embedding():
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    one = trainer()
    for _ in range(4):
        one.step()
    x = found.preprocessing(torch.from_numpy(data.for_testing().features).double())
    wanted = (x @ one.embedding.weight.T + one.embedding.bias).clamp(min=0)
    torch.testing.assert_close(found.refiner(x), wanted)


def test_the_embedding_waits_for_the_others():
    one = trainer(warm_up=3)
    layers = (one.embedding.weight, one.generator.last.weight)
    for step in range(5):
        before = [weight.detach().clone() for weight in layers]
        losses = one.step()
        moved = [not torch.equal(*pair) for pair in zip(before, layers, strict=True)]
        assert moved == [step >= 3, True]
        assert ("triplet" in losses) == (step >= 3)
