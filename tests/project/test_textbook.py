"""The textbook that the benchmarks measure against computes the same losses as the fast path."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("pytorch_metric_learning")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from shapes import Shape, tensors
from textbook import TextbookStageOne

from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision
from mlis.config import Config
from mlis.encoder.metric_losses import balanced_cross_entropy
from mlis.encoder.trainer import RefinementTrainer
from mlis.generators.wgan_gp.losses import critic_loss
from mlis.generators.wgan_gp.trainer import AdversarialTrainer


@pytest.fixture
def both():
    shape = Shape(seen=6, unseen=2, rows=48, descriptor=5, features=12)
    config = Config.from_dict(
        {
            "generation": {"hidden": 16, "noise": 4, "batch_size": 8, "init_std": 0.3},
            "refinement": {"hidden": 10, "classes_per_batch": 4, "samples_per_class": 3},
        }
    )
    exact = Precision.of("float64", "cpu")
    data = tensors(shape, exact)
    ours = AdversarialTrainer(data, config.generation, exact, 0)
    refinement = RefinementTrainer(data, config.refinement, exact, 0, None)
    theirs = TextbookStageOne(data, config)
    theirs.copy_weights(ours, refinement)
    return data, config, ours, refinement, theirs


def test_critic_losses_agree(both):
    data, config, ours, _, theirs = both
    real, labels = data.x[:8], data.y[:8]
    fake = theirs.fake(labels).detach()
    alpha = torch.rand(8, 1, dtype=torch.float64)
    expected = theirs.critic_losses(real, fake, labels, alpha)
    penalty_weight = config.generation.penalty
    found = critic_loss(
        ours.critic, real, fake, labels, data.descriptors, alpha, penalty_weight, Buffers()
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
    sum(found).backward()
    sum(expected).backward()
    gradient = theirs.critic[0].weight.grad
    assert gradient is not None
    ours_gradient = torch.cat((ours.critic.from_features.grad, ours.critic.from_descriptor.grad), 1)
    torch.testing.assert_close(ours_gradient, gradient, rtol=1e-9, atol=1e-15)


def test_generator_losses_agree(both):
    data, config, ours, _, theirs = both
    labels = data.y[:8]
    state = torch.get_rng_state()
    expected = theirs.generator_loss(labels)
    expected.backward()
    torch.set_rng_state(state)
    z = torch.randn(8, config.generation.noise, dtype=torch.float64)
    ours.base = None  # the textbook has no warm start
    ours.adam_generator.step = lambda: None  # leaves weights and gradients as they are
    found = ours.generator_step(z, labels)["generator"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    first, second = theirs.generator[0][0], theirs.generator[0][2]
    gradient = torch.cat((ours.network.from_noise.grad, ours.network.from_descriptor.grad), 1)
    torch.testing.assert_close(gradient, first.weight.grad, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(
        ours.network.to_features.grad, second.weight.grad, rtol=1e-9, atol=1e-15
    )


def test_encoder_losses_agree(both):
    data, _, _, refinement, theirs = both
    rows = refinement.sampler.draw(refinement.batches)
    labels = refinement.synthetic_labels
    fakes = theirs.fake(labels).detach()
    metric, cross_entropy = theirs.encoder_losses(rows, fakes, labels)
    h = refinement.encoder(data.x[rows])
    found, _ = refinement.metric_loss(h, data.y[rows])
    logits = refinement.head(torch.cat((h, refinement.encoder(fakes))))
    assert found.item() == pytest.approx(metric.item(), rel=1e-9)
    assert balanced_cross_entropy(logits, torch.cat((data.y[rows], labels))).item() == (
        pytest.approx(cross_entropy.item(), rel=1e-9)
    )
