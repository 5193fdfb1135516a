"""MLIS, the paper's method: generator, encoder trained with implicit semantics, softmax."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from mlis.data.dataset import TrainingSplit
from mlis.encoder.metric_losses import EmbeddingLoss
from mlis.methods.base import Job, Method, with_decays
from mlis.pipeline import Trained, fit_each
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

    def alternatives(self) -> Sequence[Self]:
        """Weight decays of stage 2."""
        return [replace(self, config=one) for one in with_decays(self.config)]

    def train(self, job: Job) -> Iterator[tuple[Self, Trained]]:
        """Train the generator, unless it is in the cache, the encoder and the classifier."""
        among = self.among(job)
        configs = [one.config for one in among]
        return zip(among, fit_each(job.training, configs, loss=self.loss, **job.how), strict=True)

    def key(self, training: TrainingSplit, seed: int, device: str | torch.device = "auto") -> str:
        """Hash of everything that a training with these settings depends on, for its snapshots."""
        return training_key(training, self.config, seed, device, self.loss)
