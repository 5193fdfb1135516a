"""Base of trainers of a VAE-GAN: networks, settings, the critic's step, the variational loss.

The encoder E of a conditional VAE encodes [x ; a]; its decoder is the generator G of a conditional
WGAN-GP. :mod:`mlis.generators.vae_gan.f_vaegan` is the plain one; its descendants are in
:mod:`mlis.methods`.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision
from mlis.compute.random import normal, stream, uniform
from mlis.config import Section, setting
from mlis.data.out_of_core.streaming import rows_ahead
from mlis.generators.vae_gan.losses import (
    Range,
    activate,
    feature_range,
    kl_divergence,
    reconstruction,
)
from mlis.generators.wgan_gp.losses import critic_loss, generator_loss
from mlis.generators.wgan_gp.networks import SLOPE, Critic, Generator, own_classes
from mlis.model.preprocessing import TrainingTensors
from mlis.training.layers import GaussianEncoder
from mlis.training.loop import adam
from mlis.training.state import PackedTrainer, Part


@dataclass(frozen=True)
class VAEGANSettings(Section):
    """Settings of E, G and D; the defaults are those of f-VAEGAN-D2 on CUB."""

    steps: int = setting(4200, "generator steps", low=1)
    batch_size: int = setting(512, "samples in a step", low=2)
    hidden: int = setting(1024, "hidden units of encoder and generator", low=1)
    critic_hidden: int = setting(2048, "hidden units of the critic", low=1)
    noise: int = setting(0, "length of z; 0: as long as a descriptor", low=0)
    learning_rate: float = setting(1e-3, "Adam's step size", low=0)
    adversarial_weight: float = setting(20.0, "γ of the generator's loss", low=0)
    critic_steps: int = setting(5, "critic steps per generator step", low=1)
    penalty: float = setting(10.0, "λ, weight of the gradient penalty", low=0)
    penalty_schedule: Literal["fixed", "adaptive"] = setting(
        "fixed", "adaptive: λ follows the penalty, as in the programs of TF-VAEGAN and FREE"
    )
    encoder_layers: Literal["one", "two"] = setting("one", "hidden layers of the encoder")
    encoder_beta1: float = setting(0.5, "Adam's first decay rate, encoder", low=0, high=0.9999)
    beta1: float = setting(0.5, "Adam's first decay rate, other networks", low=0, high=0.9999)
    beta2: float = setting(0.999, "Adam's second decay rate", low=0, high=0.99999)
    init_std: float = setting(0.02, "standard deviation of initial weights", low=0)


class PenaltyWeight(nn.Module):
    """λ of the gradient penalty, fixed or adaptive.

    Adaptive: with m the mean of E[(‖∇D‖ − 1)²] over the critic steps of a step, λ becomes 1.1 λ if
    m > 1.05 and λ/1.1 if m < 1.001. As m is far below 1 under λ = 10, λ falls by 10% a step until
    m ≈ 1, where ‖∇D‖ ≈ 2. In no paper; in the programs of TF-VAEGAN and FREE.
    """

    def __init__(self, weight: float, adaptive: bool, precision: Precision):
        super().__init__()
        self.adaptive = adaptive
        self.weight: Tensor
        self.register_buffer("weight", precision.tensor(weight))
        self._terms: list[Tensor] = []

    def note(self, term: Tensor) -> None:
        """Take note of `λ · E[(‖∇D‖ − 1)²]` of a critic step."""
        if self.adaptive:
            self._terms.append(term)

    def adapt(self) -> None:
        """Change λ after the critic steps of a step."""
        if not self._terms:
            return
        m = torch.stack(self._terms).mean() / self.weight
        self._terms.clear()
        factor = torch.where(m > 1.05, 1.1, torch.where(m < 1.001, 1 / 1.1, 1.0))
        self.weight.mul_(factor)


class VAEGANTrainer(PackedTrainer):
    """E, G and D with their optimisers, and what a step is made of; subclasses say how.

    Args:
        data: the training split on its device.
        settings: sizes, step sizes, weights.
        precision: device and dtypes.
        seed: of the initial weights and of every random number drawn.
        conditioned: whether E sees the descriptor beside the feature.
    """

    def __init__(
        self,
        data: TrainingTensors,
        settings: VAEGANSettings,
        precision: Precision,
        seed: int,
        *,
        conditioned: bool = True,
    ):
        self.data: TrainingTensors = data
        self.options: VAEGANSettings = settings
        self.descriptors: Tensor = data.descriptors[data.seen]
        self.labels: Tensor = torch.searchsorted(data.seen, data.y)
        self.range: Range = feature_range(data)
        features, descriptor = data.x.shape[1], data.descriptors.shape[1]
        noise, std = settings.noise or descriptor, settings.init_std
        middle = (2 * noise,) if settings.encoder_layers == "two" else ()
        self.conditioned = conditioned
        sizes = (features + descriptor * conditioned, settings.hidden, *middle)
        rng = stream(seed, "vae-gan", "encoder")
        self.encoder: GaussianEncoder = GaussianEncoder(sizes, noise, SLOPE, std, precision, rng)
        rng = stream(seed, "vae-gan", "generator")
        how = {"std": std, "precision": precision}
        self.network: Generator = Generator(
            noise, descriptor, settings.hidden, features, rng=rng, signed=True, **how
        )
        rng = stream(seed, "vae-gan", "critic")
        self.critic: Critic = Critic(features, descriptor, settings.critic_hidden, rng=rng, **how)
        self.penalty: PenaltyWeight = PenaltyWeight(
            settings.penalty, settings.penalty_schedule == "adaptive", precision
        )
        self.adam_encoder: torch.optim.Adam = self.adam(self.encoder, settings.encoder_beta1)
        self.adam_generator: torch.optim.Adam = self.adam(self.network)
        self.adam_critic: torch.optim.Adam = self.adam(self.critic)
        self.rng: torch.Generator = stream(seed, "vae-gan", device=precision.device)
        self.buffers: Buffers = Buffers()
        self.rows: Tensor = self._draw_rows()

    @abstractmethod
    def step(self) -> Mapping[str, Tensor]:
        """Update the critic `critic_steps` times, then encoder and generator once."""

    def adam(
        self, part: nn.Module, beta1: float | None = None, learning_rate: float | None = None
    ) -> torch.optim.Adam:
        """An optimiser with the settings' rates, or others."""
        one = self.options
        rate = one.learning_rate if learning_rate is None else learning_rate
        return adam(part.parameters(), rate, one.beta1 if beta1 is None else beta1, one.beta2)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Features (B, Dx) and labels (B,) among the seen classes, one batch a critic step."""
        x, labels = self.data.x[self.rows], self.labels[self.rows]
        self.rows = self._draw_rows()
        size = self.options.batch_size
        return list(zip(x.split(size), labels.split(size), strict=True))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return normal(self.rng, *shape).to(self.descriptors.dtype)

    def noise(self, labels: Tensor) -> Tensor:
        """z ~ N(0, I), (B, Dz)."""
        return self.normal(len(labels), self.network.noise)

    def encode(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z = μ + σ ε, and the μ and log σ² of E, (B, Dz) each."""
        pair = torch.cat((x, self.descriptors[labels]), dim=1) if self.conditioned else x
        mean, log_variance = self.encoder(pair)
        z = mean + (0.5 * log_variance).exp() * self.normal(*mean.shape)
        return z, mean, log_variance

    def hidden(self, z: Tensor, labels: Tensor) -> Tensor:
        """Hidden units (B, hidden) of G."""
        own, descriptors = own_classes(labels, self.descriptors)
        class_term = self.network.own_class_term(descriptors, own)
        return self.network.hidden(z, class_term, self.network.from_noise)

    def output(self, hidden: Tensor) -> Tensor:
        """What G's last layer makes of hidden units, (B, Dx), before `activate`."""
        return self.network.output(hidden, None, self.network.to_features)

    def activate(self, output: Tensor) -> Tensor:
        """Features x̃ of G's output."""
        return activate(output, self.range)

    def variational(self, output: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """L_VAE of G's output for the encoded batch."""
        return reconstruction(output, x, self.range) + kl_divergence(mean, log_variance)

    def adversarial(self, fake: Tensor, labels: Tensor) -> Tensor:
        """`−E[D(x̃, a)]`."""
        own, descriptors = own_classes(labels, self.descriptors)
        return generator_loss(self.critic, fake, own, descriptors, self.buffers)

    def critic_step(self, real: Tensor, fake: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Update the critic on eq. (2) of the WGAN-GP."""
        alpha = uniform(self.rng, len(real), 1)
        own, descriptors = own_classes(labels, self.descriptors)
        wasserstein, penalty = critic_loss(
            self.critic,
            *(real, fake.detach(), own, descriptors),
            *(alpha.to(real.dtype), self.penalty.weight, self.buffers),
        )
        update(wasserstein + penalty, self.adam_critic)
        self.penalty.note(penalty.detach())
        return {"wasserstein": wasserstein.detach(), "penalty": penalty.detach()}

    def parts(self) -> Mapping[str, Part]:
        """Networks, optimisers, λ and random stream."""
        return {
            "encoder": self.encoder,
            "generator": self.network,
            "critic": self.critic,
            "adam_encoder": self.adam_encoder,
            "adam_generator": self.adam_generator,
            "adam_critic": self.adam_critic,
            "lambda": self.penalty,
            "rng": self.rng,
        }

    def kept(self) -> Mapping[str, Part]:
        """The generator."""
        return {"generator": self.network}

    def _draw_rows(self) -> Tensor:
        size = self.options.critic_steps * self.options.batch_size
        return rows_ahead(self.data.x, size, self.rng)


def update(loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
    """One step of each optimiser along the gradient of the loss; no other tensor gets one."""
    groups = [group for one in optimisers for group in one.param_groups]
    for one in optimisers:
        one.zero_grad()
    loss.backward(inputs=[p for group in groups for p in group["params"]])
    for one in optimisers:
        one.step()
