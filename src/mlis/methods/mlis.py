"""MLIS, the paper's method: generator, encoder trained with implicit semantics, softmax."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

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
        """Train the generator, unless the monitor has it, the encoder and the classifier."""
        where: dict[str, Any] = {"device": job.device, "monitor": job.monitor}
        for one in self.among(job):
            yield one, fit(job.training, one.config, seed=job.seed, **where)
