"""TF-VAEGAN: the feedback, its passes, what the softmax sees."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.methods.tf_vaegan import TFVAEGAN, TFVAEGANTrainer
from mlis.model.preprocessing import prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SIZES = {"batch_size": 24, "hidden": 6, "critic_hidden": 5, "noise": 3, "critic_steps": 2}
SMALL = TFVAEGAN(small("float64"), steps=4, init_std=0.3, feedback_rate=0.01, **SIZES)


def trainer(**options) -> TFVAEGANTrainer:
    settings = replace(SMALL, **options)
    _, data = prepare(tiny().for_training(), settings.config.preprocessing, DOUBLE)
    return TFVAEGANTrainer(data, settings, DOUBLE, 0)


def leaky(u: Tensor) -> Tensor:
    return torch.where(u > 0, u, 0.2 * u)


def generated(one: TFVAEGANTrainer, z: Tensor, a: Tensor, strength: float) -> Tensor:
    """x̃ = out(g + α F(h(out(g)))), from the weights."""
    g, dec = one.network, one.decoder
    first = torch.cat((g.from_noise, g.from_descriptor), 1)
    hidden = leaky(torch.cat((z, a), 1) @ first.T + g.hidden_bias)
    attempt = torch.sigmoid(hidden @ g.to_features.T + g.feature_bias)
    h = leaky(attempt @ dec.first.weight.T + dec.first.bias)
    for layer in (one.feedback.layers.first, one.feedback.layers.last):
        h = leaky(h @ layer.weight.T + layer.bias)
    return torch.sigmoid((hidden + strength * h) @ g.to_features.T + g.feature_bias)


def test_feedback_corrects_the_hidden_units():
    one = trainer(train_feedback=0.7)
    labels = one.labels[:5]
    z, a = one.noise(labels), one.descriptors[labels]
    found = one.activate(one.generate(z, labels, True))
    torch.testing.assert_close(found, generated(one, z, a, 0.7), rtol=1e-10, atol=1e-12)
    without = one.activate(one.generate(z, labels, False))
    torch.testing.assert_close(without, generated(one, z, a, 0.0), rtol=1e-10, atol=1e-12)
    assert (found - without).abs().max() > 1e-3


def test_the_decoder_gets_no_gradient_through_the_feedback():
    one = trainer()
    labels = one.labels[:5]
    loss = one.generate(one.noise(labels), labels, True).sum()
    loss.backward()
    assert all(p.grad is None for p in one.decoder.parameters())
    assert all(p.grad is not None for p in one.feedback.parameters())


def test_synthesis_has_its_own_strength():
    one = trainer(synthesis_feedback=0.4)
    labels = one.data.unseen[[0, 1, 0]]
    found = one.sampler(one.data.descriptors)(labels, stream(0, "test"))
    z = torch.randn((3, 3), generator=stream(0, "test")).double()
    wanted = generated(one, z, one.data.descriptors[labels], 0.4)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_only_every_other_epoch_trains_the_feedback():
    one = trainer()
    changed = []
    for _ in range(4 * one.clock.per_epoch):
        before = one.feedback.layers.first.weight.detach().clone()
        one.step()
        changed.append(not torch.equal(before, one.feedback.layers.first.weight))
    per = one.clock.per_epoch
    assert changed == ([False] * per + [True] * per) * 2


def test_fakes_train_the_decoder_where_they_should():
    taken = {}
    for choice in ("yes", "no"):
        one, steps = trainer(decoder_on_fakes=choice), []
        step = one.adam_decoder.step
        one.adam_decoder.step = lambda step=step, steps=steps: steps.append(step())
        one.step()
        taken[choice] = len(steps)
    assert taken == {"yes": 3, "no": 2}  # two critic steps, each with real rows


def test_the_softmax_sees_features_descriptor_and_hidden_units():
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    x = torch.from_numpy(data.for_testing().features).double()
    parts = found.refiner(found.preprocessing(x)).split([9, 6, 4], dim=1)
    torch.testing.assert_close(parts[0], found.preprocessing(x))
    first, inner = found.refiner.parts[1].parts
    torch.testing.assert_close(parts[1], leaky(parts[0] @ first.weight.T + first.bias))
    last = inner.parts[1].parts[0]
    described = parts[1] @ last.weight.T + last.bias
    torch.testing.assert_close(parts[2], described / described.norm(dim=1, keepdim=True))
    assert np.isfinite(found.scores(data.for_testing().features)).all()


def test_a_training_continued_from_a_snapshot_ends_with_the_same_bits():
    one, other = trainer(), trainer(init_std=0.1)
    for _ in range(one.clock.per_epoch + 1):
        one.step()
    other.load_state({name: value.clone() for name, value in one.state().items()})
    for part in (one, other):
        part.step()
        part.step()
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name
