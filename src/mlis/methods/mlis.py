"""MLIS, the paper's method: generator, encoder trained with implicit semantics, softmax."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch

from mlis.data.dataset import TrainingSplit
from mlis.encoder.metric_losses import EmbeddingLoss
from mlis.methods.base import Job, Method
from mlis.pipeline import Trained, fit
from mlis.provenance import training_key


@dataclass(frozen=True)
class MLIS(Method):
    """All stages of :func:`mlis.pipeline.fit`.

    Attributes:
        config: every setting but a loss that is code.
        loss: your own metric loss `(embeddings, labels) → scalar`, instead of `refinement.loss`.
    """

    uses_generator: ClassVar[bool] = True
    has_components: ClassVar[bool] = True

    loss: EmbeddingLoss | None = None

    @property
    def name(self) -> str:
        """As in the paper, with its components where they are not all of them."""
        components = self.config.refinement.components
        return "MLIS" if components == "ml+is+sfr" else f"MLIS ({components})"

    @property
    def options(self) -> dict[str, Any]:
        """None: all that JSON can hold is in `config`."""
        return {}

    def train(self, job: Job) -> Iterator[tuple[Self, Trained]]:
        """Train the generator, unless it is in the cache, the encoder and the classifier."""
        # `map` and not a generator function: one frame less from `choose` to the loss
        stages = partial(fit, job.training, loss=self.loss, **job.how)
        among = self.among(job)
        return zip(among, map(stages, [one.config for one in among]), strict=True)

    def key(self, training: TrainingSplit, seed: int, device: str | torch.device = "auto") -> str:
        """Hash of everything that a training with these settings depends on, for its snapshots."""
        return training_key(training, self.config, seed, device, self.loss)
