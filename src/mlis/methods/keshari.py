"""After Keshari et al.: a VAE whose synthetic features include hard ones, and a triplet embedding.

A **reconstruction**, not the system of Keshari, Singh, Vatsa: "Generalized Zero-Shot Learning via
Over-Complete Distribution", CVPR 2020, whose text and program were not available.

*From its abstract:* a conditional VAE generates an over-complete distribution (OCD) of seen and
unseen classes, with hard samples that lie near other classes; an online batch triplet loss and a
centre loss on the OCD make the overlapping distributions of the classes apart.

*From memory, not verified:* the VAE is that of Verma et al. (SE-GZSL, CVPR 2018), with a regressor
R of descriptors. With x a feature, a its class's descriptor (here of unit mean square), z ~ E(x),
x̂ = G(z₀, a) of z₀ ~ N(0, I), and `r(·) = ½ ‖R(·) − a‖²`,

    R     minimises  r(x) + λ_r r(x̂)
    E, G  minimise   −log p(x | z, a) + β KL(E(x) ‖ N(0, I)) + λ_c r(x̂) + λ_e ½ ‖μ_E(x̂) − z₀‖²

*Ours is the rest*: β, the OCD and its use, sizes and weights. A step draws P classes, seen or not,
and K samples x̂ of each, with mean μ_j and deviation σ_j. With h_j the sample of another class that
is nearest to μ_j,

    x̃ = μ_j + t (h_j − μ_j) + σ_j ε,   ε ~ N(0, I)

are K hard samples of class j. All 2 P K train the embedding f(x) = ReLU(W x + b):

    mean_i max(0, m + max_p ‖f_i − f_p‖ − min_n ‖f_i − f_n‖) + λ mean_i ½ ‖f_i − c_y‖²

with p of i's class, n of others, and centres that follow their class as of Wen et al. (ECCV 2016):
`c_j ← c_j − ½ Σ_i (c_j − f_i) / (1 + 2 K)`. Where no embedding can separate the classes, f shrinks
to a point and stays there: with t = ½, as the hard samples of two classes that are nearest to each
other are the same; and at first, as the untrained G makes samples of all classes alike. So f begins
to learn after `warm_up` steps. All other networks have one hidden layer. The classifier is a
softmax on f of all real rows and of unseen classes' samples, every other one hard.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mlis.compute.precision import Precision
from mlis.compute.random import normal, stream
from mlis.config import Section, setting
from mlis.data.out_of_core.streaming import rows_ahead
from mlis.generators.base import Sampler
from mlis.generators.vae_gan.losses import (
    Range,
    activate,
    feature_range,
    kl_divergence,
    reconstruction,
)
from mlis.generators.vae_gan.trainer import update
from mlis.methods._refined_softmax import as_refiner, fit_softmax
from mlis.methods._snapshots import Parts, SnapshotMethod
from mlis.model.preprocessing import TrainingTensors
from mlis.training.layers import GaussianEncoder, Linear, Perceptron, xavier
from mlis.training.loop import adam
from mlis.training.state import EpochCount, PackedTrainer, Part


@dataclass(frozen=True)
class KeshariReconstruction(Section, SnapshotMethod["OverCompleteTrainer"]):
    """After Keshari et al.; sizes and weights are ours.

    Attributes:
        config: `preprocessing`, `classification` and `precision` are used.
    """

    stage: ClassVar[str] = "keshari-reconstruction"
    remedy: ClassVar[str] = "Lower batch_size, hidden or class_samples of KeshariReconstruction"
    reconstruction: ClassVar[bool] = True

    steps: int = setting(2000, "of all networks", low=1)
    batch_size: int = setting(64, "real samples in a step", low=2)
    hidden: int = setting(512, "hidden units of E, G and R", low=1)
    latent: int = setting(100, "length of z", low=1)
    learning_rate: float = setting(1e-3, "Adam's step size", low=0)
    kl_weight: float = setting(0.1, "β of the KL divergence", low=0)
    regressor_weight: float = setting(0.1, "λ_r of synthetic features in R's loss", low=0)
    descriptor_weight: float = setting(0.1, "λ_c of the descriptor that R finds", low=0)
    code_weight: float = setting(0.1, "λ_e of the code that E finds", low=0)
    classes: int = setting(16, "P, classes in a step of the embedding", low=2)
    class_samples: int = setting(4, "K, samples of each, and as many hard ones", low=2)
    toward: float = setting(0.25, "t, how far hard samples lie toward another class", low=0, high=1)
    embedding: int = setting(512, "length of f", low=1)
    margin: float = setting(1.0, "m of the triplet loss", low=0)
    centre_weight: float = setting(0.1, "λ of the centre loss", low=0)
    warm_up: int = setting(400, "steps of E, G and R before f begins to learn", low=0)

    @property
    def name(self) -> str:
        """What it follows; not the system's own name."""
        return "after Keshari et al. (reconstruction)"

    def trainer(
        self, data: TrainingTensors, precision: Precision, seed: int
    ) -> "OverCompleteTrainer":
        """Of all networks."""
        return OverCompleteTrainer(data, self, precision, seed)

    def outcome(self, trainer: "OverCompleteTrainer", data: TrainingTensors, seed: int) -> Parts:
        """A softmax on f, of real and of synthetic features."""
        refiner = as_refiner(trainer.embedding, 0.0)
        return fit_softmax(data, trainer, refiner, self.config.classification, seed), refiner


