"""Stage 1a: training the conditional WGAN-GP."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mlis.compute import Arithmetic, stream
from mlis.config import Generation
from mlis.data.sampling import uniform_rows
from mlis.generation.losses import critic_backward, generator_loss
from mlis.generation.networks import Critic, Generator
from mlis.generation.ridge import RidgePredictor, fit_predictor, fit_ridge
from mlis.generation.synthesis import FeatureGenerator, Sampler
from mlis.preprocessing import TrainingTensors
from mlis.training import Monitor, adam, pack, train, unpack

Feedback = Callable[[Tensor, Tensor], Tensor]
"""Maps synthetic features (B, Dx) and labels (B,) to a loss of the generator (joint schedule)."""


class WGANGenerator:
    """A trained conditional generator, with the ridge predictor of its warm start, if any."""

    def __init__(self, network: Generator, predictor: RidgePredictor | None):
        self.network = network
        self.predictor = predictor

    @torch.no_grad()
    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors."""
        share = self.network.share(descriptors)
        base = None if self.predictor is None else self.predictor(descriptors)

        @torch.no_grad()
        def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
            z = torch.randn((len(labels), self.network.noise), generator=rng, device=rng.device)
            return self.network(z.to(share.dtype), share, labels, base)

        return sample


class AdversarialTrainer:
    """One step = `critic_steps` critic updates and one generator update (eq. 2).

    Args:
        data: the training split on its device.
        settings: sizes, step sizes, penalty.
        arithmetic: device and precision.
        seed: of the initial weights and of every random number drawn.
    """

    def __init__(
        self, data: TrainingTensors, settings: Generation, arithmetic: Arithmetic, seed: int
    ):
        self.data, self.settings = data, settings
        sizes = {"hidden": settings.hidden, "std": settings.init_std, "arithmetic": arithmetic}
        features, descriptor = data.x.shape[1], data.descriptors.shape[1]
        self.network = Generator(
            settings.noise, descriptor, features=features, rng=stream(seed, "generator"), **sizes
        )
        self.critic = Critic(features, descriptor, rng=stream(seed, "critic"), **sizes)
        self.critic.requires_grad_(False)
        self.predictor, self.base = None, None
        if settings.generator_init == "ridge":
            self.predictor = fit_predictor(data, settings)
            self.base = self.predictor(data.descriptors)
        rates = (settings.learning_rate, settings.beta1, settings.beta2)
        self.adam_generator = adam(self.network.parameters(), *rates)
        self.adam_critic = adam(self.critic.parameters(), *rates)
        self.rng = stream(seed, "adversarial", device=arithmetic.device)
        self.feedback: Feedback | None = None

    @property
    def generator(self) -> WGANGenerator:
        """The generator as it is now."""
        return WGANGenerator(self.network, self.predictor)

    def step(self) -> Mapping[str, Tensor]:
        """Update the critic `critic_steps` times on fresh batches, then the generator once."""
        data, size, rounds = self.data, self.settings.batch_size, self.settings.critic_steps
        device, dtype = self.rng.device, data.x.dtype
        noise = torch.randn(
            ((rounds + 1) * size, self.settings.noise), generator=self.rng, device=device
        ).to(dtype)
        alphas = torch.rand((rounds, size, 1), generator=self.rng, device=device).to(dtype)
        rows = uniform_rows(len(data.y), (rounds + 1) * size, self.rng)
        labels = data.y[rows]

        # G stands still during the critic's updates: all their fakes come from one pass.
        with torch.no_grad():
            share = self.network.share(data.descriptors)
            critic_part = slice(0, rounds * size)
            fakes = self.network(noise[critic_part], share, labels[critic_part], self.base)
        losses: Mapping[str, Tensor] = {}
        for i in range(rounds):
            batch = slice(i * size, (i + 1) * size)
            losses = critic_backward(
                self.critic,
                data.x[rows[batch]],
                fakes[batch],
                labels[batch],
                data.descriptors,
                alphas[i],
                self.settings.penalty,
            )
            self.adam_critic.step()

        last = labels[rounds * size :]
        share = self.network.share(data.descriptors)
        fake = self.network(noise[rounds * size :], share, last, self.base)
        loss = generator_loss(self.critic, fake, self.critic.share(data.descriptors), last)
        total = loss if self.feedback is None else loss + self.feedback(fake, last)
        self.adam_generator.zero_grad(set_to_none=True)
        total.backward()
        self.adam_generator.step()
        return {**losses, "generator": loss.detach()}

    def _parts(self):
        return {
            "generator": self.network,
            "critic": self.critic,
            "adam_generator": self.adam_generator,
            "adam_critic": self.adam_critic,
            "rng": self.rng,
        }

    def state(self) -> dict[str, Tensor]:
        """Networks, optimisers and random stream."""
        return pack(**self._parts())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that `state` gave."""
        unpack(state, **self._parts())

    def outcome(self) -> dict[str, Tensor]:
        """The generator."""
        return pack(generator=self.network)

    def load_outcome(self, outcome: Mapping[str, Tensor]) -> None:
        """Take over what `outcome` gave."""
        unpack(outcome, generator=self.network)


def fit_generator(
    data: TrainingTensors,
    settings: Generation,
    arithmetic: Arithmetic,
    seed: int,
    monitor: Monitor,
) -> FeatureGenerator:
    """Fit the generator that the settings name, by itself (`schedule="sequential"`)."""
    if settings.generator == "ridge":
        return fit_ridge(data, settings)
    trainer = AdversarialTrainer(data, settings, arithmetic, seed)
    train("generation", trainer, settings.steps, monitor)
    return trainer.generator
