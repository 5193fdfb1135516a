"""Stage 1b: training the encoder with the metric loss (eq. 1) and the cross-entropy (eq. 3)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Refinement
from mlis.data.out_of_core.streaming import prefetch
from mlis.data.samplers import ClassBalancedSampler, some_classes
from mlis.encoder.metric_losses import (
    EmbeddingLoss,
    balanced_cross_entropy,
    load_loss,
    similarities,
    similarity_loss,
)
from mlis.encoder.network import Encoder, Linear
from mlis.encoder.own_loss import OwnLoss
from mlis.generators.base import FeatureGenerator, Sampler
from mlis.model.preprocessing import TrainingTensors
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore
from mlis.training.loop import adam, train
from mlis.training.state import PackedTrainer, Part

MOST_CLASSES = 1024
"""Upper limit of classes with synthetic samples in a step; of more, each step draws some at random.

The head scores all classes, so with samples of all a step's time would be quadratic in classes.
"""


class RefinementTrainer(PackedTrainer):
    """One step = one update of the encoder on a P×K batch of real seen samples.

    Semantics enter only through each sample's own class's descriptor, concatenated with its
    refined feature in the metric loss. The cross-entropy also sees synthetic features of all
    classes, through a linear head that is thrown away afterwards.

    Args:
        data: the training split on its device.
        settings: components, loss, batch and step sizes.
        precision: device and dtypes.
        seed: of the initial weights and of every random number drawn.
        sampler_of: returns the sampler of synthetic features for this step; None without SFR.
        loss: a user's own `(embeddings, labels) → scalar` in place of `settings.loss`; the weights
            of a module are trained too, on a copy.
    """

    def __init__(
        self,
        data: TrainingTensors,
        settings: Refinement,
        precision: Precision,
        seed: int,
        sampler_of: Callable[[], Sampler] | None,
        loss: EmbeddingLoss | None = None,
    ):
        self.data: TrainingTensors = data
        self.settings: Refinement = settings
        hidden, common = settings.hidden, (settings.init_std, precision)
        self.encoder: Encoder = Encoder(data.x.shape[1], hidden, *common, stream(seed, "encoder"))
        self.head: Linear = Linear(hidden, data.num_classes, *common, stream(seed, "head"))
        self.similarity_loss: Callable[[Tensor, Tensor], Tensor] | None = None
        self.own_loss: OwnLoss | None = None
        if loss is None:
            self.similarity_loss = similarity_loss(settings)
        if self.similarity_loss is None:
            loss = load_loss(settings.loss) if loss is None else loss
            own = data.descriptors if "is" in settings.switches else None
            self.own_loss = OwnLoss(loss, precision, settings, own)
        trained = [p for part in self._networks().values() for p in part.parameters()]
        rates = (settings.learning_rate, settings.beta1, settings.beta2)
        self.adam: torch.optim.Adam = adam(trained, *rates)
        self.batches: torch.Generator = stream(seed, "batches", device=precision.device)
        self.noise: torch.Generator = stream(seed, "refinement-noise", device=precision.device)
        self.sampler: ClassBalancedSampler = ClassBalancedSampler(
            data.y, settings.classes_per_batch, settings.samples_per_class, self.batches
        )
        self.rows: Tensor = self._draw_rows()
        self.product: torch.dtype = precision.product
        self.buffers: Buffers = Buffers()
        self.sampler_of: Callable[[], Sampler] | None = (
            sampler_of if "sfr" in settings.switches else None
        )
        self.synthetic_labels: Tensor = self._labels_of(data.unseen, data.seen)
        self.with_semantics: bool = "is" in settings.switches
        classes = torch.arange(self.sampler.classes, device=precision.device)
        self.class_of_row: Tensor = classes.repeat_interleave(self.sampler.samples)

    def step(self) -> Mapping[str, Tensor]:
        """Update the encoder on a batch's metric loss (eq. 1) and cross-entropy (eq. 3)."""
        x, y = self.data.x[self.rows], self.data.y[self.rows]
        self.rows = self._draw_rows()
        x, labels = self._with_synthetic(x, y)
        h = self.encoder(x, self.buffers)
        real = h[: len(y)]
        losses: dict[str, Tensor] = {}
        cross_entropy = metric = h.new_zeros(())
        if "sfr" in self.settings.switches:
            losses["cross_entropy"] = cross_entropy = balanced_cross_entropy(self.head(h), labels)
        if "ml" in self.settings.switches:
            metric, semantic_share = self.metric_loss(real, y)
            losses |= {"metric": metric, "semantic_share": semantic_share}
        loss = metric + self.settings.cross_entropy_weight * cross_entropy
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        losses["norm"] = real.detach().norm(dim=1).mean()
        return {name: value.detach() for name, value in losses.items()}

    def _draw_rows(self) -> Tensor:
        """Draw the rows of the next step one step ahead, so that they can be prefetched."""
        rows = self.sampler.draw(self.batches)
        prefetch(self.data.x, rows)
        return rows

    def _with_synthetic(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Append synthetic features for the cross-entropy; G is not trained through E."""
        if self.sampler_of is None or len(self.synthetic_labels) == 0:
            return x.to(self.product), y
        labels = self._draw_synthetic_labels()
        fakes = self.sampler_of()(labels, self.noise)
        size = (len(x) + len(fakes), x.shape[1])
        both = self.buffers("x", size, self.product, x.device)
        both[: len(x)], both[len(x) :] = x, fakes
        return both, torch.cat((y, labels))

    def _draw_synthetic_labels(self) -> Tensor:
        """Return labels of a step's synthetic samples: of all classes, or of some drawn ones."""
        fraction = MOST_CLASSES / self.data.num_classes
        if fraction >= 1:
            return self.synthetic_labels
        unseen = some_classes(self.data.unseen, fraction, self.noise)
        seen = some_classes(self.data.seen, fraction, self.noise)
        return self._labels_of(unseen, seen)

    def _labels_of(self, unseen: Tensor, seen: Tensor) -> Tensor:
        """Repeat each class as often as it has synthetic samples in a step."""
        counts = (self.settings.synthetic_per_unseen, self.settings.synthetic_per_seen)
        return torch.cat((unseen.repeat_interleave(counts[0]), seen.repeat_interleave(counts[1])))

    def _class_gram(self, y: Tensor) -> Tensor | None:
        """Return the products a·a of a batch's P classes, (P, P); those of all would be (C, C)."""
        if not self.with_semantics:
            return None
        own = self.data.descriptors[y[:: self.sampler.samples]]
        own = self.settings.semantic_scale * own
        return own @ own.T

    @property
    def metric_loss(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Metric loss (eq. 1) of `[h ; a_y]`, and the semantic fraction of its squared length."""
        return self.own_loss or self._loss_of_similarities

    def _loss_of_similarities(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One of the losses of pairs' cosines."""
        assert self.similarity_loss is not None
        similarity, semantic_share = similarities(
            h, self.class_of_row, self._class_gram(y), self.settings, self.product
        )
        return self.similarity_loss(similarity, y), semantic_share

    def feedback(self, fake: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted cross-entropy of refined synthetic features, to train G through E."""
        loss = balanced_cross_entropy(self.head(self.encoder(fake)), labels)
        return self.settings.generator_feedback * loss

    def _networks(self) -> dict[str, nn.Module]:
        learned = None if self.own_loss is None else self.own_loss.learned
        networks = {"encoder": self.encoder, "head": self.head}
        return networks if learned is None else {**networks, "loss": learned}

    def parts(self) -> Mapping[str, Part]:
        """Networks, optimiser and random streams."""
        return {
            **self._networks(),
            "adam": self.adam,
            "batches": self.batches,
            "noise": self.noise,
        }

    def kept(self) -> Mapping[str, Part]:
        """The encoder."""
        return {"encoder": self.encoder}


def fit_encoder(
    data: TrainingTensors,
    generator: FeatureGenerator | None,
    settings: Refinement,
    precision: Precision,
    seed: int,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
    loss: EmbeddingLoss | None = None,
) -> Encoder:
    """Train the encoder beside a finished generator (`schedule="sequential"`)."""
    sampler_of = None
    if generator is not None and "sfr" in settings.switches:
        sampler = generator.sampler(data.descriptors)
        sampler_of = lambda: sampler  # noqa: E731
    trainer = RefinementTrainer(data, settings, precision, seed, sampler_of, loss)
    train("refinement", trainer, settings.steps, callbacks, checkpoints)
    return trainer.encoder
