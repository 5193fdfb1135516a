"""f-VAEGAN-D2: a VAE whose decoder is the generator of a conditional WGAN-GP.

Xian, Sharma, Schiele, Akata: "f-VAEGAN-D2: A Feature Generating Framework for Any-Shot Learning",
CVPR 2019, in its inductive form (D2 needs unlabelled test features):

    L = L_VAE + γ · L_WGAN,    L_VAE = −log p(x | z, a) + KL(q(z | x, a) ‖ N(0, I))

See :mod:`mlis.methods.f_vaegan` for what is known of sizes and weights.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision
from mlis.compute.random import normal
from mlis.config import Generation
from mlis.generators.base import Sampler
from mlis.generators.vae_gan.losses import Range, activate
from mlis.generators.vae_gan.trainer import VAEGANSettings, VAEGANTrainer, update
from mlis.generators.wgan_gp.networks import Generator
from mlis.model.preprocessing import TrainingTensors
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore
from mlis.training.loop import train


class FVAEGANTrainer(VAEGANTrainer):
    """f-VAEGAN-D2: the critic's fakes are of prior noise; G also answers for encoded noise."""

    def step(self) -> Mapping[str, Tensor]:
        """Update the critic `critic_steps` times, then encoder and generator once."""
        losses, prior = {}, torch.empty(0)
        batches = self.batches()
        for x, labels in batches:
            prior = self.noise(labels)
            with torch.no_grad():
                fake = self.activate(self.output(self.hidden(prior, labels)))
            losses = self.critic_step(x, fake, labels)
        x, labels = batches[-1]
        z, mean, log_variance = self.encode(x, labels)
        # one pass of G for encoded and prior noise, with the noise of the last critic step
        both = self.output(self.hidden(torch.cat((z, prior)), labels.repeat(2)))
        variational = self.variational(both[: len(x)], x, mean, log_variance)
        # the mean of both halves, twice
        adversarial = 2 * self.adversarial(self.activate(both), labels.repeat(2))
        loss = variational + self.options.adversarial_weight * adversarial
        update(loss, self.adam_encoder, self.adam_generator)
        self.penalty.adapt()
        return {**losses, "vae": variational.detach(), "generator": adversarial.detach()}


class VAEGANGenerator:
    """A trained generator; G of a VAE-GAN, sampled with noise from the prior."""

    def __init__(self, network: Generator, kind: Range):
        self.network = network
        self.range: Range = kind

    @torch.no_grad()
    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors."""
        network = self.network
        class_term, weights = network.class_term(descriptors), network.weights(Buffers())

        @torch.no_grad()
        def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
            z = normal(rng, len(labels), network.noise)
            own = class_term.index_select(0, labels)
            return activate(network(z.to(own.dtype), own, None, weights), self.range)

        return sample


def fit_f_vaegan(
    data: TrainingTensors,
    settings: Generation,
    precision: Precision,
    seed: int,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
) -> VAEGANGenerator:
    """Train f-VAEGAN-D2 with the settings that it shares with the WGAN-GP."""
    names = ("batch_size", "hidden", "noise", "learning_rate", "critic_steps", "penalty")
    shared = {name: getattr(settings, name) for name in (*names, "beta1", "beta2", "init_std")}
    options = VAEGANSettings(
        **shared,
        critic_hidden=settings.hidden,
        encoder_beta1=settings.beta1,
        adversarial_weight=settings.adversarial_weight,
    )
    trainer = FVAEGANTrainer(data, options, precision, seed)
    train("generation", trainer, settings.steps, callbacks, checkpoints)
    return VAEGANGenerator(trainer.network, trainer.range)
