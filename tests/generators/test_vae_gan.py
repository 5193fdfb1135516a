"""The VAE-GAN: its losses against loops and closed forms in float64, its training, its sampler."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Config, Generation
from mlis.data.dataset import GZSLDataset
from mlis.generators.base import synthesise
from mlis.generators.registry import fit_generator
from mlis.generators.vae_gan.f_vaegan import FVAEGANTrainer, fit_f_vaegan
from mlis.generators.vae_gan.losses import (
    activate,
    feature_range,
    kl_divergence,
    reconstruction,
    weighted_l1,
)
from mlis.generators.vae_gan.trainer import PenaltyWeight, VAEGANSettings
from mlis.methods.registry import build_method
from mlis.model.preprocessing import TrainingTensors, prepare
from mlis.pipeline import fit
from simulated import linear_world, small, tiny

DOUBLE = Precision.of("float64", "cpu")
SMALL = VAEGANSettings(steps=4, batch_size=6, hidden=7, critic_hidden=5, noise=3, critic_steps=2)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensors(data: GZSLDataset | None = None, **preprocessing: str) -> TrainingTensors:
    config = Config().replace({"preprocessing": preprocessing})
    return prepare((data or tiny()).for_training(), config.preprocessing, DOUBLE)[1]


def signed() -> GZSLDataset:
    data = tiny()
    return replace(data, features=data.features - data.features.mean(0))


# --- losses ---------------------------------------------------------------------------------------


def test_weighted_l1_and_its_gradient():
    """Σ_j (d_j²/‖d‖) |d_j| written as a loop, whose weights are differentiated too."""
    predicted, target = numbers(5, 4).requires_grad_(), numbers(5, 4, seed=1)
    rows = []
    for p, t in zip(predicted, target, strict=True):
        d = p - t
        weights = [d[j] ** 2 / torch.sqrt((d**2).sum()) for j in range(4)]
        rows.append(sum(w * torch.abs(d[j]) for j, w in enumerate(weights)))
    wanted = sum(rows) / 5
    found = weighted_l1(predicted, target)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    pair = [torch.autograd.grad(loss, predicted)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-14)


def test_weighted_l1_of_a_perfect_prediction_has_a_gradient():
    target = numbers(3, 4)
    predicted = target.clone().requires_grad_()
    weighted_l1(predicted, target).backward()
    assert predicted.grad is not None
    assert torch.equal(predicted.grad, torch.zeros_like(target))


def test_kl_divergence_is_that_of_gaussians():
    mean, log_variance = numbers(6, 3), numbers(6, 3, seed=1)
    ours = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    wanted = torch.distributions.kl_divergence(ours, standard).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), wanted, rtol=1e-12, atol=0)


def test_reconstruction_is_the_cross_entropy_of_features_in_the_unit_interval():
    output, x = numbers(4, 3), torch.sigmoid(numbers(4, 3, seed=1))
    total = 0.0
    for i in range(4):
        for j in range(3):
            p, q = float(torch.sigmoid(output[i, j])), float(x[i, j])
            total -= q * math.log(p) + (1 - q) * math.log(1 - p)
    assert float(reconstruction(output, x, "unit")) == pytest.approx(total / 4, rel=1e-12)


@pytest.mark.parametrize(("kind", "made"), [("positive", torch.relu), ("signed", lambda x: x)])
def test_reconstruction_is_half_the_squared_error_of_others(kind, made):
    output, x = numbers(4, 3), numbers(4, 3, seed=1)
    wanted = sum(0.5 * float(((made(output[i]) - x[i]) ** 2).sum()) for i in range(4)) / 4
    assert float(reconstruction(output, x, kind)) == pytest.approx(wanted, rel=1e-12)
    torch.testing.assert_close(activate(output, kind), made(output))


def test_where_features_lie():
    assert feature_range(tensors()) == "unit"
    assert feature_range(tensors(feature_scaling="none")) == "positive"
    assert feature_range(tensors(signed(), feature_scaling="none")) == "signed"
    assert feature_range(tensors(signed())) == "unit"  # scaled to [0, 1]


@pytest.mark.parametrize(
    ("term", "wanted"), [(0.2, 10 / 1.1), (1.0, 10 / 1.1), (1.02, 10), (1.2, 11)]
)
def test_the_penalty_weight_follows_the_penalty(term, wanted):
    weight = PenaltyWeight(10.0, True, DOUBLE)
    for change in (-0.1, 0.1):  # the mean over critic steps counts
        weight.note(torch.tensor(10 * term * (1 + change)))
    weight.adapt()
    assert float(weight.weight) == pytest.approx(wanted, rel=1e-6)
    weight.adapt()  # nothing new
    assert float(weight.weight) == pytest.approx(wanted, rel=1e-6)


def test_a_fixed_penalty_weight_stays():
    weight = PenaltyWeight(10.0, False, DOUBLE)
    weight.note(torch.tensor(1.0))
    weight.adapt()
    assert weight.weight == 10


# --- training -------------------------------------------------------------------------------------


def test_a_step_of_encoder_and_generator_follows_the_loss():
    """L_VAE − γ (E[D] of encoded + E[D] of prior noise), from the networks' plain formulas."""
    options = replace(SMALL, learning_rate=0.01, critic_steps=1, init_std=0.3)
    one = FVAEGANTrainer(tensors(), options, DOUBLE, 0)
    drawn: list[Tensor] = []
    draw = one.normal
    one.normal = lambda *shape: drawn.append(draw(*shape)) or drawn[-1]
    rows = one.rows.clone()
    one.adam_critic.step = lambda closure=None: None  # the critic stays
    before = {k: v.clone() for k, v in one.encoder.state_dict().items()}
    generator = {k: v.clone().requires_grad_() for k, v in one.network.named_parameters()}
    encoder = {k: v.clone().requires_grad_() for k, v in one.encoder.named_parameters()}
    losses = one.step()

    x, a = one.data.x[rows], one.descriptors[one.labels[rows]]
    prior, eps = drawn

    def leaky(u: Tensor) -> Tensor:
        return torch.where(u > 0, u, 0.2 * u)

    def layer(u: Tensor, name: str) -> Tensor:
        return u @ encoder[f"{name}.weight"].T + encoder[f"{name}.bias"]

    h = leaky(layer(torch.cat((x, a), 1), "layers.0"))
    mean, log_variance = layer(h, "mean"), layer(h, "log_variance")

    def decode(z: Tensor) -> Tensor:
        g = generator
        first = torch.cat((g["from_noise"], g["from_descriptor"]), 1)
        u = leaky(torch.cat((z, a), 1) @ first.T + g["hidden_bias"])
        return u @ g["to_features"].T + g["feature_bias"]

    def score(fake: Tensor) -> Tensor:
        d = one.critic
        first = torch.cat((d.from_features, d.from_descriptor), 1)
        return leaky(torch.cat((fake, a), 1) @ first.T + d.hidden_bias) @ d.to_score

    output = decode(mean + torch.exp(log_variance / 2) * eps)
    made = torch.sigmoid(output)
    cross = -(x * made.log() + (1 - x) * (1 - made).log()).sum(1).mean()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    adversarial = -score(made).mean() - score(torch.sigmoid(decode(prior))).mean()
    assert float(losses["vae"]) == pytest.approx(float((cross + kl).detach()), rel=1e-9)
    assert float(losses["generator"]) == pytest.approx(float(adversarial.detach()), rel=1e-9)
    total = cross + kl + options.adversarial_weight * adversarial
    (gradient,) = torch.autograd.grad(total, encoder["layers.0.weight"])
    moved = one.encoder.layers[0].weight.detach() - before["layers.0.weight"]
    steep = gradient.abs() > 1e-6
    assert steep.double().mean() > 0.5
    torch.testing.assert_close(moved[steep], -0.01 * gradient[steep].sign(), rtol=1e-2, atol=0)


