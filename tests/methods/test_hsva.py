"""HSVA: its distances against plain formulas, its four updates, what it draws of unseen classes."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mlis.compute.precision import Precision
from mlis.methods import hsva
from mlis.methods.hsva import HSVA, HSVATrainer, coral, sliced_wasserstein
from mlis.model.preprocessing import prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SIZES = {"hidden": 7, "structure": 6, "classifier_hidden": 5, "latent": 3, "projections": 4}
SMALL = HSVA(small("float64"), batch_size=12, epochs=2, **SIZES)


def trainer(**options) -> HSVATrainer:
    settings = replace(SMALL, **options)
    _, data = prepare(tiny().for_training(), settings.config.preprocessing, DOUBLE)
    return HSVATrainer(data, settings, DOUBLE, 0)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sliced_wasserstein_distance():
    one, other, directions = numbers(6, 3), numbers(6, 3, seed=1), numbers(3, 5, seed=2)
    total = 0.0
    for d in directions.T.numpy():
        a, b = (sorted(sample.numpy() @ d) for sample in (one, other))
        total += sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
    found = sliced_wasserstein(one, other, directions)
    np.testing.assert_allclose(float(found), total / 30, rtol=1e-12)
    shuffled = one[torch.tensor([3, 1, 5, 0, 2, 4])]
    assert float(sliced_wasserstein(one, shuffled, directions)) < 1e-28


def test_coral_compares_covariances():
    one, other = numbers(6, 3), numbers(9, 3, seed=1)
    wanted = ((np.cov(one.numpy().T) - np.cov(other.numpy().T)) ** 2).mean()
    np.testing.assert_allclose(float(coral(one, other)), wanted, rtol=1e-12)
    assert float(coral(one, one + 5)) < 1e-28


def test_structure_losses():
    one = trainer()
    x, labels = one.data.x[:12], one.own[:12]
    a = one.data.descriptors[one.data.y[:12]]
    state = one.rng.get_state()
    classes, disagreement = one.structure_losses(x, a, labels)
    one.rng.set_state(state)
    directions = one._normal(len(one.data.seen), 4)
    directions = directions / directions.norm(dim=0)
    wanted = apart = 0.0
    for network, rows in ((one.visual, x), (one.semantic, a)):
        h = rows @ network.first.weight.T + network.first.bias
        h = torch.where(h > 0, h, 0.2 * h) @ network.last.weight.T + network.last.bias
        logits = []
        for c in one.classifiers:
            u = h @ c.layers.first.weight.T + c.layers.first.bias
            u = (u - u.mean(0)) / torch.sqrt(u.var(0, unbiased=False) + 1e-5)
            logits.append(u.clamp(min=0) @ c.layers.last.weight.T + c.layers.last.bias)
        wanted = wanted + sum(cross_entropy(scores, labels) for scores in logits)
        pair = [torch.softmax(scores, 1) for scores in logits]
        apart = apart + sliced_wasserstein(*pair, directions)
    torch.testing.assert_close(classes, wanted, rtol=1e-10, atol=0)
    torch.testing.assert_close(disagreement, apart, rtol=1e-9, atol=0)


def test_updates_in_their_order():
    """A: classifiers and structure; B: classifiers; C: structure, twice; D: all of the VAEs."""
    one, order = trainer(), []
    for name in ("adam_classifiers", "adam_structure", "adam_rest"):
        adam = getattr(one, name)
        step = adam.step
        adam.step = lambda name=name, step=step: order.append(name.split("_")[1]) or step()
    one.step()
    a = ["classifiers", "structure"]
    assert order == [*a, "classifiers", "structure", "structure", "structure", "rest"]


def test_the_distance_of_unseen_latents_is_limited():
    """CORAL alone would fall without end; at the limit it has no gradient."""
    one = trainer(coral_limit=0.0)
    x, a = one.data.x[:12], one.data.descriptors[one.data.y[:12]]
    apart = hsva.wasserstein(one.latents_of_features(x), one.latents_of_descriptors(a))
    torch.testing.assert_close(one.vae_losses(x, a)["distance"], apart)
    free = trainer(coral_limit=1e9)
    assert float(free.vae_losses(x, a)["distance"].detach()) < float(apart.detach())


def test_unseen_descriptors_are_drawn_equally_often(monkeypatch):
    one = trainer(batch_size=300)
    x, a = one.data.x.repeat(12, 1)[:300], one.data.descriptors[one.data.y].repeat(12, 1)[:300]
    asked: list[Tensor] = []
    latents = one.latents_of_descriptors
    monkeypatch.setattr(
        one, "latents_of_descriptors", lambda rows: asked.append(rows) or latents(rows)
    )
    one.vae_losses(x, a)
    unseen = one.data.descriptors[one.data.unseen]
    counts = (torch.cdist(asked[-1], unseen) < 1e-9).sum(0)
    assert int(counts.sum()) == 300
    assert (counts > 60).all()  # of 100 each


def test_an_image_is_recognised_by_its_mean():
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    one = trainer()
    for _ in range(2 * one.clock.per_epoch):
        one.step()
    x = found.preprocessing(torch.from_numpy(data.for_testing().features).double())
    torch.testing.assert_close(found.refiner(x), one.latents_of_features(x)[0])


def test_a_training_continued_from_a_snapshot_ends_with_the_same_bits():
    one, other = trainer(), trainer()
    one.step()
    other.load_state({name: value.clone() for name, value in one.state().items()})
    for part in (one, other):
        part.step()
        part.step()
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name
