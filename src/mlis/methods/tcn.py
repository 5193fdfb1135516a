"""TCN: a contrast of images and classes, transferred to unseen classes by their similarity.

Jiang, Wang, Shan, Chen: "Transferable Contrastive Network for Generalized Zero-Shot Learning",
ICCV 2019. A network A maps the descriptor of a class to a prototype, a network R scores the product
of an image's feature and the prototype:

    p_c = A(a_c),    score(x, c) = R(x ∘ p_c)
    L = mean_{b, c seen} BCE(score, [c = y]) + α mean_{b, u unseen} BCE(score, S_yu)

An image of class y is to be as similar to an unseen class u as the classes are: S_yu comes from
the regression of the descriptor a_y on those of all unseen classes, its small coefficients dropped,
then of sum 1. Recognition is the best score among all classes; nothing is synthesised.

Settings are those of the authors' program. There and here: A is linear, LeakyReLU(0.01), linear,
LeakyReLU(0.01); R is linear, ReLU, linear; S is from ridge regression (the paper: sparse coding).
Different here:

- Features are transformed and scaled as `preprocessing` says, descriptors too; the program takes
  both as they are (`feature_transform`, `feature_scaling` and `descriptor_norm`: "none").
- A seen class with no coefficient above the threshold takes its largest one; the program divides by
  zero. Weights start uniformly with the variance of the program's normal ones.
- The program tests every 1,000 of 50,000 steps and keeps the best H on test rows. On aPY its own
  log has H 32.9 at step 6,000 and 16.9 at the last: the number of steps decides. Here it is chosen
  on validation classes, among shares of `steps`, together with α (the program: 0.01). The network
  is not fine-tuned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Section, setting
from mlis.data.out_of_core.streaming import rows_ahead
from mlis.generators.vae_gan.trainer import update
from mlis.methods._snapshots import Parts, SnapshotMethod
from mlis.methods.base import ByBenchmark
from mlis.model.heads import RelationHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import Identity
from mlis.training.layers import Perceptron, rectify, xavier
from mlis.training.loop import adam
from mlis.training.state import PackedTrainer, Part

SLOPE = 0.01  # of LeakyReLU in A
LEAST = 1e-3  # smaller coefficients are dropped
WEIGHTS = (0.001, 0.01, 0.1)  # α, to choose from


@dataclass(frozen=True)
class TCN(Section, SnapshotMethod["ContrastTrainer"]):
    """TCN.

    Attributes:
        config: `preprocessing` and `precision` are used.
    """

    stage: ClassVar[str] = "tcn"
    shares: ClassVar[tuple[float, ...]] = (0.02, 0.04, 0.08, 0.12, 0.2, 0.4, 1.0)
    remedy: ClassVar[str] = "Lower batch_size, hidden or relation_hidden of TCN"
    published: ClassVar[ByBenchmark] = {
        "aPY": {}  # the one setting of the authors' program
    }

    steps: int = setting(50_000, "of both networks", low=1)
    batch_size: int = setting(32, "samples in a step", low=1)
    hidden: int = setting(1024, "hidden units of A", low=1)
    relation_hidden: int = setting(1024, "hidden units of R", low=1)
    learning_rate: float = setting(1e-5, "Adam's step size", low=0)
    beta1: float = setting(0.5, "Adam's first decay rate", low=0, high=0.9999)
    beta2: float = setting(0.9, "Adam's second decay rate", low=0, high=0.99999)
    transfer_weight: float = setting(0.01, "α, weight of the unseen classes' loss", low=0)
    ridge_penalty: float = setting(1.0, "of the similarities' regression", low=1e-12)

    @property
    def name(self) -> str:
        """As in the paper."""
        return "TCN"

    def variants(self) -> Sequence[Self]:
        """The weight α of the settings, and others."""
        weights = sorted({*WEIGHTS, self.transfer_weight})
        return [replace(self, transfer_weight=weight) for weight in weights]

    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> "ContrastTrainer":
        """Of all networks."""
        return ContrastTrainer(data, self, precision, seed)

    def outcome(self, trainer: "ContrastTrainer", data: TrainingTensors, seed: int) -> Parts:
        """The relation of features and prototypes."""
        return trainer.head(), Identity()


def class_similarity(seen: Tensor, unseen: Tensor, penalty: float) -> Tensor:
    """S (S, U) ≥ 0, each row of sum 1, of descriptors (S, Da) and (U, Da).

    Ridge regression, with intercept, of each seen descriptor on all unseen ones: the entries of a
    descriptor are the observations.
    """
    X, Y = (one.double() - one.double().mean(1, keepdim=True) for one in (unseen, seen))
    gram = X @ X.T
    gram.diagonal().add_(penalty)
    W = torch.linalg.solve(gram, X @ Y.T).T
    kept = torch.where(W < LEAST, 0.0, W)
    largest = one_hot(W.argmax(1), W.shape[1]).to(W)
    kept = torch.where(kept.sum(1, keepdim=True) > 0, kept, largest)
    return (kept / kept.sum(1, keepdim=True)).to(seen.dtype)


class ContrastTrainer(PackedTrainer):
    """One step = one update of A and R on a batch of real seen samples and all classes."""

    def __init__(self, data: TrainingTensors, settings: TCN, precision: Precision, seed: int):
        self.data: TrainingTensors = data
        self.settings: TCN = settings
        s, rng = settings, stream(seed, "tcn-weights")
        features, attributes = data.x.shape[1], data.descriptors.shape[1]
        how = (0.0, precision, rng)  # the weights are drawn below
        self.prototypes: Perceptron = Perceptron(attributes, s.hidden, features, SLOPE, *how)
        self.relation: Perceptron = Perceptron(features, s.relation_hidden, 1, 0.0, *how)
        for network in (self.prototypes, self.relation):
            xavier(network, 1.0, rng)
        parameters = [*self.prototypes.parameters(), *self.relation.parameters()]
        self.adam: torch.optim.Adam = adam(parameters, s.learning_rate, s.beta1, s.beta2)
        self.rng: torch.Generator = stream(seed, "tcn", device=precision.device)
        self.classes: Tensor = torch.cat((data.seen, data.unseen))
        self.own: Tensor = torch.searchsorted(data.seen, data.y)
        self.similarity: Tensor | None = None
        if len(data.unseen):
            pair = data.descriptors[data.seen], data.descriptors[data.unseen]
            self.similarity = class_similarity(*pair, s.ridge_penalty)
        self.rows: Tensor = rows_ahead(self.data.x, self.settings.batch_size, self.rng)

    def step(self) -> Mapping[str, Tensor]:
        """Draw a batch and update both networks on the sum of the losses."""
        x, labels = self.data.x[self.rows], self.own[self.rows]
        self.rows = rows_ahead(self.data.x, self.settings.batch_size, self.rng)
        losses = self.losses(x, labels)
        total = losses["contrast"] + self.settings.transfer_weight * losses["transfer"]
        update(total, self.adam)
        return {name: loss.detach() for name, loss in losses.items()}

    def losses(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both losses of features (B, Dx) and labels (B,) among the seen classes."""
        p = self.prototypes_of(self.data.descriptors[self.classes])
        pairs = (x[:, None] * p).flatten(0, 1)
        scores = self.relation(pairs).view(len(x), len(p))
        seen = len(self.data.seen)
        targets = one_hot(labels, seen).to(scores)
        losses = {"contrast": binary_cross_entropy_with_logits(scores[:, :seen], targets)}
        losses["transfer"] = scores.new_zeros(())
        if self.similarity is not None:
            targets = self.similarity[labels]
            losses["transfer"] = binary_cross_entropy_with_logits(scores[:, seen:], targets)
        return losses

    def prototypes_of(self, descriptors: Tensor) -> Tensor:
        """p, (C, Dx) of (C, Da)."""
        return rectify(self.prototypes(descriptors), SLOPE)

    @torch.no_grad()
    def head(self) -> RelationHead:
        """Scores of all classes, as logits, by the networks as they are now."""
        first, last = self.relation.first, self.relation.last
        parts = (first.weight, first.bias, last.weight[0], last.bias[0])
        prototypes = self.prototypes_of(self.data.descriptors)
        return RelationHead(prototypes, *(part.detach().clone() for part in parts))

    def parts(self) -> Mapping[str, Part]:
        """Networks, optimiser and random stream."""
        return {**self.kept(), "adam": self.adam, "rng": self.rng}

    def kept(self) -> Mapping[str, Part]:
        """Both networks."""
        return {"prototypes": self.prototypes, "relation": self.relation}
