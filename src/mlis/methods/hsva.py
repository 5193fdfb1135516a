"""HSVA: two VAEs aligned twice, in structure and in distribution; softmax on their latents.

Chen, Xie, Zheng, Zhao, Sun, Xie, Wang, Shao: "HSVA: Hierarchical Semantic-Visual Adaptation for
Zero-Shot Learning", NeurIPS 2021. E_v and E_a map a feature and a descriptor to one structure
space, h_v and h_a; E_z maps that to Gaussians of the latent space, from which D_v and D_a decode.
Two classifiers C₁, C₂ of the seen classes see the structure space. A batch takes, in this order,

    A  min over C, E_v, E_a:  Σ_k CE(C_k(h_v), y) + CE(C_k(h_a), y)
    B  min over C:            the same − w (SWD_v + SWD_a)      where the classifiers disagree,
    C  min over E_v, E_a:     w (SWD_v + SWD_a), twice          the structures are moved together
    D  min over E, D:         CADA-VAE's loss, with W₂ replaced by W₂ − CORAL(z_v, z_u)

where SWD_m = SWD(C₁(h_m), C₂(h_m)) is the sliced Wasserstein distance of the softmaxes, and CORAL
the squared difference of the covariances of latents of the batch and of unseen descriptors, which
is made large. Weights grow by the epoch as in :mod:`mlis.methods.cada_vae`, as is the rest.

Settings are those of the authors' program, whose loss this is (the paper has one objective with
weights of its own). Latents are `μ + exp(0.1 log σ²) ε` there and here, one ε for all dimensions.
With the usual `μ + exp(½ log σ²) ε` the alignment makes all latents one Gaussian (on simulated data
every image was then of one class, with CORAL and without it, but not without alignment). Different
here:

- The program draws unseen descriptors by the labels of **test rows**, whose class frequencies leak
  so. Here they are drawn uniformly from the unseen classes.
- Losses are means over the batch, not sums; batches are drawn with replacement.
- Descriptors have unit length, features are square-rooted before they are scaled: see CADA-VAE.
- CORAL has no bound and only grows; here it counts up to `coral_limit`.
- Stage 2 runs to convergence; half or all epochs and its weight decay are chosen on validation
  classes. The program tests every epoch from the 100th on and keeps the best.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mlis.compute.precision import Precision
from mlis.compute.random import normal, stream
from mlis.config import Section, setting
from mlis.data.out_of_core.streaming import rows_ahead
from mlis.data.samplers import uniform_rows
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

SLOPE = 0.2
NOISE = LatentNoise(power=0.1, shared=True)
WARM_UP: dict[str, tuple[int, int]] = {"kl": (0, 90), "cross": (21, 75), "distance": (0, 25)}


@dataclass(frozen=True)
class HSVA(Section, AlignedMethod["HSVATrainer"]):
    """HSVA.

    Attributes:
        config: `preprocessing`, `classification` (less its numbers of samples) and `precision` are
            used.
    """

    stage: ClassVar[str] = "hsva"
    remedy: ClassVar[str] = "Lower batch_size, hidden or structure of HSVA"
    published: ClassVar[ByBenchmark] = {
        **{name: {} for name in ("CUB", "AWA1", "AWA2", "FLO", "aPY")},
        "SUN": {"latent": 128},
    }

    epochs: int = setting(500, "of the VAEs", low=1)
    batch_size: int = setting(50, "samples in a step", low=2)
    latent: int = setting(64, "length of z (SUN: 128)", low=1)
    hidden: int = setting(4096, "hidden units of E_v, E_a, D_v and D_a", low=1)
    structure: int = setting(2048, "length of h_v and h_a, and hidden units of E_z", low=1)
    classifier_hidden: int = setting(512, "hidden units of C₁ and C₂", low=1)
    projections: int = setting(128, "directions of the sliced distance", low=1)
    learning_rate: float = setting(1.5e-4, "Adam's step size for the VAEs", low=0)
    classifier_rate: float = setting(1e-3, "Adam's step size for C₁ and C₂", low=0)
    kl_weight: float = setting(0.25, "β at its end", low=0)
    cross_weight: float = setting(2.37, "weight of the cross-reconstruction at its end", low=0)
    distance_weight: float = setting(8.0, "w of both alignments at its end", low=0)
    coral_limit: float = setting(10.0, "most that CORAL counts", low=0)
    seen_latents: int = setting(200, "latents of a seen class for the softmax", low=1)
    unseen_latents: int = setting(400, "latents of an unseen class for the softmax", low=1)

    @property
    def name(self) -> str:
        """As in the paper."""
        return "HSVA"

    @property
    def latent_noise(self) -> LatentNoise:
        """As in the program."""
        return NOISE

    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> "HSVATrainer":
        """Of all networks."""
        return HSVATrainer(data, self, precision, seed)


def sliced_wasserstein(one: Tensor, other: Tensor, directions: Tensor) -> Tensor:
    """Mean squared difference of two samples (B, S), sorted along unit directions (S, P)."""
    projected = [(sample @ directions).sort(dim=0).values for sample in (one, other)]
    return (projected[0] - projected[1]).square().mean()


def coral(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of the entries of the covariances of (B, Dz) and (B', Dz)."""
    return (torch.cov(one.T) - torch.cov(other.T)).square().mean()


