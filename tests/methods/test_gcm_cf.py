"""GCM-CF: its losses, its gate and its scores by hand, from the networks' weights."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.generators.vae_gan import trainer as vae_gan
from mlis.methods import tf_vaegan
from mlis.methods.gcm_cf import GCMCF, GCMCFTrainer, other_classes
from mlis.model.preprocessing import prepare
from simulated import small, tiny
from updates import watched
from vae_gan_reference import (
    code,
    corrected,
    critic_loss,
    normal,
    score,
    semantic_loss,
    variational,
)

DOUBLE = Precision.of("float64", "cpu")
SIZES = {"batch_size": 24, "hidden": 6, "critic_hidden": 5, "noise": 3, "critic_steps": 2}
SMALL = GCMCF(small("float64"), steps=4, init_std=0.3, counterfactuals=3, gate_samples=2, **SIZES)


def trainer(**options) -> GCMCFTrainer:
    settings = replace(SMALL, **options)
    _, data = prepare(tiny().for_training(), settings.config.preprocessing, DOUBLE)
    return GCMCFTrainer(data, settings, DOUBLE, 0)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def made_of(one: GCMCFTrainer, z: Tensor, a: Tensor) -> Tensor:
    """G(z, a) of one row, without feedback."""
    G = one.network
    hidden = leaky(G.from_noise @ z + G.from_descriptor @ a + G.hidden_bias)
    return torch.sigmoid(G.to_features @ hidden + G.feature_bias)


def encoded(one: GCMCFTrainer, x: Tensor) -> tuple[Tensor, Tensor]:
    h = x
    for layer in one.encoder.layers:
        h = leaky(layer.weight @ h + layer.bias)
    mean, spread = one.encoder.mean, one.encoder.log_variance
    return mean.weight @ h + mean.bias, spread.weight @ h + spread.bias


def described(one: GCMCFTrainer, x: Tensor) -> Tensor:
    h = leaky(one.decoder.first.weight @ x + one.decoder.first.bias)
    a = one.decoder.last.weight @ h + one.decoder.last.bias
    return torch.cat((x, h, a / a.norm()))


def test_other_classes_are_all_others_equally_often_and_never_twice():
    labels = torch.arange(5).repeat(4000)
    found = other_classes(labels, 5, 3, stream(0, "test"))
    assert not (found == labels[:, None]).any()
    ordered = found.sort(dim=1).values
    assert all((a < b).all() for a, b in pairwise(ordered.T))
    counts = torch.zeros(5, 5).index_put_(
        (labels.repeat_interleave(3), found.flatten()), torch.ones(60_000), accumulate=True
    )
    rest = counts[~torch.eye(5, dtype=torch.bool)]
    torch.testing.assert_close(rest, torch.full((20,), 3000.0), rtol=0.1, atol=0)


def test_the_encoder_sees_the_feature_alone():
    one = trainer()
    assert one.encoder.layers[0].weight.shape == (6, 9)
    x = one.data.x[:5]
    _, mean, log_variance = one.encode(x, one.labels[:5])
    for b in range(5):
        wanted = encoded(one, x[b])
        torch.testing.assert_close(mean[b], wanted[0])
        torch.testing.assert_close(log_variance[b], wanted[1])


def test_there_are_at_most_as_many_others_as_classes():
    one = trainer(counterfactuals=30)
    x, labels = one.data.x[:4], one.labels[:4]
    _, *pair = one.encode(x, labels)
    assert torch.isfinite(one.faithfulness(x, labels, tuple(pair), with_feedback=True))


@pytest.mark.parametrize(("epochs", "weight"), [(0, 0.0), (1, 0.0), (2, 1.5), (5, 3.0), (40, 6.0)])
def test_the_vae_reconstructs_a_noisy_target_and_its_kl_grows(epochs, weight):
    """β grows by the epoch, of two passes each: in four epochs from 0 to 6."""
    one = trainer(kl_warm_up=4)
    one.clock.steps.fill_(epochs * one.clock.per_epoch)
    x = one.data.x[:4]
    output = torch.randn((4, 9), generator=stream(1, "test"), dtype=torch.float64)
    mean, spread = (torch.full((4, 3), value, dtype=torch.float64) for value in (0.5, -0.3))
    state = one.rng.get_state()
    found = one.variational(output, x, mean, spread)
    one.rng.set_state(state)
    target, p = x + 0.2 * one.normal(4, 9), torch.sigmoid(output)
    error = -(target * torch.log(p) + (1 - target) * torch.log(1 - p)).sum() / 4
    kl = 0.5 * 3 * (0.25 + np.exp(-0.3) - 1 + 0.3)
    torch.testing.assert_close(found, error + weight * kl, rtol=1e-9, atol=0)


@pytest.mark.parametrize("feedback", [0, 1])
def test_the_update_follows_its_losses(feedback, monkeypatch):
    """Of E, G, F and the decoder; L_CF row by row, with feedback where it has its turn."""
    one = trainer(
        **{"critic_steps": 1, "kl_warm_up": 4, "decoder_weight": 0.3, "adversarial_weight": 2.5},
        **{"faithfulness_weight": 0.6, "sharpness": 70.0, "train_feedback": 0.7},
    )
    one.clock.steps.fill_((2 + feedback) * one.clock.per_epoch)
    x, labels, rng = one.data.x[one.rows], one.labels[one.rows], torch.Generator()
    a, K = one.descriptors[labels], one.descriptors
    rng.set_state(one.rng.get_state())
    torch.randint(len(one.labels), (24,), generator=rng)  # the rows of the next step
    updates = watched(monkeypatch, one, tf_vaegan, vae_gan)
    one.step()
    _, critic, last = updates
    strength, P = 0.7 * feedback, critic.before
    fake = corrected(P, code(P, x, normal(rng, 24, 3)), a, strength)
    alpha = torch.rand(24, 1, generator=rng).double()
    critic.follows(critic_loss(P, x, fake, a, alpha))
    P = last.before
    fake = corrected(P, code(P, x, normal(rng, 24, 3)), a, strength)
    target = x + 0.2 * normal(rng, 24, 9)
    others = other_classes(labels, len(K), 3, rng)
    eps, total = normal(rng, 24 * 4, 3).view(24, 4, 3), torch.zeros((), dtype=torch.float64)
    for b in range(24):
        logits = []
        for k, c in enumerate((labels[b], *others[b])):
            z = code(P, x[b : b + 1], eps[b, k])
            apart = (x[b] - corrected(P, z, K[c][None], strength)[0]) ** 2
            logits.append(-70 * apart.mean())
        total = total - 0.6 * torch.log_softmax(torch.stack(logits), 0)[0] / 24
    total = total + variational(P, target, fake, x, 1.5) - 2.5 * score(P, fake, a).mean()
    last.follows(total + 0.3 * semantic_loss(P, fake, a))
    also = {"feedback"} if feedback else set()
    assert last.moved == {"encoder", "generator", "decoder"} | also


def test_gate_and_scores():
    """t(x) = min_u mean_i ‖φ(x) − φ(x̃_ui)‖² − min_s ‖φ(x) − m_s‖², by loops."""
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    one, head = trainer(), found.head
    for _ in range(4):
        one.step()
    assert head.counterfactuals.noise.shape == (2, 3)
    scale, seen, unseen = head.scale, one.data.seen.tolist(), one.data.unseen.tolist()
    rows = found.preprocessing(torch.from_numpy(data.for_testing().features[:6]).double())
    centres = [
        torch.stack([described(one, x) * scale for x in one.data.x[one.data.y == c]]).mean(0)
        for c in seen
    ]
    scores = found.head(found.refiner(rows))
    for b, x in enumerate(rows):
        h, (mean, spread) = described(one, x) * scale, encoded(one, x)
        apart = []
        for u in unseen:
            samples = [
                described(
                    one, made_of(one, mean + (spread / 2).exp() * eps, one.data.descriptors[u])
                )
                for eps in head.counterfactuals.noise
            ]
            apart.append(torch.stack([((h - s * scale) ** 2).sum() for s in samples]).mean())
        gate = min(apart) - min(((h - m) ** 2).sum() for m in centres)
        torch.testing.assert_close(head.gate(rows[b : b + 1])[0], gate, rtol=1e-7, atol=1e-9)
        within = [torch.softmax(part(h[None])[0], 0) for part in (head.seen, head.unseen)]
        torch.testing.assert_close(scores[b, seen], gate + 1e-3 * within[0])
        torch.testing.assert_close(scores[b, unseen], 1e-3 * within[1])


def test_seen_is_where_the_gate_exceeds_the_constant():
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    rows = data.for_testing().features
    gate = found.head.gate(found.preprocessing(torch.from_numpy(rows).double())).numpy()
    for constant in np.quantile(gate, [0.2, 0.5, 0.8]) + 1e-3:
        scores = found.scores(rows)
        scores[:, data.seen_mask] -= constant
        clear = np.abs(gate - constant) > 2e-3
        predicted_seen = data.seen_mask[scores.argmax(1)]
        np.testing.assert_array_equal(predicted_seen[clear], gate[clear] > constant)


def test_a_head_of_some_classes():
    """Their scores are the same as long as the nearest seen and unseen class are among them."""
    data = tiny()
    head = SMALL.fit(data.for_training(), device="cpu").recognizer.head
    x = trainer().data.x[:5]
    whole = head(x)
    order = torch.tensor([8, 0, 3, 7, 1, 6, 2, 5, 4])
    assert sorted(order.tolist()) == list(range(9))
    few = head.chosen(order)
    seen, unseen = (torch.from_numpy(np.flatnonzero(m)) for m in (data.seen_mask, ~data.seen_mask))
    torch.testing.assert_close(few(x), whole[:, order])
    for domain in (seen, unseen):  # no gate between one domain and none
        alone = head.chosen(domain)(x)
        torch.testing.assert_close(alone.sum(1), torch.full((5,), 1e-3, dtype=torch.float64))
        best = whole[:, domain].argmax(1)
        assert torch.equal(alone.argmax(1), best)


def test_without_unseen_classes_there_is_no_gate():
    one = trainer()
    data = replace(
        one.data, descriptors=one.data.descriptors[one.data.seen], unseen=one.data.unseen[:0]
    )
    head, _ = SMALL.outcome(one, data, 0)
    torch.testing.assert_close(head(data.x[:4]).sum(1), torch.full((4,), 1e-3, dtype=torch.float64))
    assert (head(data.x).argmax(1) == data.y).double().mean() > 0.8
