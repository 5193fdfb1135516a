"""SDGZSL: each loss by hand, whose turn it is, dropout, what is synthesised and recognised."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.methods import sdgzsl
from mlis.methods.sdgzsl import SDGZSL, DisentanglingTrainer
from mlis.model.preprocessing import prepare
from simulated import small, tiny
from updates import watched

DOUBLE = Precision.of("float64", "cpu")
SIZES = {"batch_size": 12, "hidden": 7, "code": 5, "latent": 3, "semantic": 4}
DROPOUTS = ("encoder_dropout", "variance_dropout", "decoder_dropout", "autoencoder_dropout")
SMALL = SDGZSL(small("float64"), steps=4, **SIZES, **dict.fromkeys(DROPOUTS, 0.0))


def trainer(data=None, **options) -> DisentanglingTrainer:
    settings = replace(SMALL, **options)
    training = (data or tiny()).for_training()
    _, tensors = prepare(training, settings.config.preprocessing, DOUBLE)
    return DisentanglingTrainer(tensors, settings, DOUBLE, 0)


def batch(one: DisentanglingTrainer) -> tuple[Tensor, Tensor]:
    """Rows of several classes, not of all."""
    rows = torch.arange(0, len(one.data.y), 3)[:10]
    return one.data.x[rows], one.data.y[rows]


def parameters(one: DisentanglingTrainer) -> dict[str, Tensor]:
    parts = {**one.kept(), "relation": one.relation, "discriminator": one.discriminator}
    return {f"{n}.{key}": p for n, part in parts.items() for key, p in part.named_parameters()}


def linear(P: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return torch.stack([P[f"{name}.weight"] @ row for row in x]) + P[f"{name}.bias"]


def leaky(x: Tensor) -> Tensor:
    return torch.maximum(x, 0.2 * x)


def standardised(P: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    spread = ((x - x.mean(0)) ** 2).mean(0) + 0.8
    return (x - x.mean(0)) / spread.sqrt() * P[f"{name}.weight"] + P[f"{name}.bias"]


def decoded(P: dict[str, Tensor], z: Tensor, a: Tensor) -> Tensor:
    h = leaky(linear(P, "vae.decoder.0", torch.cat((z, a), 1)))
    h = standardised(P, "vae.norms.0", linear(P, "vae.decoder.1", h))
    h = leaky(standardised(P, "vae.norms.1", linear(P, "vae.decoder.2", h)))
    return leaky(linear(P, "vae.decoder.3", h))


def relation(P: dict[str, Tensor], h: Tensor, a: Tensor) -> Tensor:
    """Of one h_s and one descriptor: both layers have a bias."""
    hidden = P["relation.scorer.visual.weight"] @ h + P["relation.scorer.visual.bias"]
    hidden = (hidden + a @ P["relation.scorer.semantic"]).clamp(min=0)
    return 1 / (1 + torch.exp(-(P["relation.scorer.output"] @ hidden) - P["relation.bias"]))


def by_hand(
    P: dict[str, Tensor], descriptors: Tensor, x: Tensor, labels: Tensor, eps: Tensor
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """All terms without weights, and h of x̂ and x."""
    a = descriptors[labels]
    h = leaky(linear(P, "vae.encoder.0", torch.cat((x, a), 1)))
    h = linear(P, "vae.encoder.2", leaky(linear(P, "vae.encoder.1", h)))
    mean = linear(P, "vae.mean", h)
    variance = torch.log(1 + linear(P, "vae.variance", h).exp()) + 1e-6
    made = decoded(P, mean + variance.sqrt() * eps, a)
    kl = 0.5 * (mean**2 + variance - 1 - variance.log()).sum() / len(x)
    reconstruction = related = correlation = torch.zeros((), dtype=torch.float64)
    present, parts = sorted(set(labels.tolist())), []
    for features in (made, x):
        h = leaky(linear(P, "autoencoder.encoder", features))
        back = leaky(linear(P, "autoencoder.decoder.0", h))
        back = leaky(linear(P, "autoencoder.decoder.1", back))
        reconstruction = reconstruction + ((back - x) ** 2).mean()
        errors = [
            (relation(P, h[b, :4], descriptors[c]) - float(labels[b] == c)) ** 2
            for b in range(len(x))
            for c in present
        ]
        related = related + torch.stack(errors).mean()
        d = torch.sigmoid(linear(P, "discriminator", h))
        correlation = correlation + (d[:, 0] - d[:, 1]).mean()
        parts.append(h)
    error = ((made - x) ** 2).sum() / len(x)
    terms = {"error": error, "kl": kl, "reconstruction": reconstruction, "relation": related}
    return {**terms, "correlation": correlation}, parts


def apart_by_hand(P: dict[str, Tensor], h: Tensor, orders: list[Tensor]) -> Tensor:
    """d's cross-entropies on h and on its two halves in these orders."""
    mixed = torch.stack([torch.cat((h[i, :4], h[j, 4:])) for i, j in zip(*orders, strict=True)])
    total = torch.zeros((), dtype=torch.float64)
    for rows, label in ((h, 0), (mixed, 1)):
        squashed = torch.sigmoid(linear(P, "discriminator", rows))
        total = total - (squashed[:, label] - squashed.exp().sum(1).log()).mean()
    return total


