"""CADA-VAE: two aligned VAEs, of features and of descriptors; softmax on their latents.

Schönfeld, Ebrahimi, Sinha, Darrell, Akata: "Generalized Zero- and Few-Shot Learning via Aligned
Variational Autoencoders", CVPR 2019. Encoders E_v, E_a map a feature x and the descriptor a of its
class to Gaussians of one latent space; decoders D_v, D_a map latents back. With z ~ E(·), summed
over dimensions:

    L = |D_v(z_v) − x| + |D_a(z_a) − a| + β KL(both)
      + γ (|D_v(z_a) − x| + |D_a(z_v) − a|)        cross-alignment
      + δ W₂(E_v(x), E_a(a))                       distribution alignment

β, γ, δ grow linearly by the epoch. The softmax learns from 200 latents a seen class, of features,
and 400 an unseen class, of its descriptor. An image is recognised by the mean μ of E_v(x).

Settings are those of the authors' program, the same for every dataset. There

- a latent is `μ + exp(log σ²) ε`, the variance in place of the standard deviation, with one ε for
  all dimensions (`noise="program"`), while KL and W₂ take exp(log σ²) for the variance. The usual
  `μ + exp(½ log σ²) ε` is `noise="standard"`.
- the loss is a sum over the batch; here it is a mean, the same for Adam up to its epsilon.
- batches are drawn without replacement; here with it.
- descriptors are as published; here they have unit length by default (`descriptor_norm`), as those
  of FLO, AWA2 and SUN do anyway. It matters for CUB's sentences, whose norms are 16.7 to 22.5: the
  errors |D_a(z) − a| are some 20 times smaller beside those of features.
- features are scaled to [0, 1]; here they are square-rooted before (`feature_transform`).
- the softmax is trained for 21 to 33 epochs, chosen by dataset; here to convergence, with a weight
  decay chosen on validation classes, as is half or all of the epochs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Section, setting
from mlis.data.out_of_core.streaming import rows_ahead
from mlis.generators.vae_gan.trainer import update
from mlis.methods._aligned_vae import (
    AlignedMethod,
    AlignedTrainer,
    Gaussians,
    LatentNoise,
    warm_up,
    wasserstein,
)
from mlis.methods._refined_softmax import as_refiner
from mlis.methods.base import ByBenchmark
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import Layers
from mlis.training.layers import GaussianEncoder, Linear, Perceptron, xavier
from mlis.training.loop import adam
from mlis.training.state import EpochCount, Part

NOISE: dict[str, LatentNoise] = {
    "program": LatentNoise(power=1.0, shared=True),
    "standard": LatentNoise(),
}
WARM_UP: dict[str, tuple[int, int]] = {"kl": (0, 93), "cross": (21, 75), "distance": (6, 22)}
"""Between which epochs a weight grows from 0."""


@dataclass(frozen=True)
class CADAVAE(Section, AlignedMethod["CADAVAETrainer"]):
    """CADA-VAE.

    Attributes:
        config: `preprocessing`, `classification` (less its numbers of samples) and `precision` are
            used.
    """

    stage: ClassVar[str] = "cada-vae"
    remedy: ClassVar[str] = "Lower batch_size or the hidden sizes of CADAVAE"
    published: ClassVar[ByBenchmark] = {
        name: {} for name in ("CUB", "AWA1", "AWA2", "SUN", "FLO", "aPY")
    }

    epochs: int = setting(100, "of the VAEs", low=1)
    batch_size: int = setting(50, "samples in a step", low=2)
    latent: int = setting(64, "length of z", low=1)
    visual_encoder: int = setting(1560, "hidden units of E_v", low=1)
    visual_decoder: int = setting(1660, "hidden units of D_v", low=1)
    semantic_encoder: int = setting(1450, "hidden units of E_a", low=1)
    semantic_decoder: int = setting(665, "hidden units of D_a", low=1)
    learning_rate: float = setting(1.5e-4, "Adam's step size", low=0)
    kl_weight: float = setting(0.25, "β at its end", low=0)
    cross_weight: float = setting(2.37, "γ at its end", low=0)
    distance_weight: float = setting(8.13, "δ at its end", low=0)
    warm_up: float = setting(1.0, "factor on the epochs in which the weights grow", low=0.001)
    noise: Literal["program", "standard"] = setting("program", "how latents are drawn")
    seen_latents: int = setting(200, "latents of a seen class for the softmax", low=1)
    unseen_latents: int = setting(400, "latents of an unseen class for the softmax", low=1)

    @property
    def name(self) -> str:
        """As in the paper."""
        return "CADA-VAE"

    @property
    def latent_noise(self) -> LatentNoise:
        """As `noise` says."""
        return NOISE[self.noise]

    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> "CADAVAETrainer":
        """Of both VAEs."""
        return CADAVAETrainer(data, self, precision, seed)


class CADAVAETrainer(AlignedTrainer):
    """One step = one update of both VAEs on a batch of real seen samples."""

    def __init__(self, data: TrainingTensors, settings: CADAVAE, precision: Precision, seed: int):
        self.data: TrainingTensors = data
        self.settings: CADAVAE = settings
        s, features, attributes = settings, data.x.shape[1], data.descriptors.shape[1]
        rng = stream(seed, "cada-vae-weights")
        how = (0.0, 0.0, precision, rng)  # ReLU; the weights are drawn below
        self.visual_encoder: GaussianEncoder = GaussianEncoder(
            (features, s.visual_encoder), s.latent, *how
        )
        self.semantic_encoder: GaussianEncoder = GaussianEncoder(
            (attributes, s.semantic_encoder), s.latent, *how
        )
        self.visual_decoder: Perceptron = Perceptron(s.latent, s.visual_decoder, features, *how)
        self.semantic_decoder: Perceptron = Perceptron(
            s.latent, s.semantic_decoder, attributes, *how
        )
        networks = self._networks().values()
        for network in networks:
            xavier(network, 0.5, rng)
        parameters = [p for network in networks for p in network.parameters()]
        self.adam: torch.optim.Adam = adam(parameters, s.learning_rate, 0.9, 0.999, amsgrad=True)
        self.rng: torch.Generator = stream(seed, "cada-vae", device=precision.device)
        self.clock: EpochCount = EpochCount(len(data.y), s.batch_size)
        self.rows: Tensor = rows_ahead(self.data.x, self.settings.batch_size, self.rng)

    def step(self) -> Mapping[str, Tensor]:
        """Draw a batch and update the four networks on the sum of the losses."""
        x, labels = self.data.x[self.rows], self.data.y[self.rows]
        self.rows = rows_ahead(self.data.x, self.settings.batch_size, self.rng)
        losses = self.losses(x, labels)
        total = losses["reconstruction"]
        for name, weight in self.weights().items():
            total = total + weight * losses[name]
        update(total, self.adam)
        self.clock.advance()
        return {name: loss.detach() for name, loss in losses.items()}

    def weights(self) -> dict[str, float]:
        """Of all terms but the reconstruction, in this epoch."""
        s, epoch = self.settings, self.clock.epoch
        weights = {"kl": s.kl_weight, "cross": s.cross_weight, "distance": s.distance_weight}
        spans = {
            name: (s.warm_up * start, s.warm_up * end) for name, (start, end) in WARM_UP.items()
        }
        return {name: w * warm_up(epoch, *spans[name]) for name, w in weights.items()}

    def losses(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The four terms, without weights, of features (B, Dx) and labels (B,) of all classes."""
        a, noise = self.data.descriptors[labels], self.settings.latent_noise
        visual, semantic = self.visual_encoder(x), self.semantic_encoder(a)
        z_v, z_a = noise.draw(visual, self.rng), noise.draw(semantic, self.rng)
        losses = self.aligned_losses((x, a), (visual, semantic), (z_v, z_a), (z_a, z_v))
        return {**losses, "distance": wasserstein(visual, semantic)}

    def latents_of_features(self, x: Tensor) -> Gaussians:
        """μ and log σ² of (B, Dx)."""
        return self.visual_encoder(x)

    def latents_of_descriptors(self, a: Tensor) -> Gaussians:
        """μ and log σ² of (B, Da)."""
        return self.semantic_encoder(a)

    def refiner(self) -> Layers:
        """From features to μ, a copy."""
        first = cast(Linear, self.visual_encoder.layers[0])
        return Layers([as_refiner(first, 0.0), as_refiner(self.visual_encoder.mean, 1.0)])

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "visual_encoder": self.visual_encoder,
            "semantic_encoder": self.semantic_encoder,
            "visual_decoder": self.visual_decoder,
            "semantic_decoder": self.semantic_decoder,
        }

    def parts(self) -> Mapping[str, Part]:
        """Networks, optimiser, count of steps and random stream."""
        return {**self._networks(), "adam": self.adam, "clock": self.clock, "rng": self.rng}

    def kept(self) -> Mapping[str, Part]:
        """The encoders."""
        kept = ("visual_encoder", "semantic_encoder")
        return {name: self._networks()[name] for name in kept}
