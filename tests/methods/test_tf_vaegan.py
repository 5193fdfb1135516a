"""TF-VAEGAN: the feedback, its passes, what the softmax sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.generators.vae_gan import trainer as vae_gan
from mlis.methods import tf_vaegan
from mlis.methods.tf_vaegan import TFVAEGAN, TFVAEGANTrainer
from mlis.model.preprocessing import prepare
from simulated import small, tiny
from updates import watched
from vae_gan_reference import (
    Parameters,
    code,
    corrected,
    critic_loss,
    leaky,
    normal,
    score,
    semantic_loss,
    variational,
)

DOUBLE = Precision.of("float64", "cpu")
SIZES = {"batch_size": 24, "hidden": 6, "critic_hidden": 5, "noise": 3, "critic_steps": 2}
SMALL = TFVAEGAN(small("float64"), steps=4, init_std=0.3, feedback_rate=0.01, **SIZES)


def trainer(**options) -> TFVAEGANTrainer:
    settings = replace(SMALL, **options)
    _, data = prepare(tiny().for_training(), settings.config.preprocessing, DOUBLE)
    return TFVAEGANTrainer(data, settings, DOUBLE, 0)


def parameters(one: TFVAEGANTrainer) -> Parameters:
    return {f"{n}.{key}": p for n, part in one.kept().items() for key, p in part.named_parameters()}


@pytest.mark.parametrize(
    ("fakes", "feedback", "on_fakes"),
    [("encoded", 0, "yes"), ("encoded", 1, "no"), ("prior", 1, "yes"), ("prior", 0, "no")],
)
def test_the_updates_follow_their_losses(fakes, feedback, on_fakes, monkeypatch):
    """Decoder, then critic, on each of two batches; E, G, F (and the decoder) on the second."""
    options = {"decoder_weight": 0.3, "adversarial_weight": 2.5, "train_feedback": 0.7}
    one = trainer(fakes=fakes, decoder_on_fakes=on_fakes, **options)
    one.clock.steps.fill_(feedback * one.clock.per_epoch)
    strength, rng = 0.7 * feedback, torch.Generator()
    rows = one.rows.split(24)
    rng.set_state(one.rng.get_state())
    torch.randint(len(one.labels), (48,), generator=rng)  # the rows of the next step
    updates = watched(monkeypatch, one, tf_vaegan, vae_gan)
    one.step()
    for part in rows:
        x, a = one.data.x[part], one.descriptors[one.labels[part]]
        decoder, critic = updates.pop(0), updates.pop(0)
        decoder.follows(0.3 * semantic_loss(decoder.before, x, a))
        assert decoder.moved == {"decoder"}
        P, noise, alpha = critic.before, normal(rng, 24, 3), torch.rand(24, 1, generator=rng)
        z = code(P, torch.cat((x, a), 1), noise) if fakes == "encoded" else noise
        critic.follows(critic_loss(P, x, corrected(P, z, a, strength), a, alpha.double()))
        assert critic.moved == {"critic"}
    (last,) = updates
    P, pair = last.before, torch.cat((x, a), 1)
    fake = corrected(P, code(P, pair, normal(rng, 24, 3)), a, strength)
    total = variational(P, x, fake, pair) - 2.5 * score(P, fake, a).mean()
    last.follows(total + 0.3 * semantic_loss(P, fake, a))
    also = {"feedback"} if feedback else set()
    also |= {"decoder"} if on_fakes == "yes" else set()
    assert last.moved == {"encoder", "generator"} | also


def test_synthesis_has_its_own_strength():
    one = trainer(synthesis_feedback=0.4)
    labels = one.data.unseen[[0, 1, 0]]
    found = one.sampler(one.data.descriptors)(labels, stream(0, "test"))
    z = torch.randn((3, 3), generator=stream(0, "test")).double()
    wanted = corrected(parameters(one), z, one.data.descriptors[labels], 0.4)
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