def test_the_updates_follow_the_losses(monkeypatch):
    """With all weights, in the middle of their growth; first d's turn, then L_tc's."""
    one = trainer(
        **{"kl_warm_up": 0.1, "correlation_warm_up": 0.05, "relation_weight": 2.5},
        **{"correlation_weight": 0.7, "discriminator_weight": 0.4, "discriminator_every": 1},
    )
    one.relation.bias.data.fill_(0.7)
    one.clock.steps.fill_(4 * one.clock.per_epoch)
    one.rows = torch.nonzero(one.data.y > 0)[:12, 0]  # a class is not in the batch
    updates, rng = watched(monkeypatch, one, sdgzsl), torch.Generator()
    for turn in (True, False):
        x, labels = one.data.x[one.rows], one.data.y[one.rows]
        rng.set_state(one.rng.get_state())
        torch.randint(len(one.data.y), (12,), generator=rng)  # the rows of the next step
        eps = torch.randn((12, 3), generator=rng).double()
        orders = [[torch.randperm(12, generator=rng) for _ in range(2)] for _ in range(2)]
        told = one.step()
        first = updates.pop(0)
        assert first.moved == {"vae", "autoencoder", "relation"}
        assert first.gradients["relation.bias"].abs() > 1e-4
        terms, parts = by_hand(first.before, one.data.descriptors, x, labels, eps)
        assert {n: float(v) for n, v in told.items()} == {
            n: pytest.approx(float(terms[n].detach()), rel=1e-9) for n in told
        }
        total = terms["error"] + 0.4 * terms["kl"] + terms["reconstruction"]
        total = total + 2.5 * terms["relation"]
        first.follows(total if turn else total + 0.7 * 0.2 * terms["correlation"])
        if turn:
            second = updates.pop()
            assert second.moved == {"discriminator"}
            halves = zip(parts, orders, strict=True)
            losses = [apart_by_hand(second.before, h.detach(), pair) for h, pair in halves]
            second.follows(0.4 * (losses[0] + losses[1]))
        assert not updates


