"""Stage 1a: training the conditional WGAN-GP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision
from mlis.compute.random import normal, stream, uniform
from mlis.config import Generation, Section, setting
from mlis.data.out_of_core.streaming import prefetch
from mlis.data.samplers import uniform_rows
from mlis.generators.base import Sampler
from mlis.generators.ridge import RidgePredictor, fit_predictor
from mlis.generators.wgan_gp.losses import critic_loss, generator_loss
from mlis.generators.wgan_gp.networks import Critic, Generator, own_classes
from mlis.model.preprocessing import TrainingTensors
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore
from mlis.training.loop import adam, train
from mlis.training.state import PackedTrainer, Part


@dataclass(frozen=True)
class WGANSettings(Section):
    """Settings of G and D where a system trains its own, from a cold start; LisGAN's on CUB."""

    steps: int = setting(6200, "generator steps", low=1)
    batch_size: int = setting(64, "samples in a step", low=2)
    hidden: int = setting(4096, "hidden units of generator and critic", low=1)
    noise: int = setting(0, "length of z; 0: as long as a descriptor", low=0)
    learning_rate: float = setting(1e-4, "Adam's step size", low=0)
    critic_steps: int = setting(5, "critic steps per generator step", low=1)

    def generation(self, data: TrainingTensors) -> Generation:
        """The same as settings of `AdversarialTrainer`."""
        return Generation(
            generator_init="cold",
            batch_size=self.batch_size,
            hidden=self.hidden,
            noise=self.noise or data.descriptors.shape[1],
            learning_rate=self.learning_rate,
            critic_steps=self.critic_steps,
        )


