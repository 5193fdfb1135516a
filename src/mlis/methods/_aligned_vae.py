"""Two VAEs with one latent space, of features and of descriptors: distances, latents, softmax."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import normal, stream
from mlis.config import Classification, Config
from mlis.generators.vae_gan.losses import kl_divergence
from mlis.methods.base import Job, Method
from mlis.model.classification import fit_classifier
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import Refiner
from mlis.training.layers import Perceptron
from mlis.training.loop import train
from mlis.training.state import EpochCount, PackedTrainer

Gaussians = tuple[Tensor, Tensor]
"""μ and log σ², (B, Dz) each."""

Pair = tuple[Tensor, Tensor]
"""Of features and of descriptors."""

DECAYS = (1e-5, 1e-4, 1e-3)  # to choose from, unless classification.weight_decay is a number

_ENCODED = 4096  # rows at a time


@dataclass(frozen=True)
class LatentNoise:
    """How latents are drawn: `z = μ + exp(power · log σ²) ε`.

    Attributes:
        power: ½ makes exp(power · log σ²) the standard deviation.
        shared: whether all dimensions of a row share one ε ~ N(0, 1).
    """

    power: float = 0.5
    shared: bool = False

    def draw(self, gaussians: Gaussians, rng: torch.Generator) -> Tensor:
        """One latent per row, (B, Dz)."""
        mean, log_variance = gaussians
        shape = (len(mean), 1) if self.shared else mean.shape
        eps = normal(rng, *shape)
        return mean + (self.power * log_variance).exp() * eps.to(mean.dtype)


def with_decays(config: Config) -> list[Config]:
    """Settings with each weight decay of the softmax that validation may choose."""
    given = config.classification.weight_decay
    decays = DECAYS if given == "auto" else (given,)
    return [config.replace({"classification": {"weight_decay": decay}}) for decay in decays]


def absolute_error(predicted: Tensor, target: Tensor) -> Tensor:
    """`Σ_j |predicted_j − target_j|`, mean over the batch."""
    return (predicted - target).abs().sum() / len(target)


def wasserstein(one: Gaussians, other: Gaussians) -> Tensor:
    """2-Wasserstein distance of diagonal Gaussians, mean over the batch.

    `sqrt(‖μ₁ − μ₂‖² + ‖σ₁ − σ₂‖²)`; 1e-8 under the root gives equal ones a gradient.
    """
    means = (one[0] - other[0]).square().sum(1)
    deviations = ((0.5 * one[1]).exp() - (0.5 * other[1]).exp()).square().sum(1)
    return (means + deviations + 1e-8).sqrt().mean()


def warm_up(epoch: int, start: float, end: float) -> float:
    """0 until epoch `start`, then linear to 1 at epoch `end`."""
    return min(max((epoch - start) / (end - start), 0.0), 1.0)


def first_rows(y: Tensor, classes: Tensor, count: int) -> Tensor:
    """The first `count` rows of each of the classes (K,), repeated if there are fewer."""
    order = torch.argsort(y, stable=True)
    counts = torch.bincount(y, minlength=int(classes.max()) + 1)
    starts = counts.cumsum(0) - counts
    within = torch.arange(count, device=y.device) % counts[classes].clamp(min=1)[:, None]
    return order[(starts[classes][:, None] + within).flatten()]


@torch.no_grad()
def fit_on_latents(
    data: TrainingTensors,
    encoders: tuple[Callable[[Tensor], Gaussians], Callable[[Tensor], Gaussians]],
    noise: LatentNoise,
    counts: tuple[int, int],
    settings: Classification,
    seed: int,
) -> LinearHead:
    """Softmax on latents, of seen classes from features, of unseen ones from descriptors.

    Args:
        data: the training split.
        encoders: of features and of descriptors.
        noise: how latents are drawn.
        counts: latents of a seen and of an unseen class.
        settings: of stage 2.
        seed: of the latents.
    """
    rng = stream(seed, "latents", device=data.y.device)
    rows = first_rows(data.y, data.seen, counts[0])
    drawn = [noise.draw(encoders[0](data.x[part]), rng) for part in rows.split(_ENCODED)]
    unseen = data.unseen.repeat_interleave(counts[1])
    for part in unseen.split(_ENCODED):
        drawn.append(noise.draw(encoders[1](data.descriptors[part]), rng))
    labels = torch.cat((data.y[rows], unseen))
    return fit_classifier(torch.cat(drawn), labels, data.num_classes, settings)


class AlignedTrainer(PackedTrainer):
    """Trains two VAEs with one latent space.

    Attributes:
        clock: counts the steps.
        visual_decoder, semantic_decoder: D_v and D_a.
    """

    clock: EpochCount
    visual_decoder: Perceptron
    semantic_decoder: Perceptron

    def aligned_losses(
        self, rows: Pair, gaussians: tuple[Gaussians, Gaussians], latents: Pair, crossed: Pair
    ) -> dict[str, Tensor]:
        """Both reconstructions, KL divergences and cross-reconstructions, without weights.

        Args:
            rows: (B, Dx) features and the (B, Da) descriptors of their classes.
            gaussians: of both.
            latents, crossed: (B, Dz) that both are decoded from, their own and the other's.
        """

        def errors(x: Tensor, a: Tensor) -> Tensor:
            made = self.visual_decoder(x), self.semantic_decoder(a)
            return absolute_error(made[0], rows[0]) + absolute_error(made[1], rows[1])

        return {
            "reconstruction": errors(*latents),
            "kl": kl_divergence(*gaussians[0]) + kl_divergence(*gaussians[1]),
            "cross": errors(*crossed),
        }

    @abstractmethod
    def latents_of_features(self, x: Tensor) -> Gaussians:
        """μ and log σ² of (B, Dx)."""

    @abstractmethod
    def latents_of_descriptors(self, a: Tensor) -> Gaussians:
        """μ and log σ² of (B, Da)."""

    @abstractmethod
    def refiner(self) -> Refiner:
        """From features to μ, a copy."""


T = TypeVar("T", bound=AlignedTrainer)


class AlignedMethod(Method, Generic[T]):
    """A method whose softmax learns from latents; validation chooses epochs and weight decay.

    Attributes:
        stage: name of the training, for progress and losses.
        epochs: of the VAEs.
        seen_latents, unseen_latents: of a class, for the softmax.
    """

    stage: ClassVar[str]
    epochs: int
    seen_latents: int
    unseen_latents: int

    @property
    @abstractmethod
    def latent_noise(self) -> LatentNoise:
        """How latents are drawn."""

    @abstractmethod
    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> T:
        """Makes the networks and takes the steps."""

    def alternatives(self) -> Sequence[Self]:
        """Half or all epochs, with each weight decay of the softmax."""
        configs = with_decays(self.config)
        epochs = sorted({max(1, self.epochs // 2), self.epochs})
        return [replace(self, epochs=n, config=config) for n in epochs for config in configs]

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train the VAEs once, and a softmax for each alternative.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        scaler, data = job.prepare(self.config)
        trainer = self.trainer(data, Precision.of(self.config.precision, job.device), job.seed)
        steps = {one.epochs: one.epochs * trainer.clock.per_epoch for one in self.among(job)}
        kept = job.series(self, steps.values(), trainer.kept())
        train(self.stage, trainer, max(steps.values()), job.callbacks, kept)
        encoders = (trainer.latents_of_features, trainer.latents_of_descriptors)
        counts = (self.seen_latents, self.unseen_latents)
        for one in self.among(job):
            trainer.load_outcome(kept.states[steps[one.epochs]])
            settings = one.config.classification
            head = fit_on_latents(data, encoders, self.latent_noise, counts, settings, job.seed)
            yield one, job.recognizer(scaler, head, trainer.refiner())