def test_the_total_correlation_and_the_discriminator():
    one = trainer()
    h = torch.randn((6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = torch.sigmoid(linear(parameters(one), "discriminator", h))
    torch.testing.assert_close(one.correlation(h), sum(d[:, 0] - d[:, 1]) / 6)
    state = one.rng.get_state()
    found = one.discrimination(h)
    one.rng.set_state(state)
    orders = [torch.randperm(6, generator=one.rng) for _ in range(2)]
    assert not torch.equal(*orders)
    wanted = apart_by_hand(parameters(one), h, orders)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("every", [1, 3])
def test_whose_turn_it_is(every):
    """d learns in one of 1 + n steps, alone of all not through the correlation."""
    one = trainer(discriminator_every=every)
    turns = []
    for _ in range(2 * (every + 1)):
        before = one.discriminator.weight.detach().clone()
        told = one.step()
        turns.append(not torch.equal(before, one.discriminator.weight))
        assert ("correlation" in told) != turns[-1]
    assert turns == 2 * [True, *[False] * every]


def test_weights_grow_by_the_epoch_up_to_one():
    """In the first epoch KL and correlation have no weight: without them the step is the same."""
    states = []
    for weight in (0.0, 50.0):
        one = trainer(kl_warm_up=weight, correlation_warm_up=weight, correlation_weight=9.0)
        one.step()
        one.step()
        states.append(one.vae.state_dict())
        after = one
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    one = trainer(kl_warm_up=0.0, correlation_warm_up=0.0)
    for same in (one, after):
        same.clock.steps.fill_(4 * same.clock.per_epoch)
    one.load_state(after.state())
    for same in (one, after):
        same.step()
    assert not torch.equal(one.vae.mean.weight, after.vae.mean.weight)


def test_dropout_keeps_the_mean():
    one = trainer()
    ones = torch.ones((400, 50), dtype=torch.float64)
    found = one._drop(ones, 0.4)
    assert set(found.unique().tolist()) == {0.0, 1 / 0.6}
    assert float(found.mean()) == pytest.approx(1, abs=0.03)
    assert one._drop(ones, 0.0) is ones
    assert not torch.equal(found, one._drop(ones, 0.4))


def test_each_layer_has_its_share_of_dropout():
    """By the zeros that reach it, of which LeakyReLU makes none."""
    shares = dict(zip(DROPOUTS, (0.3, 0.2, 0.5, 0.6), strict=True))
    one = trainer(hidden=300, code=50, latent=200, semantic=150, **shares)
    x, labels = batch(one)
    heard: dict[str, float] = {}

    def zeros(rows: Tensor) -> float:
        return float((rows == 0).double().mean())

    for part in ("vae", "autoencoder"):
        for name, layer in one.kept()[part].named_modules():
            layer.register_forward_pre_hook(
                lambda _, given, name=f"{part}.{name}": heard.update({name: zeros(given[0])})
            )
    a = one.data.descriptors[labels]
    mean, log_variance = one.vae.encode(x, a, one._drop)
    h = one.autoencoder.encode(one.vae.decode(mean, a, one._drop), one._drop)
    last = zeros(one.autoencoder.decode(h, one._drop))
    wanted = {
        **{"vae.encoder.1": 0, "vae.encoder.2": 0.3, "vae.mean": 0, "vae.variance": 0},
        **{"vae.decoder.1": 0.5, "vae.decoder.2": 0.5, "vae.decoder.3": 0.5},
        **{"autoencoder.decoder.0": 0.6, "autoencoder.decoder.1": 0.6},
    }
    assert {name: heard[name] for name in wanted} == pytest.approx(wanted, abs=0.05)
    assert last == pytest.approx(0.6, abs=0.2)  # of 90 numbers
    dropped = (log_variance - math.log(math.log(2) + 1e-6)).abs() < 1e-9
    assert float(dropped.double().mean()) == pytest.approx(0.2, abs=0.05)


def test_initial_weights_have_the_variance_of_the_default():
    """PyTorch's: a third of the reciprocal number of inputs."""
    one = trainer(hidden=400, code=300, latent=30, semantic=200)
    scorer = one.relation.scorer
    of = {
        **{name: (p, p.shape[1]) for name, p in parameters(one).items() if p.dim() == 2},
        "relation.scorer.semantic": (scorer.semantic, 204),
        "relation.scorer.visual.weight": (scorer.visual.weight, 204),
        "relation.scorer.output": (scorer.output, 400),
    }
    for name, (weight, inputs) in of.items():
        assert float(weight.detach().std()) == pytest.approx((3 * inputs) ** -0.5, rel=0.15), name


def test_synthesis_is_without_dropout_and_without_the_batch():
    """A sample depends on its own noise and descriptor alone, by the running statistics."""
    one = trainer(decoder_dropout=0.5)
    for _ in range(3):
        one.step()
    descriptors, labels = one.data.descriptors, one.data.unseen.repeat_interleave(5)
    many = one.sampler(descriptors)(labels, stream(0, "test"))
    z = torch.randn((len(labels), 3), generator=stream(0, "test"), dtype=torch.float32).double()
    for norm in one.vae.norms:
        norm.eval()
    P = parameters(one)
    h = leaky(linear(P, "vae.decoder.0", torch.cat((z, descriptors[labels]), 1)))
    h = one.vae.norms[0](linear(P, "vae.decoder.1", h))
    h = leaky(one.vae.norms[1](linear(P, "vae.decoder.2", h)))
    wanted = leaky(linear(P, "vae.decoder.3", h))
    torch.testing.assert_close(many, wanted, rtol=1e-9, atol=1e-12)


def test_the_softmax_sees_the_semantic_half():
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    one = trainer()
    for _ in range(4):
        one.step()
    x = found.preprocessing(torch.from_numpy(data.for_testing().features).double())
    wanted = leaky(linear(parameters(one), "autoencoder.encoder", x))[:, :4]
    torch.testing.assert_close(found.refiner(x), wanted)
    assert found.head.weight.shape == (9, 4)


def test_features_of_both_signs_are_decoded_as_they_are():
    data = tiny()
    signed = replace(data, features=data.features - data.features.mean(0))
    config = small("float64", preprocessing={"feature_scaling": "standard"})
    one = trainer(signed, config=config)
    assert one.vae.last_slope == one.autoencoder.last_slope == 1.0
    made = one.sampler(one.data.descriptors)(one.data.unseen.repeat(40), stream(0, "test"))
    bounded = trainer().sampler(one.data.descriptors)(one.data.unseen.repeat(40), stream(0, "t"))
    assert float(made.min()) < 3 * float(bounded.min()) < 0