def over_complete(samples: Tensor, toward: float) -> tuple[Tensor, Tensor]:
    """Where hard samples of each class lie: `μ + t (h − μ)` and σ, (P, Dx) each.

    Args:
        samples: (P, K, Dx) of P different classes; h is the sample of another class nearest to μ.
        toward: t.
    """
    classes, count, _ = samples.shape
    mean, flat = samples.mean(1), samples.flatten(0, 1)
    own = torch.arange(classes, device=samples.device)
    distances = torch.cdist(mean, flat).unflatten(1, (classes, count))
    distances[own, own] = torch.inf
    nearest = flat[distances.flatten(1).argmin(1)]
    return torch.lerp(mean, nearest, toward), samples.std(1)


def batch_triplet(points: Tensor, labels: Tensor, margin: float) -> Tensor:
    """`mean_i max(0, m + max_p d(i, p) − min_n d(i, n))` over all rows as anchors.

    Args:
        points: (B, D), compared by Euclidean distance d.
        labels: (B,); p are the rows of i's class, n all others.
        margin: m.
    """
    distances, same = torch.cdist(points, points), labels[:, None] == labels
    positive = distances.masked_fill(~same, -torch.inf).amax(1)
    negative = distances.masked_fill(same, torch.inf).amin(1)
    return torch.relu(margin + positive - negative).mean()


class Centres(nn.Module):
    """c, (C, D), that follow the rows of their class; at first 0."""

    def __init__(self, classes: int, size: int, precision: Precision):
        super().__init__()
        self.values: Tensor
        self.register_buffer("values", precision.tensor(torch.zeros(classes, size)))

    def loss(self, points: Tensor, classes: Tensor) -> Tensor:
        """`mean_i ½ ‖f_i − c_y‖²` of (P, N, D), N rows of each of P classes."""
        apart = points - self.values[classes][:, None]
        return 0.5 * apart.square().sum(2).mean()

    @torch.no_grad()
    def follow(self, points: Tensor, classes: Tensor) -> None:
        """Move c of P different classes half way to its N rows, as if one more lay at c."""
        apart = self.values[classes][:, None] - points
        self.values[classes] -= 0.5 * apart.sum(1) / (1 + points.shape[1])