class WGANGenerator:
    """A trained conditional generator, with the ridge predictor of its warm start, if any."""

    def __init__(self, network: Generator, predictor: RidgePredictor | None):
        self.network = network
        self.predictor = predictor

    @torch.no_grad()
    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors."""
        network = self.network
        class_term, weights = network.class_term(descriptors), network.weights(Buffers())
        base = None if self.predictor is None else self.predictor(descriptors)

        @torch.no_grad()
        def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
            z = normal(rng, len(labels), network.noise)
            own = class_term.index_select(0, labels)
            return network(z.to(own.dtype), own, None if base is None else base[labels], weights)

        return sample


class AdversarialTrainer(PackedTrainer):
    """One step = `critic_steps` critic updates and one generator update (eq. 2).

    Args:
        data: the training split on its device.
        settings: sizes, step sizes, penalty.
        precision: device and dtypes.
        seed: of the initial weights and of every random number drawn.

    Attributes:
        feedback: one more loss of the generator (joint schedule): maps synthetic features (B, Dx)
            and labels (B,) to a 0-d tensor; or None.
    """

    def __init__(
        self, data: TrainingTensors, settings: Generation, precision: Precision, seed: int
    ):
        self.data: TrainingTensors = data
        self.settings: Generation = settings
        # Every batch is of seen classes, so no other class needs a class term here.
        self.descriptors: Tensor = data.descriptors[data.seen]
        self.labels: Tensor = torch.searchsorted(data.seen, data.y)
        sizes = {"hidden": settings.hidden, "std": settings.init_std, "precision": precision}
        features, descriptor = data.x.shape[1], data.descriptors.shape[1]
        self.network: Generator = Generator(
            settings.noise,
            descriptor,
            features=features,
            rng=stream(seed, "generator"),
            signed=data.signed,
            **sizes,
        )
        self.critic: Critic = Critic(features, descriptor, rng=stream(seed, "critic"), **sizes)
        self.predictor: RidgePredictor | None = None
        self.base: Tensor | None = None
        if settings.generator_init == "ridge":
            self.predictor = fit_predictor(data, settings)
            self.base = self.predictor(self.descriptors)
        rates = (settings.learning_rate, settings.beta1, settings.beta2)
        self.adam_generator: torch.optim.Adam = adam(self.network.parameters(), *rates)
        self.adam_critic: torch.optim.Adam = adam(self.critic.parameters(), *rates)
        self.rng: torch.Generator = stream(seed, "adversarial", device=precision.device)
        self.feedback: Callable[[Tensor, Tensor], Tensor] | None = None
        self.buffers: Buffers = Buffers()
        self.rows: Tensor = self._draw_rows()

    @property
    def generator(self) -> WGANGenerator:
        """The generator as it is now."""
        return WGANGenerator(self.network, self.predictor)

    def step(self) -> Mapping[str, Tensor]:
        """Update the critic `critic_steps` times on fresh batches, then the generator once."""
        size, rounds = self.settings.batch_size, self.settings.critic_steps
        z, alphas = self._draw_noise()
        real, labels = self.data.x[self.rows[: rounds * size]], self.labels[self.rows]
        self.rows = self._draw_rows()

        # G does not change during the critic's updates: all their fakes come from one pass.
        with torch.no_grad():
            fake = self.generate(z[: rounds * size], labels[: rounds * size])
        losses: Mapping[str, Tensor] = {}
        for i in range(rounds):
            batch = slice(i * size, (i + 1) * size)
            losses = self.critic_step(real[batch], fake[batch], labels[batch], alphas[i])
        return {**losses, **self.generator_step(z[rounds * size :], labels[rounds * size :])}

    def critic_step(
        self, real: Tensor, fake: Tensor, labels: Tensor, alpha: Tensor
    ) -> Mapping[str, Tensor]:
        """Update the critic on eq. (2)."""
        wasserstein, penalty = critic_loss(
            self.critic,
            real,
            fake,
            *own_classes(labels, self.descriptors),
            alpha,
            self.settings.penalty,
            self.buffers,
        )
        loss = wasserstein + penalty
        self.adam_critic.zero_grad()
        loss.backward()
        self.adam_critic.step()
        return {"wasserstein": wasserstein.detach(), "penalty": penalty.detach()}

    def generator_step(self, z: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Update the generator on eq. (2), and on the feedback if there is any."""
        fake = self.generate(z, labels)
        adversarial = generator_loss(
            self.critic, fake, *own_classes(labels, self.descriptors), self.buffers
        )
        loss = adversarial if self.feedback is None else adversarial + self.feedback(fake, labels)
        self.adam_generator.zero_grad()
        loss.backward(inputs=list(self.network.parameters()))  # not those of D and E
        self.adam_generator.step()
        return {"generator": adversarial.detach()}

    def generate(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return G(z, a), (B, Dx), of noise (B, Dz) and labels (B,) among the seen classes."""
        own, descriptors = own_classes(labels, self.descriptors)
        class_term = self.network.own_class_term(descriptors, own)
        base = None if self.base is None else self.base[labels]
        return self.network(z, class_term, base, self.network.weights(self.buffers))

    def _draw_noise(self) -> tuple[Tensor, Tensor]:
        """Return a step's noise z, ((critic_steps + 1) B, Dz), and α, (critic_steps, B, 1)."""
        shape = (len(self.rows), self.settings.noise)
        noise = self.buffers("noise", shape, torch.float32, self.rng.device)
        noise.normal_(generator=self.rng)
        alphas = uniform(self.rng, self.settings.critic_steps, self.settings.batch_size, 1)
        return noise.to(self.data.x.dtype), alphas.to(self.data.x.dtype)

    def _draw_rows(self) -> Tensor:
        """Draw the rows of the next step one step ahead, so that they can be prefetched."""
        rounds = self.settings.critic_steps
        rows = uniform_rows(len(self.labels), (rounds + 1) * self.settings.batch_size, self.rng)
        prefetch(self.data.x, rows[: rounds * self.settings.batch_size])
        return rows

    def parts(self) -> Mapping[str, Part]:
        """Networks, optimisers and random stream."""
        return {
            "generator": self.network,
            "critic": self.critic,
            "adam_generator": self.adam_generator,
            "adam_critic": self.adam_critic,
            "rng": self.rng,
        }

    def kept(self) -> Mapping[str, Part]:
        """The generator."""
        return {"generator": self.network}


def fit_wgan_gp(
    data: TrainingTensors,
    settings: Generation,
    precision: Precision,
    seed: int,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
) -> WGANGenerator:
    """Train the conditional WGAN-GP by itself (`schedule="sequential"`)."""
    trainer = AdversarialTrainer(data, settings, precision, seed)
    train("generation", trainer, settings.steps, callbacks, checkpoints)
    return trainer.generator
