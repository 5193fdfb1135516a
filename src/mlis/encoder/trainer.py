"""Stage 1b: training the encoder with the metric loss (eq. 1) and the cross-entropy (eq. 3)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mlis.compute.precision import Arithmetic, Scratch, stream
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
"""Classes with synthetic samples in a step, at most: of more, every step draws some at random.

The head scores all classes: with samples of them all, a step's time would be quadratic in classes.
"""


class RefinementTrainer(PackedTrainer):
    """One step = one update of the encoder on a P×K batch of real seen samples.

    Semantics enter only through each sample's own class's descriptor, concatenated with its
    refined feature in the metric loss. The cross-entropy also sees synthetic features of all
    classes, through a linear head that is thrown away afterwards.

    Args:
        data: the training split on its device.
        settings: components, loss, batch and step sizes.
        arithmetic: device and precision.
        seed: of the initial weights and of every random number drawn.
        sampler_of: gives the sampler of synthetic features for this step; None without SFR.
        loss: a user's own `(embeddings, labels) → scalar` in place of the named one; a module's
            own weights are trained too, on a copy.
    """

    data: TrainingTensors
    settings: Refinement
    encoder: Encoder
    head: Linear
    similarity_loss: Callable[[Tensor, Tensor], Tensor] | None
    own_loss: OwnLoss | None
    learned_loss: nn.Module | None
    by_autograd: list[nn.Module]
    adam: torch.optim.Adam
    batches: torch.Generator
    noise: torch.Generator
    sampler: ClassBalancedSampler
    rows: Tensor
    product: torch.dtype
    scratch: Scratch
    sampler_of: Callable[[], Sampler] | None
    synthetic_labels: Tensor
    with_semantics: bool
    places: Tensor

    def __init__(
        self,
        data: TrainingTensors,
        settings: Refinement,
        arithmetic: Arithmetic,
        seed: int,
        sampler_of: Callable[[], Sampler] | None,
        loss: EmbeddingLoss | None = None,
    ):
        self.data, self.settings = data, settings
        hidden, common = settings.hidden, (settings.init_std, arithmetic)
        self.encoder = Encoder(data.x.shape[1], hidden, *common, stream(seed, "encoder"))
        self.head = Linear(hidden, data.num_classes, *common, stream(seed, "head"))
        self.similarity_loss = similarity_loss(settings) if loss is None else None
        self.own_loss = None
        if self.similarity_loss is None:
            loss = load_loss(settings.loss) if loss is None else loss
            self.own_loss = OwnLoss(loss, arithmetic)
        self.learned_loss = None if self.own_loss is None else self.own_loss.learned
        self.by_autograd = [part for part in (self.head, self.learned_loss) if part is not None]
        trained = (self.encoder, *self.by_autograd)
        parameters = [p for module in trained for p in module.parameters()]
        self.adam = adam(parameters, settings.learning_rate, settings.beta1, settings.beta2)
        self.batches = stream(seed, "batches", device=arithmetic.device)
        self.noise = stream(seed, "refinement-noise", device=arithmetic.device)
        self.sampler = ClassBalancedSampler(
            data.y, settings.classes_per_batch, settings.samples_per_class, self.batches
        )
        self.rows = self._draw_rows()
        self.product, self.scratch = arithmetic.product, Scratch()
        self.sampler_of = sampler_of if "sfr" in settings.switches else None
        self.synthetic_labels = self._labels_of(data.unseen, data.seen)
        self.with_semantics = "is" in settings.switches
        places = torch.arange(self.sampler.classes, device=arithmetic.device)
        self.places = places.repeat_interleave(self.sampler.samples)

    def step(self) -> Mapping[str, Tensor]:
        """Draw a batch, refine it, and update the encoder on the losses that are switched on."""
        switches = self.settings.switches
        x, y = self.data.x[self.rows], self.data.y[self.rows]
        self.rows = self._draw_rows()
        x, labels = self._with_synthetic(x, y)
        # A loss of the user's may keep what it is given: then no memory is used twice.
        scratch = self.scratch if self.own_loss is None else Scratch()
        refined = self.encoder.refine(x, scratch)
        # Autograd ends at h, once for each loss; the encoder's own gradient is one product.
        leaf = refined.detach().requires_grad_()
        h = refined[: len(y)].detach().requires_grad_()
        losses: dict[str, Tensor] = {}
        report = {"norm": h.detach().norm(dim=1).mean()}
        if "sfr" in switches:
            losses["cross_entropy"] = balanced_cross_entropy(self.head(leaf), labels)
        if "ml" in switches:
            losses["metric"], report["semantic_share"] = self._metric(h, y)
        total = sum(
            loss * (self.settings.cross_entropy_weight if name == "cross_entropy" else 1.0)
            for name, loss in losses.items()
        )
        for module in self.by_autograd:
            module.zero_grad()
        assert isinstance(total, Tensor)
        total.backward()
        self.encoder.backward(x, refined, _sum_of_gradients(leaf, h), scratch)
        self.adam.step()
        return {name: loss.detach() for name, loss in losses.items()} | report

    def _draw_rows(self) -> Tensor:
        """Rows of the next step, drawn one step ahead: a reader may fetch them meanwhile."""
        rows = self.sampler.draw(self.batches)
        prefetch(self.data.x, rows)
        return rows

    def _with_synthetic(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Real features and, for the cross-entropy, synthetic ones; G is not trained through E."""
        if self.sampler_of is None or len(self.synthetic_labels) == 0:
            return x.to(self.product), y
        labels = self._draw_synthetic_labels()
        fakes = self.sampler_of()(labels, self.noise)
        size = (len(x) + len(fakes), x.shape[1])
        rows = self.scratch("rows", size, x, self.product)
        torch.cat((x.to(self.product), fakes.to(self.product)), out=rows)
        return rows, torch.cat((y, labels))

    def _draw_synthetic_labels(self) -> Tensor:
        """Labels of a step's synthetic samples: all classes', or those of some drawn classes."""
        share = MOST_CLASSES / self.data.num_classes
        if share >= 1:
            return self.synthetic_labels
        unseen = some_classes(self.data.unseen, share, self.noise)
        seen = some_classes(self.data.seen, share, self.noise)
        return self._labels_of(unseen, seen)

    def _labels_of(self, unseen: Tensor, seen: Tensor) -> Tensor:
        """As many labels of each of these classes as it has synthetic samples in a step."""
        counts = (self.settings.synthetic_per_unseen, self.settings.synthetic_per_seen)
        return torch.cat((unseen.repeat_interleave(counts[0]), seen.repeat_interleave(counts[1])))

    def _class_gram(self, y: Tensor) -> Tensor | None:
        """Products a·a of the P classes of a batch, (P, P); a table of all would be (C, C)."""
        if not self.with_semantics:
            return None
        own = self.data.descriptors[y[:: self.sampler.samples]]
        own = self.settings.semantic_scale * own
        return own @ own.T

    def _metric(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The metric loss, and the share of the squared length that is semantic."""
        if self.similarity_loss is not None:
            gram = self._class_gram(y)
            similarity, share = similarities(h, self.places, gram, self.settings, self.product)
            return self.similarity_loss(similarity, y), share
        assert self.own_loss is not None
        own = self.data.descriptors[y] if self.with_semantics else None
        return self.own_loss(h, y, own, self.settings)

    def feedback(self, fake: Tensor, labels: Tensor) -> Tensor:
        """Weighted cross-entropy of refined synthetic features, for training G through E."""
        loss = balanced_cross_entropy(self.head(self.encoder(fake)), labels)
        return self.settings.generator_feedback * loss

    def parts(self) -> Mapping[str, Part]:
        """Networks, optimiser and random streams."""
        learned = {} if self.learned_loss is None else {"loss": self.learned_loss}
        return {
            "encoder": self.encoder,
            "head": self.head,
            **learned,
            "adam": self.adam,
            "batches": self.batches,
            "noise": self.noise,
        }

    def kept(self) -> Mapping[str, Part]:
        """The encoder."""
        return {"encoder": self.encoder}


def _sum_of_gradients(leaf: Tensor, h: Tensor) -> Tensor:
    """The gradient of all rows (N, Dh), where h (B, Dh) are the first of them.

    A loss that is off leaves none; without cross-entropy all rows are real.
    """
    if leaf.grad is None:
        assert h.grad is not None
        return h.grad
    if h.grad is not None:
        leaf.grad[: len(h)] += h.grad
    return leaf.grad


def fit_encoder(
    data: TrainingTensors,
    generator: FeatureGenerator | None,
    settings: Refinement,
    arithmetic: Arithmetic,
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
    trainer = RefinementTrainer(data, settings, arithmetic, seed, sampler_of, loss)
    train("refinement", trainer, settings.steps, callbacks, checkpoints)
    return trainer.encoder