def test_a_training_continued_from_a_snapshot_ends_with_the_same_bits():
    options = replace(SMALL, penalty_schedule="adaptive", encoder_layers="two")
    one, other = (FVAEGANTrainer(tensors(), options, DOUBLE, seed) for seed in (0, 1))
    one.step()
    state = {name: value.clone() for name, value in one.state().items()}
    other.load_state(state)
    for _ in range(2):
        one.step()
        other.step()
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name
    assert float(one.penalty.weight) != 10


@pytest.mark.parametrize(
    ("data", "scaling", "low", "high"),
    [(tiny, "minmax", 0, 1), (tiny, "none", 0, math.inf), (signed, "none", -math.inf, math.inf)],
)
def test_synthetic_features_lie_where_real_ones_do(data, scaling, low, high):
    training = tensors(data(), feature_scaling=scaling)
    settings = Generation(generator="f-vaegan", steps=3, batch_size=8, hidden=6, noise=3)
    sampler = fit_generator(training, settings, DOUBLE, 0).sampler(training.descriptors)
    parts = synthesise(sampler, training.unseen, 50, stream(0, "test"))
    x = torch.cat([x for x, _ in parts])
    assert x.shape == (50 * len(training.unseen), training.x.shape[1])
    assert ((x >= low) & (x <= high)).all()
    assert bool((x < 0).any()) == (low < 0)


def test_another_seed_is_another_generator():
    settings = Generation(generator="f-vaegan", steps=2, batch_size=8, hidden=6, noise=3)
    one, two, again = (fit_f_vaegan(tensors(), settings, DOUBLE, seed) for seed in (0, 1, 0))
    assert torch.equal(one.network.to_features, again.network.to_features)
    assert not torch.equal(one.network.to_features, two.network.to_features)


def test_mlis_and_the_raw_softmax_take_it_as_their_generator():
    training = tiny().for_training()
    config = small(generation={"generator": "f-vaegan"})
    found = fit(training, config, device="cpu")
    rows = tiny().for_testing().features
    assert np.isfinite(found.recognizer.scores(rows)).all()
    other = fit(training, small(), device="cpu").recognizer
    assert np.abs(found.recognizer.scores(rows) - other.scores(rows)).max() > 1e-3
    assert build_method("raw", config).name == "raw softmax, f-vaegan generator"


def test_it_learns_the_means_of_unseen_classes():
    """Its samples of unseen classes lie nearer to the mean of their class than to another's."""
    data = linear_world()
    training = tensors(data)
    settings = Generation(
        **{"generator": "f-vaegan", "steps": 250, "batch_size": 64, "hidden": 64, "noise": 8},
        **{"learning_rate": 2e-3, "adversarial_weight": 0.3, "critic_steps": 2},
    )
    generator = fit_generator(training, settings, DOUBLE, 0)
    sampler = generator.sampler(training.descriptors)
    ((x, y),) = synthesise(sampler, training.unseen, 40, stream(0, "test"))
    low, high = (f(data.features[data.split.train], axis=0) for f in (np.min, np.max))
    scaled = (data.features - low) / (high - low)
    means = np.stack([scaled[data.labels == c].mean(0) for c in training.unseen.tolist()])
    nearest = torch.cdist(x.double(), torch.from_numpy(means).double()).argmin(1)
    assert (training.unseen[nearest] == y).double().mean() > 0.7  # by chance 1/6
