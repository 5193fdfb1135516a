"""After Kong et al.: synthetic features, and an embedding, that are compact within each class.

A **reconstruction**, not the system (ICCE) of Kong, Gao, Li, Hong, Liu, Wang, Xie, Qu:
"En-Compactness: Self-Distillation Embedding & Contrastive Generation for Generalized Zero-Shot
Learning", CVPR 2022, whose text and program were not available.

From its abstract: self-distillation makes the classes compact in an embedding, and contrastive
generation in the space of features, seen and unseen ones; relations within a class are promoted,
not the structure between classes. From memory, not verified: a WGAN-GP and an embedding as in
CE-GZSL (:mod:`mlis.methods.cegzsl`). Ours: both losses, the most usual ones that fit this, and all
numbers; the real system may train generator and embedding together.

**Contrastive generation.** A WGAN-GP, whose generator G has one more loss: with x̃ synthetic
features (B, Dx), x' a real feature of the same class for each, and v = [x̃ ; x'] of unit length,

    L_G = −E[D(x̃, a)] + w mean_i mean_p −log(exp(v_i·v_p/τ) / (exp(v_i·v_p/τ) + Σ_n exp(v_i·v_n/τ)))

where p are the other rows of i's class among the 2B, real or synthetic, and n all rows of other
classes. Only x̃ have a gradient.

**Self-distillation embedding.** h = E(x) = ReLU(W x + b) (B, embedding), and a linear softmax
q_t(x) = softmax(C h / t) of the seen classes. Pairs (x, x⁺) of one class are real rows of seen
classes, or synthetic features of unseen ones; each predicts like its partner (class-wise
self-distillation, Yun et al., CVPR 2020):

    L_E = CE(C E(x), y)                                  real rows
        + w_d t² mean KL(q_t(x⁺) ‖ q_t(x))               both kinds of pairs; q_t(x⁺) is a constant

E is trained after G. The classifier is a softmax on h of real seen and synthetic unseen features;
steps of E are chosen on validation classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize

from mlis.compute.precision import Precision
from mlis.compute.random import stream, uniform
from mlis.data.samplers import uniform_rows
from mlis.encoder.network import Encoder
from mlis.generators.base import FeatureGenerator
from mlis.generators.wgan_gp.trainer import AdversarialTrainer, WGANGenerator
from mlis.incremental.exemplar_buffer import keep_exemplars
from mlis.methods.base import Job
from mlis.methods.cegzsl import instance_loss
from mlis.methods.network_method import Losses, NetworkMethod, within
from mlis.model.preprocessing import TrainingTensors
from mlis.pipeline import Trained, recognizer_of
from mlis.training.layers import Linear
from mlis.training.loop import train


@dataclass(frozen=True)
class ICCEReconstruction(NetworkMethod):
    """After Kong et al.; the weights are ours. See `NetworkMethod` for the embedding's training.

    Attributes:
        config: `preprocessing`, `generation`, `classification` and `precision` are used;
            `generation.generator` is "wgan-gp".
        contrast_weight, contrast_temperature: w and τ of the generator's loss.
        embedding: length of h.
        distillation_weight, distillation_temperature: w_d and t.
        init_std: standard deviation of E's and C's initial weights.
    """

    remedy: ClassVar[str] = (
        "Lower batch_size or embedding of ICCEReconstruction, generation.batch_size or "
        "generation.hidden"
    )
    reconstruction: ClassVar[bool] = True

    steps: int = within(600, 1)
    choices: tuple[int, ...] = (150, 300, 600)
    contrast_weight: float = within(0.01, 0)
    contrast_temperature: float = within(0.1, 1e-3)
    embedding: int = within(2048, 1)
    distillation_weight: float = within(1.0, 0)
    distillation_temperature: float = within(4.0, 1e-3)
    init_std: float = within(0.02, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        own = self.config.replace({"generation": {"generator": "wgan-gp"}})
        object.__setattr__(self, "config", own)

    @property
    def name(self) -> str:
        """What it follows; not the system's own name."""
        return "after Kong et al. (reconstruction)"

    def train(self, job: Job) -> Iterator[tuple[Self, Trained]]:
        """Train the generator, one embedding for all numbers of steps, and softmaxes.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        precision = Precision.of(self.config.precision, job.device)
        scaler, data = job.prepare(self.config)
        for one, steps in self.trainings(job):
            generator = one.generator(data, precision, job)
            network = Embedding(data, one, precision, job.seed)
            losses = one.losses(network, data, generator)
            for chosen, trained in one.trained("icce-reconstruction", network, losses, steps, job):
                common = (chosen.config, job.seed)
                parts = (scaler, data, generator, trained.encoder)
                exemplars = keep_exemplars(data, generator, *common) if job.exemplars else None
                yield chosen, Trained(recognizer_of(job.training, *parts, *common), exemplars)

    def generator(self, data: TrainingTensors, precision: Precision, job: Job) -> WGANGenerator:
        """The WGAN-GP, trained with the contrastive loss; continues from a snapshot."""
        settings = self.config.generation
        trainer = AdversarialTrainer(data, settings, precision, job.seed)
        if self.contrast_weight:
            trainer.feedback = self.contrast(data, trainer.rng)
        train("generation", trainer, settings.steps, job.callbacks, job.checkpoints)
        return trainer.generator

    def contrast(
        self, data: TrainingTensors, rng: torch.Generator
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The generator's further loss, of x̃ (B, Dx) and labels (B,) among the seen classes."""
        partners = SameClass(data)

        def contrast(fake: Tensor, labels: Tensor) -> Tensor:
            real = data.x[partners.draw(labels, rng)]
            v = normalize(torch.cat((fake, real)), dim=1)
            loss = instance_loss(v, labels.repeat(2), self.contrast_temperature)
            return self.contrast_weight * loss

        return contrast

    def losses(
        self, network: "Embedding", data: TrainingTensors, generator: FeatureGenerator
    ) -> Losses:
        """Cross-entropy of real rows; distillation of real and of synthetic pairs."""
        own, partners = torch.searchsorted(data.seen, data.y), SameClass(data)
        sampler, size = generator.sampler(data.descriptors), self.batch_size

        def losses(rng: torch.Generator) -> dict[str, Tensor]:
            rows = uniform_rows(len(own), size, rng)
            x = data.x[torch.cat((rows, partners.draw(own[rows], rng)))]
            scores = network(x)
            terms = [self._distillation(scores)]
            if len(data.unseen):
                labels = data.unseen[uniform_rows(len(data.unseen), size, rng)]
                terms.append(self._distillation(network(sampler(labels.repeat(2), rng))))
            weight = self.distillation_weight * self.distillation_temperature**2
            return {
                "cross_entropy": cross_entropy(scores[:size], own[rows]),
                "distillation": weight * torch.stack(terms).mean(),
            }

        return losses

    def _distillation(self, scores: Tensor) -> Tensor:
        first, second = scores.chunk(2)
        return distillation(first, second, self.distillation_temperature)


