"""CE-GZSL: contrastive embedding, of instances with each other and with all seen descriptors.

Han, Fu, Chen, Yang: "Contrastive Embedding for Generalized Zero-Shot Learning", CVPR 2021: the
closest relative of the method. An embedding h = E(x) is trained by two losses. On the instances,
z = P(h) of unit length is drawn to another sample of its class, away from all samples of other
classes. On the classes, a comparator F(h, a) tells the own descriptor from those of **all** seen
classes; the method shows a sample its own descriptor alone. A softmax on embeddings of real seen
and synthetic unseen features is the classifier.

The paper's, as far as we know: E linear + ReLU, 2048; P linear, 512, unit length; F on [h ; a]
linear, LeakyReLU(0.2), 2048, linear; both temperatures 0.1; the two losses weigh the same; Adam
with 1e-4 and β (0.5, 0.999). What differs here:

- The paper trains G beside E, and adds the two losses, times 0.001, to that of G. In the authors'
  published program E, P and F learn from real samples alone. So what is left out is that feedback,
  and then G depends on nothing here: it is the stored one that all methods of a comparison share.
- The instance loss is written for one positive; we average over all positives of an anchor, then
  over the anchors that have one.
- Our choice: batches of 512 for 2,048 and more; steps chosen on validation classes for the best
  epoch on test; stage 2, features and descriptors as for the method.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, softplus

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.encoder.metric_losses import pair_masks
from mlis.encoder.network import Encoder
from mlis.incremental.exemplar_buffer import keep_exemplars
from mlis.methods.base import Job, Method
from mlis.methods.pairs import PairScorer
from mlis.model.preprocessing import TrainingTensors
from mlis.pipeline import Trained, recognizer_of, train_generator
from mlis.training.layers import Linear
from mlis.training.loop import adam, train
from mlis.training.state import pack, unpack


def instance_loss(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Instance-level contrastive loss: one positive against all negatives of the batch.

    `−log(exp(z_i·z_p/τ) / (exp(z_i·z_p/τ) + Σ_n exp(z_i·z_n/τ)))`, mean over the positives p of
    each anchor i, then over anchors that have one; zero if none has.

    Args:
        z: (B, Dz) of unit length.
        labels: (B,).
        temperature: τ.
    """
    positive, negative = pair_masks(labels)
    logits = z @ z.T / temperature
    lowest = torch.finfo(logits.dtype).min / 2  # finite: a row without negatives has a gradient too
    against = torch.logsumexp(logits.masked_fill(~negative, lowest), dim=1, keepdim=True)
    losses = softplus(against - logits, threshold=40) * positive
    count = positive.sum(1)
    return (losses.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


@dataclass(frozen=True)
class CEGZSL(Method):
    """CE-GZSL on a generator that is trained before it.

    Attributes:
        config: `preprocessing`, `generation`, `classification` and `precision` are used.
        steps: of the embedding.
        choices: numbers of steps to choose from on validation classes.
        batch_size: real samples a step, without repetition.
        embedding, projection, hidden: sizes of h, of z, and of F's hidden layer.
        instance_temperature, class_temperature: of the two losses.
        learning_rate, beta1, beta2, init_std: of Adam, and of initial weights.
    """

    remedy: ClassVar[str] = (
        "Lower batch_size, hidden or embedding of CEGZSL, generation.batch_size or "
        "generation.hidden"
    )
    uses_generator: ClassVar[bool] = True

    steps: int = 600
    choices: tuple[int, ...] = (150, 300, 600)
    batch_size: int = 512
    embedding: int = 2048
    projection: int = 512
    hidden: int = 2048
    instance_temperature: float = 0.1
    class_temperature: float = 0.1
    learning_rate: float = 1e-4
    beta1: float = 0.5
    beta2: float = 0.999
    init_std: float = 0.02

    @property
    def name(self) -> str:
        """As in the paper."""
        return "CE-GZSL"

    def alternatives(self) -> Sequence[Self]:
        """Each number of steps among the choices."""
        return [replace(self, steps=steps) for steps in sorted(self.choices)]

    def train(self, job: Job) -> Iterator[tuple[Self, Trained]]:
        """Train the generator, unless it is in the cache, one embedding for all, and softmaxes.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        precision = Precision.of(self.config.precision, job.device)
        scaler, data = job.prepare(self.config)
        how = (precision, job.seed, job.callbacks, job.checkpoints, job.reuse)
        generator, reused = train_generator(job.training, data, self.config, *how)
        steps = tuple(one.steps for one in self.among(job))
        kept = job.series(self, steps, ("encoder",))
        trainer = EmbeddingTrainer(data, self, precision, job.seed)
        train("cegzsl", trainer, max(steps), job.callbacks, kept)
        for one in self.among(job):
            encoder = copy.deepcopy(trainer.encoder)
            unpack(kept.states[one.steps], encoder=encoder)
            common = (job.training, scaler, data, generator)
            recognizer = recognizer_of(*common, encoder, one.config, job.seed)
            exemplars = None
            if job.exemplars:
                exemplars = keep_exemplars(data, generator, one.config, job.seed)
            yield one, Trained(recognizer, exemplars, reused=reused)


class EmbeddingTrainer:
    """One step = one update of E, P and F on a batch of real seen samples."""

    def __init__(self, data: TrainingTensors, settings: CEGZSL, precision: Precision, seed: int):
        self.data: TrainingTensors = data
        self.settings: CEGZSL = settings
        size, std = settings.embedding, settings.init_std
        rng = stream(seed, "cegzsl-weights")
        self.encoder: Encoder = Encoder(data.x.shape[1], size, std, precision, rng)
        self.projection: Linear = Linear(size, settings.projection, std, precision, rng)
        attributes = data.descriptors.shape[1]
        self.comparator: PairScorer = PairScorer(
            size, attributes, settings.hidden, std, precision, rng
        )
        parameters = [p for part in self._networks().values() for p in part.parameters()]
        self.adam: torch.optim.Adam = adam(
            parameters, settings.learning_rate, settings.beta1, settings.beta2
        )
        self.rng: torch.Generator = stream(seed, "cegzsl-batches", device=precision.device)
        self.descriptors: Tensor = data.descriptors[data.seen]
        self.own: Tensor = torch.searchsorted(data.seen, data.y)  # labels among the seen classes

    def step(self) -> Mapping[str, Tensor]:
        """Draw a batch and update the three networks on the sum of the two losses."""
        order = torch.randperm(len(self.data.y), generator=self.rng, device=self.rng.device)
        rows = order[: self.settings.batch_size]
        losses = self.losses(self.data.x[rows], self.own[rows])
        self.adam.zero_grad()
        sum(losses.values(), start=losses["instance"].new_zeros(())).backward()
        self.adam.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def losses(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both losses of features (B, Dx) and labels (B,) among the seen classes."""
        h = self.encoder(x)
        z = normalize(self.projection(h), dim=1)
        scores = self.comparator(h, self.descriptors) / self.settings.class_temperature
        return {
            "instance": instance_loss(z, labels, self.settings.instance_temperature),
            "class": cross_entropy(scores, labels),
        }

    def _networks(self) -> dict[str, nn.Module]:
        parts = {"encoder": self.encoder, "projection": self.projection}
        return {**parts, "comparator": self.comparator}

    def state(self) -> dict[str, Tensor]:
        """Networks, optimiser, random stream."""
        return pack(**self._networks(), adam=self.adam, rng=self.rng)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that `state` gave."""
        unpack(state, **self._networks(), adam=self.adam, rng=self.rng)

    def outcome(self) -> dict[str, Tensor]:
        """The embedding."""
        return pack(encoder=self.encoder)

    def load_outcome(self, outcome: Mapping[str, Tensor]) -> None:
        """Take over what `outcome` gave."""
        unpack(outcome, encoder=self.encoder)