class OverCompleteTrainer(PackedTrainer):
    """A step updates R, then E and G on real rows, then f on synthetic ones. Draws samples, too."""

    def __init__(
        self,
        data: TrainingTensors,
        settings: KeshariReconstruction,
        precision: Precision,
        seed: int,
    ):
        self.data: TrainingTensors = data
        self.settings: KeshariReconstruction = settings
        self.range: Range = feature_range(data)
        self.scale: Tensor = data.descriptors.square().mean().rsqrt()
        self.descriptors: Tensor = data.descriptors * self.scale
        self._seed: int = seed
        s, features, attributes = settings, data.x.shape[1], data.descriptors.shape[1]
        rng = stream(seed, "keshari-weights")
        how = (0.0, 0.0, precision, rng)  # ReLU; the weights are drawn below
        self.encoder: GaussianEncoder = GaussianEncoder((features, s.hidden), s.latent, *how)
        self.generator: Perceptron = Perceptron(s.latent + attributes, s.hidden, features, *how)
        self.regressor: Perceptron = Perceptron(features, s.hidden, attributes, *how)
        self.embedding: Linear = Linear(features, s.embedding, 0.0, precision, rng)
        for network in (self.encoder, self.generator, self.regressor, self.embedding):
            xavier(network, 1.0, rng)
        self.centres: Centres = Centres(data.num_classes, s.embedding, precision)
        vae = [*self.encoder.parameters(), *self.generator.parameters()]
        rates = (s.learning_rate, 0.9, 0.999)
        self.adam_vae: torch.optim.Adam = adam(vae, *rates)
        self.adam_regressor: torch.optim.Adam = adam(self.regressor.parameters(), *rates)
        self.adam_embedding: torch.optim.Adam = adam(self.embedding.parameters(), *rates)
        self.clock: EpochCount = EpochCount(1, 1)  # of steps
        self.rng: torch.Generator = stream(seed, "keshari", device=precision.device)
        self.rows: Tensor = rows_ahead(data.x, s.batch_size, self.rng)

    def step(self) -> Mapping[str, Tensor]:
        """Update R, then E and G, then, after the warm-up, f and the centres."""
        x, a = self.data.x[self.rows], self.descriptors[self.data.y[self.rows]]
        self.rows = rows_ahead(self.data.x, self.settings.batch_size, self.rng)
        regression = self.regression(x, a)
        update(regression, self.adam_regressor)
        losses, s = self.vae_losses(x, a), self.settings
        weights = {"kl": s.kl_weight, "descriptor": s.descriptor_weight, "code": s.code_weight}
        total = losses["error"]
        for name, weight in weights.items():
            total = total + weight * losses[name]
        update(total, self.adam_vae)
        if self.clock.epoch >= s.warm_up:
            losses |= self._embed()
        self.clock.advance()
        return {n: loss.detach() for n, loss in {**losses, "regression": regression}.items()}

    def _embed(self) -> dict[str, Tensor]:
        """Update f and the centres."""
        s, (samples, classes) = self.settings, self.batch()
        points = torch.relu(self.embedding(samples.flatten(0, 1)))
        labels = classes.repeat_interleave(samples.shape[1])
        triplet = batch_triplet(points, labels, s.margin)
        grouped = points.unflatten(0, (len(classes), -1))
        centre = self.centres.loss(grouped, classes)
        update(triplet + s.centre_weight * centre, self.adam_embedding)
        self.centres.follow(grouped.detach(), classes)
        return {"triplet": triplet, "centre": centre}

    def regression(self, x: Tensor, a: Tensor) -> Tensor:
        """R's loss on real features (B, Dx) and on synthetic ones of the same descriptors."""
        with torch.no_grad():
            made = self._generated(self._normal(len(x), self.settings.latent), a)
        real, synthetic = self._described(x, a), self._described(made, a)
        return real + self.settings.regressor_weight * synthetic

    def vae_losses(self, x: Tensor, a: Tensor) -> dict[str, Tensor]:
        """The terms of E and G, without weights, of (B, Dx) features and their descriptors."""
        mean, log_variance = self.encoder(x)
        z = mean + (0.5 * log_variance).exp() * self._normal(*mean.shape)
        output = self.generator(torch.cat((z, a), dim=1))
        prior = self._normal(*mean.shape)
        made = self._generated(prior, a)
        code = 0.5 * (self.encoder(made)[0] - prior).square().sum() / len(x)
        return {
            "error": reconstruction(output, x, self.range),
            "kl": kl_divergence(mean, log_variance),
            "descriptor": self._described(made, a),
            "code": code,
        }

    @torch.no_grad()
    def batch(self) -> tuple[Tensor, Tensor]:
        """P classes (P,), and K samples and K hard samples of each, (P, 2 K, Dx)."""
        s, device = self.settings, self.rng.device
        order = torch.randperm(self.data.num_classes, generator=self.rng, device=device)
        classes = order[: s.classes]
        samples = self._samples(self.descriptors[classes], self.rng)
        centres, spread = over_complete(samples, s.toward)
        hard = centres[:, None] + spread[:, None] * self._normal(*samples.shape)
        return torch.cat((samples, self._valid(hard)), dim=1), classes

    @torch.no_grad()
    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors.

        Every other row is hard, by K samples of every class.
        """
        a = descriptors * self.scale
        rng = stream(self._seed, "keshari-pool", device=descriptors.device)
        centres, spread = over_complete(self._samples(a, rng), self.settings.toward)

        @torch.no_grad()
        def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
            z = normal(rng, len(labels), self.settings.latent).to(descriptors)
            made, odd = self._generated(z, a[labels]), labels[1::2]
            noise = normal(rng, len(odd), made.shape[1]).to(made)
            made[1::2] = self._valid(centres[odd] + spread[odd] * noise)
            return made

        return sample

    def _samples(self, a: Tensor, rng: torch.Generator) -> Tensor:
        """(P, K, Dx) of classes with these scaled descriptors (P, Da)."""
        own = a.repeat_interleave(self.settings.class_samples, dim=0)
        z = normal(rng, len(own), self.settings.latent).to(a)
        return self._generated(z, own).unflatten(0, (len(a), -1))

    def _generated(self, z: Tensor, a: Tensor) -> Tensor:
        return activate(self.generator(torch.cat((z, a), dim=1)), self.range)

    def _described(self, x: Tensor, a: Tensor) -> Tensor:
        """r(x), mean over the batch."""
        return 0.5 * (self.regressor(x) - a).square().sum() / len(x)

    def _valid(self, x: Tensor) -> Tensor:
        return x if self.data.signed else x.clamp(min=0)

    def _normal(self, *shape: int) -> Tensor:
        return normal(self.rng, *shape).to(self.data.descriptors.dtype)

    def parts(self) -> Mapping[str, Part]:
        """Networks, centres, optimisers and random stream."""
        return {
            **self.kept(),
            "encoder": self.encoder,
            "regressor": self.regressor,
            "centres": self.centres,
            "adam_vae": self.adam_vae,
            "adam_regressor": self.adam_regressor,
            "adam_embedding": self.adam_embedding,
            "clock": self.clock,
            "rng": self.rng,
        }

    def kept(self) -> Mapping[str, Part]:
        """Generator and embedding."""
        return {"generator": self.generator, "embedding": self.embedding}
