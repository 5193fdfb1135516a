"""Stage 1a: training the conditional WGAN-GP."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mlis.compute.precision import Arithmetic, Scratch, stream
from mlis.config import Generation
from mlis.data.out_of_core.streaming import prefetch
from mlis.data.samplers import uniform_rows
from mlis.generators.base import FeatureGenerator, Sampler
from mlis.generators.ridge import RidgePredictor, fit_predictor, fit_ridge
from mlis.generators.wgan_gp.losses import Feedback, critic_backward, generator_backward
from mlis.generators.wgan_gp.networks import Critic, Generator
from mlis.model.preprocessing import TrainingTensors
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore
from mlis.training.loop import adam, train
from mlis.training.state import PackedTrainer, Part


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
            size = (len(labels), self.network.noise)
            z = torch.randn(size, generator=rng, device=rng.device, dtype=torch.float32)
            return self.network(z.to(share.dtype), share, labels, base, factors)

        return sample


class AdversarialTrainer(PackedTrainer):
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
        self.data: TrainingTensors = data
        self.settings: Generation = settings
        # Every batch is of seen classes, so the others need no share of a first layer here.
        self.descriptors: Tensor = data.descriptors[data.seen]
        self.labels: Tensor = torch.searchsorted(data.seen, data.y)
        sizes = {"hidden": settings.hidden, "std": settings.init_std, "arithmetic": arithmetic}
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
        self.rng: torch.Generator = stream(seed, "adversarial", device=arithmetic.device)
        self.feedback: Feedback | None = None
        self.scratch: Scratch = Scratch()
        self.rows: Tensor = self._draw_rows()

    @property
    def generator(self) -> WGANGenerator:
        """The generator as it is now."""
        return WGANGenerator(self.network, self.predictor)

    def step(self) -> Mapping[str, Tensor]:
        """Update the critic `critic_steps` times on fresh batches, then the generator once."""
        size, rounds = self.settings.batch_size, self.settings.critic_steps
        noise, alphas = self._draw_noise()
        x, labels = self.data.x[self.rows[: rounds * size]], self.labels[self.rows]
        self.rows = self._draw_rows()

        # G stands still during the critic's updates: all their fakes come from one pass.
        of_critic = slice(0, rounds * size)
        own, descriptors, base = self.own_classes(labels[of_critic])
        with torch.no_grad():
            share = self.network.share(descriptors, self.scratch)
            factors = self.network.factors(self.scratch)
            fakes = self.network(noise[of_critic], share, own, base, factors)
        losses: Mapping[str, Tensor] = {}
        for i in range(rounds):
            batch = slice(i * size, (i + 1) * size)
            own, descriptors, _ = self.own_classes(labels[batch])
            losses = critic_backward(
                self.critic,
                x[batch],
                fakes[batch],
                own,
                descriptors,
                alphas[i],
                self.settings.penalty,
                self.scratch,
            )
            self.adam_critic.step()
        last = slice(rounds * size, None)
        own, descriptors, base = self.own_classes(labels[last])
        loss = generator_backward(
            self.network,
            self.critic,
            noise[last],
            own,
            descriptors,
            base,
            self.scratch,
            self._feedback_of(labels[last]),
        )
        self.adam_generator.step()
        return {**losses, "generator": loss}

    def own_classes(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The labels (B,) of a batch, the descriptors (K, Da) and the base (K, Dx) they count.

        Those of all seen classes while there are fewer of them than samples; else each sample's
        own, so that thousands of classes make no step slower.
        """
        if len(self.descriptors) <= len(labels):
            return labels, self.descriptors, self.base
        base = None if self.base is None else self.base[labels]
        places = torch.arange(len(labels), device=labels.device)
        return places, self.descriptors[labels], base

    def _feedback_of(self, labels: Tensor) -> Feedback | None:
        """The feedback on samples of these labels, whatever `own_classes` made of them."""
        feedback = self.feedback
        return None if feedback is None else lambda fake, _: feedback(fake, labels)

    def _draw_noise(self) -> tuple[Tensor, Tensor]:
        """Noise z of a step, ((critic_steps + 1) B, Dz), and α, (critic_steps, B, 1)."""
        shape = (len(self.rows), self.settings.noise)
        noise = self.scratch("noise", shape, self.descriptors, torch.float32)
        noise.normal_(generator=self.rng)
        size = (self.settings.critic_steps, self.settings.batch_size, 1)
        alphas = torch.rand(size, generator=self.rng, device=self.rng.device, dtype=torch.float32)
        return noise.to(self.data.x.dtype), alphas.to(self.data.x.dtype)

    def _draw_rows(self) -> Tensor:
        """Rows of the next step, drawn one step ahead: a reader may fetch them meanwhile."""
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


def fit_generator(
    data: TrainingTensors,
    settings: Generation,
    arithmetic: Arithmetic,
    seed: int,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
) -> FeatureGenerator:
    """Fit the generator that the settings name, by itself (`schedule="sequential"`)."""
    if settings.generator == "ridge":
        return fit_ridge(data, settings)
    trainer = AdversarialTrainer(data, settings, arithmetic, seed)
    train("generation", trainer, settings.steps, callbacks, checkpoints)
    return trainer.generator
