"""SDGZSL: each loss by hand, whose turn it is, dropout, what is synthesised and recognised."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.methods.sdgzsl import SDGZSL, DisentanglingTrainer
from mlis.model.preprocessing import prepare
from simulated import small, tiny

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


def linear(layer, x: Tensor) -> Tensor:
    return torch.stack([layer.weight @ row for row in x]) + layer.bias


def leaky(x: Tensor) -> Tensor:
    return torch.maximum(x, 0.2 * x)


def standardised(norm, x: Tensor) -> Tensor:
    spread = ((x - x.mean(0)) ** 2).mean(0) + 0.8
    return (x - x.mean(0)) / spread.sqrt() * norm.weight + norm.bias


def decoded(one: DisentanglingTrainer, z: Tensor, a: Tensor) -> Tensor:
    first, second, third, last = one.vae.decoder
    h = leaky(linear(first, torch.cat((z, a), 1)))
    h = standardised(one.vae.norms[0], linear(second, h))
    h = leaky(standardised(one.vae.norms[1], linear(third, h)))
    return leaky(linear(last, h))


def test_the_losses_of_a_batch():
    one = trainer()
    x, labels = batch(one)
    state = one.rng.get_state()
    found, parts = one.losses(x, labels)
    one.rng.set_state(state)
    eps = one._normal(len(x), 3)
    a = one.data.descriptors[labels]
    first, second, last = one.vae.encoder
    h = linear(last, leaky(linear(second, leaky(linear(first, torch.cat((x, a), 1))))))
    mean = linear(one.vae.mean, h)
    variance = torch.log(1 + linear(one.vae.variance, h).exp()) + 1e-6
    made = decoded(one, mean + variance.sqrt() * eps, a)
    kl = 0.5 * (mean**2 + variance - 1 - variance.log()).sum() / len(x)
    reconstruction = relation = 0.0
    present = sorted(set(labels.tolist()))
    assert 1 < len(present) < len(one.data.seen)
    for features, h in zip((made, x), parts, strict=True):
        wanted = leaky(linear(one.autoencoder.encoder, features))
        torch.testing.assert_close(h, wanted, rtol=1e-9, atol=1e-12)
        back = leaky(
            linear(one.autoencoder.decoder[1], leaky(linear(one.autoencoder.decoder[0], h)))
        )
        reconstruction = reconstruction + ((back - x) ** 2).mean()
        errors = []
        for b in range(len(x)):
            for c in present:
                r = one.relation
                u = (
                    r.visual.weight @ h[b, :4]
                    + r.visual.bias
                    + one.data.descriptors[c] @ r.semantic
                )
                score = torch.sigmoid(r.output @ u.clamp(min=0))
                errors.append((score - float(labels[b] == c)) ** 2)
        relation = relation + torch.stack(errors).mean()
    wanted = {
        **{"error": ((made - x) ** 2).sum() / len(x), "kl": kl},
        **{"reconstruction": reconstruction, "relation": relation},
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_the_total_correlation_and_the_discriminator():
    one = trainer()
    h = torch.randn((6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = torch.sigmoid(linear(one.discriminator, h))
    torch.testing.assert_close(one.correlation(h), sum(d[:, 0] - d[:, 1]) / 6)
    state = one.rng.get_state()
    found = one.discrimination(h)
    one.rng.set_state(state)
    orders = [torch.randperm(6, generator=one.rng) for _ in range(2)]
    assert not torch.equal(*orders)
    mixed = torch.stack([torch.cat((h[i, :4], h[j, 4:])) for i, j in zip(*orders, strict=True)])
    wanted = 0.0
    for rows, label in ((h, 0), (mixed, 1)):
        squashed = torch.sigmoid(linear(one.discriminator, rows))
        wanted = wanted - (squashed[:, label] - squashed.exp().sum(1).log()).mean()
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
    h = torch.cat((z, descriptors[labels]), 1)
    first, second, third, last = one.vae.decoder
    h = one.vae.norms[1](linear(third, one.vae.norms[0](linear(second, leaky(linear(first, h))))))
    torch.testing.assert_close(many, leaky(linear(last, leaky(h))), rtol=1e-9, atol=1e-12)


def test_the_softmax_sees_the_semantic_half():
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    one = trainer()
    for _ in range(4):
        one.step()
    x = found.preprocessing(torch.from_numpy(data.for_testing().features).double())
    wanted = leaky(linear(one.autoencoder.encoder, x))[:, :4]
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


def test_a_training_continued_from_a_snapshot_ends_with_the_same_bits():
    dropouts = dict.fromkeys(DROPOUTS, 0.3)
    one, other = trainer(**dropouts), trainer(**dropouts)
    one.step()
    other.load_state({name: value.clone() for name, value in one.state().items()})
    for part in (one, other):
        part.step()
        part.step()
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name
