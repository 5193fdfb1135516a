"""MLIS, the paper's method: generator, encoder trained with implicit semantics, softmax."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from mlis.methods.base import Job, Method
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit


@dataclass(frozen=True)
class MLIS(Method):
    """All stages of :func:`mlis.pipeline.fit`; every setting is in `config`."""

    uses_generator: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As in the paper, with its components where they are not all of them."""
        components = self.config.refinement.components
        return "MLIS" if components == "ml+is+sfr" else f"MLIS ({components})"

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train the generator, unless it is in the cache, the encoder and the classifier."""
        how = {"device": job.device, "callbacks": job.callbacks, "reuse": job.reuse}
        for one in self.among(job):
            trained = fit(job.training, one.config, seed=job.seed, exemplars=False, **how)
            yield one, trained.recognizer
