"""Stage 1a: training the conditional WGAN-GP."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mlis.compute import Arithmetic, Scratch, stream
from mlis.config import Generation
from mlis.data.sampling import uniform_rows
from mlis.generation.losses import Feedback, critic_backward, generator_backward
from mlis.generation.networks import Critic, Generator
from mlis.generation.ridge import RidgePredictor, fit_predictor, fit_ridge
from mlis.generation.synthesis import FeatureGenerator, Sampler
from mlis.preprocessing import TrainingTensors
from mlis.streaming import prefetch
from mlis.training import Monitor, adam, pack, train, unpack, unpack_rows


class WGANGenerator:
    """A trained conditional generator, with the ridge predictor of its warm start, if any."""

    def __init__(self, network: Generator, predictor: RidgePredictor | None):
        self.network = network
        self.predictor = predictor

    @torch.no_grad()
    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors."""
        share = self.network.share(descriptors)
        factors = self.network.factors(Scratch())
        base = None if self.predictor is None else self.predictor(descriptors)

        @torch.no_grad()
        def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
            z = torch.randn((len(labels), self.network.noise), generator=rng, device=rng.device)
            return self.network(z.to(share.dtype), share, labels, base, factors)

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
        # Every batch is of seen classes, so the others need no share of a first layer here.
        self.descriptors = data.descriptors[data.seen]
        self.labels = torch.searchsorted(data.seen, data.y)
        sizes = {"hidden": settings.hidden, "std": settings.init_std, "arithmetic": arithmetic}
        features, descriptor = data.x.shape[1], data.descriptors.shape[1]
        self.network = Generator(
            settings.noise, descriptor, features=features, rng=stream(seed, "generator"), **sizes
        )
        self.critic = Critic(features, descriptor, rng=stream(seed, "critic"), **sizes)
        self.predictor, self.base = None, None
        if settings.generator_init == "ridge":
            self.predictor = fit_predictor(data, settings)
            self.base = self.predictor(self.descriptors)
        rates = (settings.learning_rate, settings.beta1, settings.beta2)
        self.adam_generator = adam(self.network.parameters(), *rates)
        self.adam_critic = adam(self.critic.parameters(), *rates)
        self.rng = stream(seed, "adversarial", device=arithmetic.device)
        self.feedback: Feedback | None = None
        self.scratch = Scratch()
        self.rows = self._draw_rows()

    @property
    def generator(self) -> WGANGenerator:
        """The generator as it is now."""
        return WGANGenerator(self.network, self.predictor)

    def step(self) -> Mapping[str, Tensor]:
        """Update the critic `critic_steps` times on fresh batches, then the generator once."""
        size, rounds = self.settings.batch_size, self.settings.critic_steps
        device, dtype = self.rng.device, self.data.x.dtype
        drawn = ((rounds + 1) * size, self.settings.noise)
        noise = self.scratch("noise", drawn, self.descriptors, torch.float32)
        noise = noise.normal_(generator=self.rng).to(dtype)
        alphas = torch.rand((rounds, size, 1), generator=self.rng, device=device).to(dtype)
        x, labels = self.data.x[self.rows[: rounds * size]], self.labels[self.rows]
        self.rows = self._draw_rows()

        # G stands still during the critic's updates: all their fakes come from one pass.
        with torch.no_grad():
            share = self.network.share(self.descriptors, self.scratch)
            factors = self.network.factors(self.scratch)
            of_critic = slice(0, rounds * size)
            fakes = self.network(noise[of_critic], share, labels[of_critic], self.base, factors)
        losses: Mapping[str, Tensor] = {}
        for i in range(rounds):
            batch = slice(i * size, (i + 1) * size)
            losses = critic_backward(
                self.critic,
                x[batch],
                fakes[batch],
                labels[batch],
                self.descriptors,
                alphas[i],
                self.settings.penalty,
                self.scratch,
            )
            self.adam_critic.step()
        last = slice(rounds * size, None)
        loss = generator_backward(
            self.network,
            self.critic,
            noise[last],
            labels[last],
            self.descriptors,
            self.base,
            self.scratch,
            self.feedback,
        )
        self.adam_generator.step()
        return {**losses, "generator": loss}

    def _draw_rows(self) -> Tensor:
        """Rows of the next step, drawn one step ahead: a reader may fetch them meanwhile."""
        rounds = self.settings.critic_steps
        rows = uniform_rows(len(self.labels), (rounds + 1) * self.settings.batch_size, self.rng)
        prefetch(self.data.x, rows[: rounds * self.settings.batch_size])
        return rows

    def _parts(self):
        return {
            "generator": self.network,
            "critic": self.critic,
            "adam_generator": self.adam_generator,
            "adam_critic": self.adam_critic,
            "rng": self.rng,
        }

    def state(self) -> dict[str, Tensor]:
        """Networks, optimisers, random stream, and the rows of the next step."""
        return {**pack(**self._parts()), "rows": self.rows}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that `state` gave."""
        unpack(state, **self._parts())
        self.rows = unpack_rows(state, self.rows)

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
