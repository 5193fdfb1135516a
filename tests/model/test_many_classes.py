"""More classes than samples: steps that touch only a batch's own classes compute the same."""

import torch

from mlis.compute.precision import Precision
from mlis.config import Preprocessing
from mlis.encoder import trainer as refinement_train
from mlis.encoder.joint import JointTrainer
from mlis.encoder.trainer import RefinementTrainer
from mlis.generators.ridge import fit_ridge
from mlis.generators.wgan_gp import trainer as wgan_gp
from mlis.generators.wgan_gp.networks import own_classes
from mlis.generators.wgan_gp.trainer import AdversarialTrainer
from mlis.model.preprocessing import prepare
from simulated import small, tiny

EXACT = Precision.of("float64", "cpu")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SEED = 4


def tensors():
    """6 seen and 3 unseen classes."""
    return prepare(tiny().for_training(), Preprocessing(), EXACT)[1]


def trained() -> JointTrainer:
    """Three joint steps of a warm-started generator with feedback; 2 samples in a batch."""
    generation = {"batch_size": 2, "generator_init": "ridge", "init_std": 0.3}
    refinement = {"schedule": "joint", "generator_feedback": 0.5}
    config = small(generation=generation, refinement=refinement)
    data = tensors()
    adversarial = AdversarialTrainer(data, config.generation, EXACT, SEED)
    trainer = JointTrainer(
        adversarial,
        RefinementTrainer(
            *(data, config.refinement, EXACT, SEED),
            lambda: adversarial.generator.sampler(data.descriptors),
        ),
    )
    for _ in range(3):
        trainer.step()
    return trainer


def test_class_terms_of_the_batch_alone_train_the_same_generator(monkeypatch):
    data = tensors()
    own = trained()
    seen = data.descriptors[data.seen]
    labels, descriptors = own_classes(torch.tensor([5, 0, 5]), seen)
    assert torch.equal(descriptors[labels], seen[torch.tensor([5, 0, 5])])
    assert len(descriptors) == 3
    monkeypatch.setattr(wgan_gp, "own_classes", lambda labels, descriptors: (labels, descriptors))
    of_all = trained()
    for one, other in (
        (own.adversarial.network, of_all.adversarial.network),
        (own.adversarial.critic, of_all.adversarial.critic),
        (own.refinement.encoder, of_all.refinement.encoder),
    ):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


def synthetic_labels(steps: int) -> list[torch.Tensor]:
    """Labels of the synthetic samples in each step, (B,)."""
    data, seen = tensors(), []
    settings = small(refinement={"synthetic_per_unseen": 3, "synthetic_per_seen": 2}).refinement
    sampler = fit_ridge(data, small().generation).sampler(data.descriptors)

    def keep(labels, rng):
        seen.append(labels)
        return sampler(labels, rng)

    trainer = RefinementTrainer(data, settings, EXACT, SEED, lambda: keep)
    for _ in range(steps):
        assert torch.isfinite(trainer.step()["cross_entropy"]).all()
    return seen


def test_of_too_many_classes_each_step_has_samples_of_some(monkeypatch):
    data = tensors()
    monkeypatch.setattr(refinement_train, "MOST_CLASSES", 6)
    steps = synthetic_labels(20)
    met = set()
    for labels in steps:
        counts = torch.bincount(labels, minlength=data.num_classes)
        assert sorted(counts[data.unseen].tolist()) == [0, 3, 3]
        assert sorted(counts[data.seen].tolist()) == [0, 0, 2, 2, 2, 2]
        met |= set(labels.tolist())
    assert met == set(range(9))
