"""LisGAN: soul samples, distances to them, what the generator learns beside the WGAN-GP."""

import numpy as np
import pytest
import torch

from mlis.compute.precision import Precision
from mlis.generators.wgan_gp.trainer import AdversarialTrainer
from mlis.methods.lisgan import InvariantSide, LisGAN, soul_distance, soul_samples
from mlis.model.preprocessing import TrainingTensors, prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SETTINGS = LisGAN(
    **{"config": small("float64"), "steps": 2, "batch_size": 6, "hidden": 5, "noise": 3},
    **{"souls": 2, "class_samples": 3, "class_weight": 0.7, "fake_weight": 0.3},
    **{"classification_weight": 0.2},
)


def tensors() -> TrainingTensors:
    return prepare(tiny().for_training(), SETTINGS.config.preprocessing, DOUBLE)[1]


def data_of(x: list[list[float]], y: list[int]) -> TrainingTensors:
    classes = torch.arange(max(y) + 1)
    descriptors = torch.eye(len(classes), dtype=torch.float64)
    rows = torch.tensor(x, dtype=torch.float64)
    return TrainingTensors(rows, torch.tensor(y), descriptors, classes, classes[:0])


def test_soul_samples_are_the_means_of_clusters():
    x = [[0, 0], [9, 9], [0, 2], [9, 7], [5, 5], [5, 5], [5, 5]]
    souls = soul_samples(data_of(x, [0, 0, 0, 0, 1, 1, 1]), 2, seed=0)
    assert sorted(souls[0].tolist()) == [[0, 1], [9, 8]]
    assert souls[1].tolist() == [[5, 5], [5, 5]]  # one row, three times


def test_the_distance_is_to_the_nearest_soul():
    rng = np.random.default_rng(0)
    points, souls = rng.normal(size=(5, 4)), rng.normal(size=(5, 3, 4))
    wanted = np.mean([min(((points[i] - s) ** 2).sum() for s in souls[i]) for i in range(5)])
    found = soul_distance(torch.from_numpy(points), torch.from_numpy(souls))
    assert float(found) == pytest.approx(wanted, rel=1e-12)


def test_what_the_generator_learns():
    """w_c CE + p₁ L_R1 + p₂ L_R2 by loops over samples and classes."""
    data = tensors()
    trainer = AdversarialTrainer(data, SETTINGS.generation(data), DOUBLE, 0)
    side = InvariantSide(trainer, SETTINGS, 0)
    z, labels = (
        torch.randn((6, 3), generator=torch.Generator().manual_seed(1)).double(),
        trainer.labels[:6],
    )
    fake = trainer.generate(z, labels)
    state = trainer.rng.get_state()
    found = side(fake, labels)
    trainer.rng.set_state(state)
    classes = len(data.seen)
    drawn = torch.randn((3 * classes, 3), generator=trainer.rng).double()
    entropy = near = total = 0.0
    for b in range(6):
        scores = side.classifier.weight @ fake[b] + side.classifier.bias
        entropy = entropy - torch.log_softmax(scores, 0)[labels[b]]
        near = near + min(((fake[b] - s) ** 2).sum() for s in side.souls[labels[b]])
    for c in range(classes):
        made = trainer.generate(drawn[3 * c : 3 * c + 3], torch.full((3,), c)).mean(0)
        total = total + min(((made - s) ** 2).sum() for s in side.souls[c])
    wanted = 0.2 * entropy / 6 + 0.3 * near / 6 + 0.7 * total / classes
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)
    weight = trainer.network.from_noise
    pair = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*pair, rtol=1e-8, atol=1e-12)
    assert pair[0].abs().max() > 1e-6


def test_training_rows_are_left_as_they_were():
    data = tensors()
    before = data.x.clone()
    InvariantSide(AdversarialTrainer(data, SETTINGS.generation(data), DOUBLE, 0), SETTINGS, 0)
    assert torch.equal(data.x, before)
