"""HSVA: its distances against plain formulas, its four updates, what it draws of unseen classes."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.methods import hsva
from mlis.methods.hsva import HSVA, HSVATrainer, coral, sliced_wasserstein
from mlis.model.preprocessing import prepare
from simulated import small, tiny
from updates import watched

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


def layer(P: dict[str, Tensor], name: str, u: Tensor) -> Tensor:
    return u @ P[f"{name}.weight"].T + P[f"{name}.bias"]


def leaky(u: Tensor) -> Tensor:
    return torch.where(u > 0, u, 0.2 * u)


def perceptron(P: dict[str, Tensor], name: str, u: Tensor) -> Tensor:
    return layer(P, f"{name}.last", leaky(layer(P, f"{name}.first", u)))


def gaussians(P: dict[str, Tensor], name: str, u: Tensor) -> tuple[Tensor, Tensor]:
    h = leaky(layer(P, "encoder.layers.0", perceptron(P, name, u)))
    return layer(P, "encoder.mean", h), layer(P, "encoder.log_variance", h)


def structure(
    P: dict[str, Tensor], x: Tensor, a: Tensor, labels: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropies of both classifiers in both domains, and how they disagree."""
    classes = apart = torch.zeros((), dtype=torch.float64)
    for h in (perceptron(P, "visual", x), perceptron(P, "semantic", a)):
        pair = []
        for c in ("classifiers.0", "classifiers.1"):
            u = layer(P, f"{c}.layers.first", h)
            u = (u - u.mean(0)) / torch.sqrt(u.var(0, unbiased=False) + 1e-5)
            u = (u * P[f"{c}.norm.weight"] + P[f"{c}.norm.bias"]).clamp(min=0)
            pair.append(torch.softmax(layer(P, f"{c}.layers.last", u), 1))
            classes = classes - pair[-1][range(len(labels)), labels].log().mean()
        sorts = [(p @ directions).sort(dim=0).values for p in pair]
        apart = apart + ((sorts[0] - sorts[1]) ** 2).mean()
    return classes, apart


def alignment(
    P: dict[str, Tensor], x: Tensor, a: Tensor, others: Tensor, eps: list[Tensor]
) -> dict[str, Tensor]:
    """The terms of D, with one ε a row times σ^0.2, as in the program."""
    of_x, of_a, of_u = (
        gaussians(P, *pair) for pair in (("visual", x), ("semantic", a), ("semantic", others))
    )
    z_v, z_a, z_u = (
        m + torch.exp(0.1 * v) * e for (m, v), e in zip((of_x, of_a, of_u), eps, strict=True)
    )

    def errors(for_x: Tensor, for_a: Tensor) -> Tensor:
        found = (perceptron(P, "visual_decoder", for_x) - x).abs().sum()
        return (found + (perceptron(P, "semantic_decoder", for_a) - a).abs().sum()) / len(x)

    kl = sum(0.5 * (m**2 + v.exp() - 1 - v).sum() / len(x) for m, v in (of_x, of_a))
    means = ((of_x[0] - of_a[0]) ** 2).sum(1)
    spreads = (((of_x[1] / 2).exp() - (of_a[1] / 2).exp()) ** 2).sum(1)
    centred = [z - z.mean(0) for z in (z_v, z_u)]
    covariances = [z.T @ z / (len(z) - 1) for z in centred]
    away = ((covariances[0] - covariances[1]) ** 2).mean()
    distance = torch.sqrt(means + spreads + 1e-8).mean() - away
    assert 1e-4 < float(away.detach()) < 10  # below its limit
    cross = errors(z_a, z_v)
    return {"reconstruction": errors(z_v, z_a), "kl": kl, "cross": cross, "distance": distance}


def test_the_updates_follow_their_losses(monkeypatch):
    """A, B, C twice, D, each on the networks that the one before left; weights in their growth."""
    one = trainer()
    one.clock.steps.fill_(23 * one.clock.per_epoch)
    for network in one._networks().values():  # latents that differ
        for parameter in network.parameters():
            parameter.data.mul_(2.5)
    x, labels = one.data.x[one.rows], one.own[one.rows]
    a = one.data.descriptors[one.data.y[one.rows]]
    rng = torch.Generator()
    rng.set_state(one.rng.get_state())
    torch.randint(len(one.data.y), (12,), generator=rng)  # the rows of the next step
    drawn = [torch.randn((6, 4), generator=rng).double() for _ in range(4)]
    directions = [d / d.norm(dim=0) for d in drawn]
    eps = [torch.randn((12, 1), generator=rng).double() for _ in range(2)]
    chosen = one.data.unseen[torch.randint(3, (12,), generator=rng)]
    eps.append(torch.randn((12, 1), generator=rng).double())

    updates = watched(monkeypatch, one, hsva)
    told = one.step()
    assert len(updates) == 5
    moved = [{"classifiers", "visual", "semantic"}, {"classifiers"}, *[{"visual", "semantic"}] * 2]
    w = 8 * 23 / 25
    for update, networks, d, weights in zip(
        updates, moved, directions, [(1, 0), (1, -w), (0, w), (0, w)], strict=False
    ):
        classes, apart = structure(update.before, x, a, labels, d)
        update.follows(weights[0] * classes + weights[1] * apart)
        assert update.moved == networks
    last = updates[-1]
    terms = alignment(last.before, x, a, one.data.descriptors[chosen], eps)
    total = terms["reconstruction"] + 0.25 * 23 / 90 * terms["kl"]
    last.follows(total + 2.37 * 2 / 54 * terms["cross"] + w * terms["distance"])
    assert last.moved == one._networks().keys() - {"classifiers"}
    for name, value in terms.items():
        torch.testing.assert_close(told[name], value.detach(), msg=name)


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