class SameClass:
    """Draws training rows by their class.

    Args:
        data: a training split.
    """

    def __init__(self, data: TrainingTensors):
        self._order: Tensor = torch.argsort(data.y, stable=True)
        self._counts: Tensor = torch.bincount(data.y, minlength=data.num_classes)[data.seen]
        self._starts: Tensor = self._counts.cumsum(0) - self._counts

    def draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """(B,) one row of each label among the seen classes, all of its rows equally likely."""
        share = uniform(rng, len(labels))
        within_class = (share * self._counts[labels]).long()
        return self._order[self._starts[labels] + within_class]


class Embedding(nn.Module):
    """E, and the softmax C of the seen classes on it."""

    def __init__(
        self, data: TrainingTensors, settings: ICCEReconstruction, precision: Precision, seed: int
    ):
        super().__init__()
        how = (settings.init_std, precision, stream(seed, "icce-weights"))
        self.encoder: Encoder = Encoder(data.x.shape[1], settings.embedding, *how)
        self.classifier: Linear = Linear(settings.embedding, len(data.seen), *how)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, S) of features (B, Dx)."""
        return self.classifier(self.encoder(x))


def distillation(scores: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """`mean_b KL(softmax(teachers_b / t) ‖ softmax(scores_b / t))`; teachers get no gradient.

    Args:
        scores, teachers: (B, S).
        temperature: t.
    """
    wanted = log_softmax(teachers.detach() / temperature, dim=1)
    found = log_softmax(scores / temperature, dim=1)
    return kl_div(found, wanted, reduction="batchmean", log_target=True)
