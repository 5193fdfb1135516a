"""After Chandhok and Balasubramanian: generator and inference network, coupled at two levels.

A **reconstruction**, not the system (TACO) of Chandhok, Balasubramanian: "Two-Level Adversarial
Visual-Semantic Coupling for Generalized Zero-shot Learning", WACV 2021, whose text and program were
not available.

From its abstract: an inference network augments the generator during training, by a "two-level
joint maximization", for strong interaction of the visual and the semantic domain; the classifier is
trained on synthesised features and on the inference network's representation, not on one of them.
Ours: which critics see which pairs, every loss, each a common one of its kind, and all weights.

A generator G makes features of noise and descriptor; an inference network I goes the other way,

    x̃ = G(z, a)  (B, Dx),        h = LeakyReLU(W₁ x)  (B, hidden),  I(x) = W₂ h  (B, Da)

First level, each domain by itself: a critic D(x, a) of features, as in the WGAN-GP, and a critic
D_a of descriptors. Second level, both together, as in a bidirectional GAN: a critic D_J tells a
real feature with its inferred descriptor, (x, I(x)), from a made feature with its own, (x̃, a).

    D   minimises  E[D(x̃, a)] − E[D(x, a)] + λ penalty
    D_a minimises  E[D_a(I(x))] − E[D_a(a)] + λ penalty
    D_J minimises  E[D_J(x̃, a)] − E[D_J(x, I(x))] + λ penalty
    G, I minimise  −E[D(x̃, a)] − E[D_a(I(x))] + w_J (E[D_J(x, I(x))] − E[D_J(x̃, a)])
                   + w_I (mean ‖I(x̃) − a‖₁ + mean ‖I(x) − a_y‖₁)

`a` is the descriptor of the made or real row's own class; the penalty `E[(‖∇D‖ − 1)²]`, λ = 10, is
taken between the two arguments of a critic, pairs included. The softmax sees [x ; h] of real seen
and of synthetic unseen features, its two parts brought to equal variance. Sizes, rates and lengths
are those of :mod:`mlis.methods.lisgan`; steps are chosen on validation classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import setting
from mlis.generators.vae_gan.trainer import update
from mlis.generators.wgan_gp.losses import critic_loss, generator_loss
from mlis.generators.wgan_gp.networks import SLOPE, Critic, own_classes
from mlis.generators.wgan_gp.trainer import AdversarialTrainer, WGANSettings
from mlis.methods._refined_softmax import as_refiner, fit_softmax
from mlis.methods._snapshots import Parts, SnapshotMethod
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import Concatenation, Identity
from mlis.training.layers import Perceptron
from mlis.training.loop import adam
from mlis.training.state import Part


@dataclass(frozen=True)
class TACOReconstruction(WGANSettings, SnapshotMethod["CouplingTrainer"]):
    """After Chandhok and Balasubramanian; the weights are ours.

    Attributes:
        config: `preprocessing`, `classification` and `precision` are used.
    """

    stage: ClassVar[str] = "taco-reconstruction"
    remedy: ClassVar[str] = "Lower batch_size or hidden of TACOReconstruction"
    reconstruction: ClassVar[bool] = True

    joint_weight: float = setting(1.0, "w_J of the second level", low=0)
    inference_weight: float = setting(0.1, "w_I of the errors of inferred descriptors", low=0)

    @property
    def name(self) -> str:
        """What it follows; not the system's own name."""
        return "after Chandhok and Balasubramanian (reconstruction)"

    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> "CouplingTrainer":
        """Of all networks."""
        return CouplingTrainer(data, self, precision, seed)

    def outcome(self, trainer: "CouplingTrainer", data: TrainingTensors, seed: int) -> Parts:
        """A softmax on [x ; h], real and synthetic."""
        refiner = Concatenation([Identity(), as_refiner(trainer.inference.first, SLOPE)])
        widths, settings = (data.x.shape[1], self.hidden), self.config.classification
        return fit_softmax(data, trainer.generator, refiner, settings, seed, widths), refiner


