"""FREE: a VAE-GAN and a refinement module whose class centres keep a margin.

Chen, Wang, Xia, Peng, You, Zheng, Shao: "FREE: Feature Refinement for Generalized Zero-Shot
Learning", ICCV 2021. Beside E, G and D of f-VAEGAN, FR maps a feature to hidden units h and to a
Gaussian of descriptors: `h = LeakyReLU(W₁ x)`, `(μ, s) = W₂ h`, `â = sigmoid(μ + sigmoid(s) ε)`.
Learnt centres c_k, one per seen class, keep classes apart (self-adaptive margin centre loss):

    SAMC = mean_b max(0, Δ + γ ‖μ − c_y‖² − (1 − γ) ‖μ − c_y'‖²),   another class y'

    FR, c minimise  w_s SAMC + w_r WL1(â(x), a)
    E, G minimise   L_VAE − γ_G E[D(x̃)] + w_r WL1(â(x̃), a);  FR too, unless frozen

where WL1 weighs absolute errors (:func:`mlis.generators.vae_gan.losses.weighted_l1`). The softmax
sees [x ; h ; â] of real seen and of synthetic unseen features.

Settings are those of the authors' program (MIT). There

- y' is a random class (CUB, FLO, SUN), which may be y itself, or that of the nearest other centre
  (AWA1, AWA2, aPY); the paper has a random y' ≠ y. Here it is never y.
- λ of the gradient penalty is adaptive, and the critic's fakes are of encoded noise (FLO: prior).
- â is sampled for test images too. Here `â = sigmoid(μ)` in stage 2 and inference, so that an image
  has one answer; it is sampled in training.
- every epoch makes two equal passes, counted in `published`.

The parts of the softmax's input are brought to equal variance, as h outweighs the others; stage 2
runs to convergence; steps are chosen on validation classes, not on test rows. So is Δ, also among
those published: it is a margin between squared distances, which grow with the length of the
descriptors (there 85 to 1024). For features outside [0, 1] see :mod:`mlis.methods.f_vaegan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from mlis.compute.precision import Precision
from mlis.compute.random import normal, stream, uniform
from mlis.config import setting
from mlis.generators.vae_gan.f_vaegan import VAEGANGenerator
from mlis.generators.vae_gan.losses import weighted_l1
from mlis.generators.vae_gan.trainer import VAEGANSettings, VAEGANTrainer, update
from mlis.generators.wgan_gp.networks import SLOPE
from mlis.methods._refined_softmax import decoded, fit_softmax
from mlis.methods._snapshots import Parts, SnapshotMethod
from mlis.methods.base import ByBenchmark
from mlis.model.preprocessing import TrainingTensors
from mlis.training.layers import Perceptron
from mlis.training.state import Part

MARGINS = (50.0, 120.0, 200.0)  # published Δ, to choose from

_ANIMALS: dict[str, Any] = {
    **{"learning_rate": 1e-5, "decoder_on_fakes": "no", "margin": 50.0, "balance": 0.5},
    **{"other_class": "nearest"},
}


@dataclass(frozen=True)
class FREE(VAEGANSettings, SnapshotMethod["FREETrainer"]):
    """FREE; the defaults are those of CUB.

    Attributes:
        config: `preprocessing`, `classification` and `precision` are used.
    """

    stage: ClassVar[str] = "free"
    remedy: ClassVar[str] = "Lower batch_size, hidden or critic_hidden of FREE"
    published: ClassVar[ByBenchmark] = {
        "CUB": {"steps": 110200, "synthetic_per_unseen": 700},
        "SUN": {
            **{"batch_size": 512, "steps": 24000, "learning_rate": 2e-4, "margin": 120.0},
            **{"adversarial_weight": 1.0, "reconstruction_weight": 0.1},
            **{"synthetic_per_unseen": 300},
        },
        "FLO": {
            **{"batch_size": 256, "steps": 22000, "critic_steps": 5, "fakes": "prior"},
            **{"synthetic_per_unseen": 2400},
        },
        "AWA1": {**_ANIMALS, "steps": 186000, "balance": 0.1, "synthetic_per_unseen": 4600},
        "AWA2": {**_ANIMALS, "steps": 295000, "synthetic_per_unseen": 4600},
        "aPY": {**_ANIMALS, "steps": 74000, "synthetic_per_unseen": 400},
    }

    steps: int = setting(110200, "generator steps", low=1)
    batch_size: int = setting(64, "samples in a step", low=2)
    hidden: int = setting(4096, "hidden units of E, G and FR", low=1)
    critic_hidden: int = setting(4096, "hidden units of the critic", low=1)
    learning_rate: float = setting(1e-4, "Adam's step size for E, G, D and centres", low=0)
    refinement_rate: float = setting(1e-4, "Adam's step size for FR", low=0)
    adversarial_weight: float = setting(10.0, "γ_G of the generator's loss", low=0)
    critic_steps: int = setting(1, "critic steps per generator step", low=1)
    penalty_schedule: Literal["fixed", "adaptive"] = setting("adaptive", "of λ")
    encoder_layers: Literal["one", "two"] = setting("two", "hidden layers of the encoder")
    encoder_beta1: float = setting(0.9, "Adam's first decay rate, encoder", low=0, high=0.9999)
    fakes: Literal["encoded", "prior"] = setting("encoded", "noise of the critic's fakes")
    margin: float = setting(200.0, "Δ of SAMC", low=0)
    balance: float = setting(0.8, "γ of SAMC", low=0, high=1)
    other_class: Literal["random", "nearest"] = setting("random", "y' of SAMC")
    centre_weight: float = setting(0.5, "w_s of SAMC", low=0)
    reconstruction_weight: float = setting(0.001, "w_r of WL1", low=0)
    decoder_on_fakes: Literal["yes", "no"] = setting("yes", "whether fakes train FR too")

    @property
    def name(self) -> str:
        """As in the paper."""
        return "FREE"

    def variants(self) -> Sequence[Self]:
        """The margin Δ of the settings, and every published one."""
        return [replace(self, margin=margin) for margin in sorted({*MARGINS, self.margin})]

    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> "FREETrainer":
        """Of all networks."""
        return FREETrainer(data, self, precision, seed)

    def outcome(self, trainer: "FREETrainer", data: TrainingTensors, seed: int) -> Parts:
        """A softmax on [x ; h ; â], real and synthetic."""
        generator = VAEGANGenerator(trainer.network, trainer.range)
        attributes = data.descriptors.shape[1]
        refiner = decoded(trainer.refinement, "sigmoid", attributes)  # without s
        widths = (data.x.shape[1], self.hidden, attributes)
        settings = self.config.classification
        return fit_softmax(data, generator, refiner, settings, seed, widths), refiner


def centre_loss(
    points: Tensor, centres: Tensor, labels: Tensor, others: Tensor, margin: float, balance: float
) -> Tensor:
    """SAMC: `mean_b max(0, Δ + γ ‖μ − c_y‖² − (1 − γ) ‖μ − c_y'‖²)`.

    Args:
        points: μ, (B, Da).
        centres: c, (S, Da).
        labels, others: y and y', (B,) rows of `centres`.
        margin, balance: Δ and γ.
    """
    own = (points - centres[labels]).square().sum(1)
    other = (points - centres[others]).square().sum(1)
    return torch.relu(margin + balance * own - (1 - balance) * other).mean()


def random_others(labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """For each label (B,) another of the classes, all equally likely."""
    shift = uniform(rng, len(labels))
    return (labels + 1 + (shift * (classes - 1)).long()) % classes


def nearest_others(points: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """For each point (B, Da) the class of the nearest centre that is not its own, (B,)."""
    distances = torch.cdist(points, centres)
    return distances.scatter(1, labels[:, None], torch.inf).argmin(1)


class Centres(nn.Module):
    """c, (S, Da), from N(0, 1)."""

    def __init__(self, classes: int, size: int, precision: Precision, rng: torch.Generator):
        super().__init__()
        self.values: nn.Parameter = nn.Parameter(precision.tensor(normal(rng, classes, size)))


class FREETrainer(VAEGANTrainer):
    """One step = updates of FR, centres and critic on each batch, then of E and G (and FR)."""

    def __init__(self, data: TrainingTensors, settings: FREE, precision: Precision, seed: int):
        super().__init__(data, settings, precision, seed)
        self.settings: FREE = settings
        attributes, rng = data.descriptors.shape[1], stream(seed, "free")
        sizes = (data.x.shape[1], settings.hidden, 2 * attributes)
        std = settings.init_std
        self.refinement: Perceptron = Perceptron(*sizes, SLOPE, std, precision, rng)
        self.centres: Centres = Centres(len(data.seen), attributes, precision, rng)
        self.adam_refinement: torch.optim.Adam = self.adam(
            self.refinement, None, settings.refinement_rate
        )
        self.adam_centres: torch.optim.Adam = self.adam(self.centres)

    def step(self) -> Mapping[str, Tensor]:
        """Update FR, centres and critic on every batch; E and G on the last."""
        s = self.settings
        losses: Mapping[str, Tensor] = {}
        batches = self.batches()
        for x, labels in batches:
            centre, semantic = self.refinement_losses(x, labels)
            loss = s.centre_weight * centre + s.reconstruction_weight * semantic
            update(loss, self.adam_refinement, self.adam_centres)
            with torch.no_grad():
                encoded = s.fakes == "encoded"
                z = self.encode(x, labels)[0] if encoded else self.noise(labels)
                fake = self.activate(self.output(self.hidden(z, labels)))
            losses = {**self.critic_step(x, fake, labels), "centre": centre.detach()}
        x, labels = batches[-1]
        z, mean, log_variance = self.encode(x, labels)
        output = self.output(self.hidden(z, labels))
        fake = self.activate(output)
        variational = self.variational(output, x, mean, log_variance)
        adversarial = self.adversarial(fake, labels)
        _, described = self.describe(fake)
        semantic = weighted_l1(described, self.descriptors[labels])
        loss = variational + s.adversarial_weight * adversarial
        loss = loss + s.reconstruction_weight * semantic
        trains_both = s.decoder_on_fakes == "yes"
        update(loss, self.adam_encoder, self.adam_generator, *[self.adam_refinement] * trains_both)
        self.penalty.adapt()
        return {**losses, "vae": variational.detach(), "generator": adversarial.detach()}

    def describe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and a sampled â, (B, Da) each, of features (B, Dx)."""
        mean, spread = self.refinement(x).chunk(2, dim=1)
        return mean, torch.sigmoid(mean + torch.sigmoid(spread) * self.normal(*mean.shape))

    def refinement_losses(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """SAMC and WL1 of real features (B, Dx)."""
        mean, described = self.describe(x)
        centres, s = self.centres.values, self.settings
        if s.other_class == "random":
            others = random_others(labels, len(centres), self.rng)
        else:
            others = nearest_others(mean.detach(), centres.detach(), labels)
        centre = centre_loss(mean, centres, labels, others, s.margin, s.balance)
        return centre, weighted_l1(described, self.descriptors[labels])

    def parts(self) -> Mapping[str, Part]:
        """Those of a VAE-GAN, FR and the centres."""
        return {
            **super().parts(),
            "refinement": self.refinement,
            "centres": self.centres,
            "adam_refinement": self.adam_refinement,
            "adam_centres": self.adam_centres,
        }

    def kept(self) -> Mapping[str, Part]:
        """Generator and FR."""
        return {"generator": self.network, "refinement": self.refinement}
