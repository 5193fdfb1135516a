"""Two VAEs with one latent space, of features and of descriptors: distances, latents, softmax."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlis.compute.random import stream
from mlis.config import Classification
from mlis.model.classification import fit_classifier
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import TrainingTensors

Gaussians = tuple[Tensor, Tensor]
"""μ and log σ², (B, Dz) each."""

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
        eps = torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float32)
        return mean + (self.power * log_variance).exp() * eps.to(mean.dtype)


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


def warm_up(epoch: int, start: int, end: int) -> float:
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
