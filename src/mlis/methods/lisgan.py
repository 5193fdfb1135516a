"""LisGAN, inductive stage: a WGAN-GP whose fakes stay close to "soul samples" of their class.

Li, Jing, Lu, Ding, Zhu, Yang, Huang: "Leveraging the Invariant Side of Generative Zero-Shot
Learning", CVPR 2019. Soul samples s_c1 … s_ck of a seen class are the means of its k-means clusters
(k = 3). Beside eq. (2) of the WGAN-GP and the cross-entropy of a softmax Q, trained on real seen
rows before and then fixed, G minimises distances to the nearest of them:

    L_R1 = mean_c min_j ‖mean_i G(z_i, a_c) − s_cj‖²    new samples i = 1 … 20 of every seen class
    L_R2 = mean_b min_j ‖G(z_b, a_b) − s_{y_b j}‖²      the fakes of the batch

    L_G = −E[D(x̃)] + w_c CE(Q(x̃), y) + p₁ L_R1 + p₂ L_R2

The classifier is a softmax on real seen and synthetic unseen features. With p₁ = p₂ = 0 this is
f-CLSWGAN with its classification loss; validation chooses between that and the weights given.

The paper goes on: that softmax labels all test images, the most confident ones become training
rows, and two more classifiers label the rest. This is transductive, an image's answer would depend
on the other test images, so it is left out; which stage was published is not said.

Settings are those of the authors' program. Different here: Q and the final softmax are trained to
convergence (`classification.weight_decay`); clusters are k-means++ with ten starts; steps are
chosen on validation classes, not set for each dataset by hand; a last ReLU in G only where features
are not negative, as of the WGAN-GP; descriptors of unit length, as published except CUB's sentences
(`descriptor_norm`); a square root of the features before they are scaled (`feature_transform`).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mlis.compute.precision import Precision
from mlis.compute.random import normal
from mlis.config import setting
from mlis.data.out_of_core.streaming import StreamedRows
from mlis.generators.wgan_gp.trainer import AdversarialTrainer, WGANSettings
from mlis.methods._refined_softmax import fit_softmax
from mlis.methods._snapshots import Parts, SnapshotMethod
from mlis.methods.base import ByBenchmark
from mlis.model.classification import fit_classifier
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import Identity

_ANIMALS = {"class_weight": 1e-3, "fake_weight": 3e-5, "learning_rate": 1e-5}


@dataclass(frozen=True)
class LisGAN(WGANSettings, SnapshotMethod[AdversarialTrainer]):
    """LisGAN without its transductive cascade; the defaults are those of CUB.

    Attributes:
        config: `preprocessing`, `classification` and `precision` are used.
    """

    stage: ClassVar[str] = "lisgan"
    remedy: ClassVar[str] = "Lower batch_size, hidden or class_samples of LisGAN"
    published: ClassVar[ByBenchmark] = {
        "CUB": {"steps": 6200, "synthetic_per_unseen": 300},
        "FLO": {
            **{"class_weight": 0.1, "fake_weight": 0.03, "classification_weight": 0.1},
            **{"steps": 7000, "synthetic_per_unseen": 1200},
        },
        "SUN": {
            **{"class_weight": 0.3, "fake_weight": 3e-5, "learning_rate": 2e-4, "steps": 6450},
            **{"synthetic_per_unseen": 400},
        },
        "AWA1": {**_ANIMALS, "steps": 9300, "synthetic_per_unseen": 1800},
        "AWA2": {**_ANIMALS, "steps": 73500, "synthetic_per_unseen": 1800},
        "aPY": {
            **{"class_weight": 0.3, "fake_weight": 3e-4, "learning_rate": 1e-5, "steps": 4600},
            **{"synthetic_per_unseen": 1800},
        },
    }

    souls: int = setting(3, "k, soul samples of a class", low=1)
    class_weight: float = setting(0.01, "p₁ of L_R1", low=0)
    class_samples: int = setting(20, "samples of a class in L_R1", low=1)
    fake_weight: float = setting(0.001, "p₂ of L_R2", low=0)
    classification_weight: float = setting(0.01, "w_c of Q's cross-entropy", low=0)

    @property
    def name(self) -> str:
        """As in the paper, and which part of it."""
        return "LisGAN (inductive)"

    def variants(self) -> Sequence[Self]:
        """With soul samples, and without: f-CLSWGAN with its classification loss."""
        without = replace(self, class_weight=0.0, fake_weight=0.0)
        return [self] if self == without else [self, without]

    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> AdversarialTrainer:
        """Of all networks."""
        trainer = AdversarialTrainer(data, self.generation(data), precision, seed)
        trainer.feedback = InvariantSide(trainer, self, seed)
        return trainer

    def outcome(self, trainer: AdversarialTrainer, data: TrainingTensors, seed: int) -> Parts:
        """A softmax on features, real and synthetic."""
        settings, refiner = self.config.classification, Identity()
        return fit_softmax(data, trainer.generator, refiner, settings, seed), refiner


class InvariantSide:
    """What G learns beside eq. (2): `w_c CE(Q(x̃), y) + p₁ L_R1 + p₂ L_R2`."""

    def __init__(self, trainer: AdversarialTrainer, settings: LisGAN, seed: int):
        data = trainer.data
        self._trainer, self._settings, self._seed = trainer, settings, seed
        x = data.x if isinstance(data.x, StreamedRows) else data.x.clone()  # it is overwritten
        self.classifier: LinearHead = fit_classifier(
            x, trainer.labels, len(data.seen), settings.config.classification
        )
        classes = torch.arange(len(data.seen), device=data.y.device)
        self._classes: Tensor = classes.repeat_interleave(settings.class_samples)

    def __call__(self, fake: Tensor, labels: Tensor) -> Tensor:
        """The three terms for fakes (B, Dx) and labels (B,) among the seen classes."""
        s = self._settings
        loss = s.classification_weight * cross_entropy(self.classifier(fake), labels)
        if s.fake_weight:
            loss = loss + s.fake_weight * soul_distance(fake, self.souls[labels])
        if s.class_weight:
            loss = loss + s.class_weight * soul_distance(self._class_means(), self.souls)
        return loss

    @functools.cached_property
    def souls(self) -> Tensor:
        """(S, k, Dx) soul samples; not computed where no loss needs them."""
        return soul_samples(self._trainer.data, self._settings.souls, self._seed)

    def _class_means(self) -> Tensor:
        """(S, Dx) means of new fakes of every seen class."""
        trainer = self._trainer
        z = normal(trainer.rng, len(self._classes), trainer.network.noise)
        own = trainer.network.own_class_term(trainer.descriptors, self._classes)
        fake = trainer.network(z.to(own.dtype), own)
        return fake.unflatten(0, (-1, self._settings.class_samples)).mean(1)


def soul_distance(points: Tensor, souls: Tensor) -> Tensor:
    """`mean_i min_j ‖points_i − souls_ij‖²` of (N, Dx) and (N, k, Dx)."""
    return (points[:, None] - souls).square().sum(2).amin(1).mean()


def soul_samples(data: TrainingTensors, k: int, seed: int) -> Tensor:
    """(S, k, Dx) means of the k-means clusters of each seen class's rows.

    A class with fewer different rows than k repeats its last soul sample.
    """
    from sklearn.cluster import KMeans  # slow to import

    souls: list[Tensor] = []
    for c in data.seen.tolist():
        rows = data.x[torch.nonzero(data.y == c).flatten()].cpu().double().numpy()
        different = min(k, len(torch.unique(torch.from_numpy(rows), dim=0)))
        means = KMeans(different, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
        centres = torch.from_numpy(means.fit(rows).cluster_centers_)
        souls.append(torch.cat((centres, centres[-1:].expand(k - different, -1))))
    return torch.stack(souls).to(data.descriptors)