class PlainCritic(nn.Module):
    """A critic of one argument, D_a or D_J: the WGAN-GP's, with a condition of no numbers.

    Args:
        inputs, hidden: sizes.
        std, precision, rng: as of :class:`mlis.generators.wgan_gp.networks.Critic`.
    """

    def __init__(
        self, inputs: int, hidden: int, std: float, precision: Precision, rng: torch.Generator
    ):
        super().__init__()
        self.network: Critic = Critic(inputs, 0, hidden, std=std, precision=precision, rng=rng)
        self._memory: Buffers = Buffers()

    def loss(self, real: Tensor, fake: Tensor, alpha: Tensor, penalty: float) -> Tensor:
        """`E[D(fake)] − E[D(real)] + λ E[(‖∇D‖ − 1)²]`, for the critic's own update.

        Args:
            real, fake: (B, inputs).
            alpha: (B, 1) places between fake (0) and real (1).
            penalty: λ.
        """
        pair = (self.network, real, fake, *self._nothing(real))
        return sum(critic_loss(*pair, alpha, penalty, self._memory), real.new_zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        """`−E[D(rows)]`, differentiable in the rows (B, inputs) alone."""
        return generator_loss(self.network, rows, *self._nothing(rows), self._memory)

    @staticmethod
    def _nothing(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B,) and the descriptors (1, 0) that they are rows of."""
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.device), rows.new_zeros(1, 0)


class CouplingTrainer(AdversarialTrainer):
    """A step of the WGAN-GP in which all three critics, then G and I, are updated."""

    def __init__(
        self, data: TrainingTensors, settings: TACOReconstruction, precision: Precision, seed: int
    ):
        super().__init__(data, settings.generation(data), precision, seed)
        self.weights: TACOReconstruction = settings
        features, attributes = data.x.shape[1], data.descriptors.shape[1]
        one, rng = self.settings, stream(seed, "taco")
        how = (one.init_std, precision, rng)
        self.inference: Perceptron = Perceptron(features, one.hidden, attributes, SLOPE, *how)
        self.semantic: PlainCritic = PlainCritic(attributes, one.hidden, *how)
        self.joint: PlainCritic = PlainCritic(features + attributes, one.hidden, *how)
        rates = (one.learning_rate, one.beta1, one.beta2)
        self.adam_inference: torch.optim.Adam = adam(self.inference.parameters(), *rates)
        critics = [*self.semantic.parameters(), *self.joint.parameters()]
        self.adam_coupling: torch.optim.Adam = adam([p for p in critics if p.numel()], *rates)
        self.real: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))  # of the latest update

    def critic_step(
        self, real: Tensor, fake: Tensor, labels: Tensor, alpha: Tensor
    ) -> Mapping[str, Tensor]:
        """Update D, and D_a and D_J on the same rows."""
        self.real = real, labels
        losses = super().critic_step(real, fake, labels, alpha)
        with torch.no_grad():
            inferred, own = self.inference(real), self.descriptors[labels]
            pairs = torch.cat((real, inferred), dim=1), torch.cat((fake, own), dim=1)
        penalty = self.settings.penalty
        semantic = self.semantic.loss(own, inferred, alpha, penalty)
        joint = self.joint.loss(*pairs, alpha, penalty)
        update(semantic + joint, self.adam_coupling)
        return {**losses, "semantic critic": semantic.detach(), "joint critic": joint.detach()}

    def generator_step(self, z: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Update G on new fakes and I on them and on the latest real rows."""
        fake = self.generate(z, labels)
        classes = own_classes(labels, self.descriptors)
        adversarial = generator_loss(self.critic, fake, *classes, self.buffers)
        coupling = self.coupling(fake, labels, *self.real)
        loss = sum(coupling.values(), adversarial)
        update(loss, self.adam_generator, self.adam_inference)
        losses = {"generator": adversarial, **coupling}
        return {name: value.detach() for name, value in losses.items()}

    def coupling(
        self, fake: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor
    ) -> dict[str, Tensor]:
        """What G and I minimise beside `−E[D(x̃, a)]`, weighted.

        Args:
            fake, real: (B, Dx).
            labels, real_labels: (B,) among the seen classes.
        """
        own, inferred = self.descriptors[labels], self.inference(real)
        paired = self.joint(torch.cat((fake, own), dim=1)) - self.joint(
            torch.cat((real, inferred), dim=1)
        )
        errors = _distance(self.inference(fake), own) + _distance(
            inferred, self.descriptors[real_labels]
        )
        return {
            "semantic": self.semantic(inferred),
            "joint": self.weights.joint_weight * paired,
            "inference": self.weights.inference_weight * errors,
        }

    def parts(self) -> Mapping[str, Part]:
        """Those of the WGAN-GP, I, and the further critics."""
        return {
            **super().parts(),
            "inference": self.inference,
            "semantic": self.semantic,
            "joint": self.joint,
            "adam_inference": self.adam_inference,
            "adam_coupling": self.adam_coupling,
        }

    def kept(self) -> Mapping[str, Part]:
        """Generator and I."""
        return {**super().kept(), "inference": self.inference}


def _distance(inferred: Tensor, descriptors: Tensor) -> Tensor:
    """`mean_b ‖inferred − descriptors‖₁` of (B, Da) each."""
    return l1_loss(inferred, descriptors, reduction="sum") / len(inferred)