class StructureClassifier(nn.Module):
    """C: `h → linear → batch norm → ReLU → linear`."""

    def __init__(
        self, inputs: int, hidden: int, classes: int, precision: Precision, rng: torch.Generator
    ):
        super().__init__()
        self.layers: Perceptron = Perceptron(inputs, hidden, classes, 0.0, 0.0, precision, rng)
        self.norm: nn.BatchNorm1d = nn.BatchNorm1d(
            hidden, device=precision.device, dtype=precision.master
        )

    def forward(self, h: Tensor) -> Tensor:
        """Logits (B, S) of (B, inputs)."""
        return self.layers.last(torch.relu(self.norm(self.layers.first(h))))


class HSVATrainer(AlignedTrainer):
    """One step = the updates A to D on a batch of real seen samples."""

    def __init__(self, data: TrainingTensors, settings: HSVA, precision: Precision, seed: int):
        self.data: TrainingTensors = data
        self.settings: HSVA = settings
        s, rng = settings, stream(seed, "hsva-weights")
        features, attributes = data.x.shape[1], data.descriptors.shape[1]
        how = (SLOPE, 0.0, precision, rng)  # the weights are drawn below
        self.visual: Perceptron = Perceptron(features, s.hidden, s.structure, *how)
        self.semantic: Perceptron = Perceptron(attributes, s.hidden, s.structure, *how)
        self.encoder: GaussianEncoder = GaussianEncoder((s.structure,) * 2, s.latent, *how)
        self.visual_decoder: Perceptron = Perceptron(s.latent, s.hidden, features, *how)
        self.semantic_decoder: Perceptron = Perceptron(s.latent, s.hidden, attributes, *how)
        sizes = (s.structure, s.classifier_hidden, len(data.seen))
        pair = (StructureClassifier(*sizes, precision, rng) for _ in range(2))
        self.classifiers: nn.ModuleList = nn.ModuleList(pair)
        for network in self._networks().values():
            xavier(network, 0.5, rng)
        rates = (s.learning_rate, 0.9, 0.999)
        structure = [*self.visual.parameters(), *self.semantic.parameters()]
        vaes = [self.encoder, self.visual_decoder, self.semantic_decoder]
        rest = [p for network in vaes for p in network.parameters()]
        self.adam_structure: torch.optim.Adam = adam(structure, *rates, amsgrad=True)
        self.adam_rest: torch.optim.Adam = adam(rest, *rates, amsgrad=True)
        self.adam_classifiers: torch.optim.Adam = adam(
            self.classifiers.parameters(), s.classifier_rate, 0.9, 0.999
        )
        self.rng: torch.Generator = stream(seed, "hsva", device=precision.device)
        self.own: Tensor = torch.searchsorted(data.seen, data.y)
        self.clock: EpochCount = EpochCount(len(data.y), s.batch_size)
        self.rows: Tensor = rows_ahead(self.data.x, self.settings.batch_size, self.rng)

    def step(self) -> Mapping[str, Tensor]:
        """Draw a batch, and take the updates A, B, C twice, D."""
        s, epoch = self.settings, self.clock.epoch
        weights = {"kl": s.kl_weight, "cross": s.cross_weight, "distance": s.distance_weight}
        weights = {name: w * warm_up(epoch, *WARM_UP[name]) for name, w in weights.items()}
        x, labels = self.data.x[self.rows], self.own[self.rows]
        a = self.data.descriptors[self.data.y[self.rows]]
        self.rows = rows_ahead(self.data.x, self.settings.batch_size, self.rng)
        classes, _ = self.structure_losses(x, a, labels)
        update(classes, self.adam_classifiers, self.adam_structure)
        classes, disagreement = self.structure_losses(x, a, labels)
        update(classes - weights["distance"] * disagreement, self.adam_classifiers)
        for _ in range(2):
            _, disagreement = self.structure_losses(x, a, labels)
            update(weights["distance"] * disagreement, self.adam_structure)
        losses = self.vae_losses(x, a)
        total = losses["reconstruction"]
        for name, weight in weights.items():
            total = total + weight * losses[name]
        update(total, self.adam_structure, self.adam_rest)
        self.clock.advance()
        losses = {**losses, "classes": classes, "disagreement": disagreement}
        return {name: loss.detach() for name, loss in losses.items()}

    def structure_losses(self, x: Tensor, a: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies of C₁ and C₂ on h_v and h_a, and SWD_v + SWD_a.

        Args:
            x, a: (B, Dx) features and the (B, Da) descriptors of their classes.
            labels: (B,) among the seen classes.
        """
        shape = (len(self.data.seen), self.settings.projections)
        directions = normalize(self._normal(*shape), dim=0)
        classes = disagreement = x.new_zeros(())
        for h in (self.visual(x), self.semantic(a)):
            one, other = (classifier(h) for classifier in self.classifiers)
            classes = classes + cross_entropy(one, labels) + cross_entropy(other, labels)
            pair = one.softmax(1), other.softmax(1)
            disagreement = disagreement + sliced_wasserstein(*pair, directions)
        return classes, disagreement

    def vae_losses(self, x: Tensor, a: Tensor) -> dict[str, Tensor]:
        """The terms of D, without weights, of (B, Dx) features and their (B, Da) descriptors."""
        noise = NOISE
        visual, semantic = self.latents_of_features(x), self.latents_of_descriptors(a)
        z_v, z_a = noise.draw(visual, self.rng), noise.draw(semantic, self.rng)
        distance = wasserstein(visual, semantic)
        if unseen := len(self.data.unseen):
            drawn = uniform_rows(unseen, len(x), self.rng)
            others = self.data.descriptors[self.data.unseen[drawn]]
            z_u = noise.draw(self.latents_of_descriptors(others), self.rng)
            distance = distance - coral(z_v, z_u).clamp(max=self.settings.coral_limit)
        losses = self.aligned_losses((x, a), (visual, semantic), (z_v, z_a), (z_a, z_v))
        return {**losses, "distance": distance}

    def latents_of_features(self, x: Tensor) -> Gaussians:
        """μ and log σ² of (B, Dx)."""
        return self.encoder(self.visual(x))

    def latents_of_descriptors(self, a: Tensor) -> Gaussians:
        """μ and log σ² of (B, Da)."""
        return self.encoder(self.semantic(a))

    def refiner(self) -> Layers:
        """From features to μ, a copy."""
        hidden, mean = self.encoder.layers[0], self.encoder.mean
        layers = (self.visual.first, self.visual.last, hidden, mean)
        slopes = (SLOPE, 1.0, SLOPE, 1.0)
        return Layers([as_refiner(cast(Linear, a), b) for a, b in zip(layers, slopes, strict=True)])

    def _normal(self, *shape: int) -> Tensor:
        return normal(self.rng, *shape).to(self.data.descriptors.dtype)

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "visual": self.visual,
            "semantic": self.semantic,
            "encoder": self.encoder,
            "visual_decoder": self.visual_decoder,
            "semantic_decoder": self.semantic_decoder,
            "classifiers": self.classifiers,
        }

    def parts(self) -> Mapping[str, Part]:
        """Networks, optimisers, count of steps and random stream."""
        return {
            **self._networks(),
            "adam_structure": self.adam_structure,
            "adam_rest": self.adam_rest,
            "adam_classifiers": self.adam_classifiers,
            "clock": self.clock,
            "rng": self.rng,
        }

    def kept(self) -> Mapping[str, Part]:
        """The encoders."""
        return {name: self._networks()[name] for name in ("visual", "semantic", "encoder")}
