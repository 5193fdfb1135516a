"""Softmax on the features themselves, real and synthetic: no refinement.

With the WGAN-GP this is f-CLSWGAN (Xian, Lorenz, Schiele, Akata: "Feature Generating Networks for
Zero-Shot Learning", CVPR 2018) less its classification loss in the generator: the paper's generator
also learns from a softmax on seen classes, here it is the one that the method itself uses, so that
the two differ in refinement alone. With the ridge generator nothing is trained but the softmax.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from mlis.config import Config
from mlis.methods.base import Baseline, Job
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit


@dataclass(frozen=True)
class RawSoftmax(Baseline[Recognizer]):
    """Stage 1a and stage 2 of the method, and no stage 1b.

    Attributes:
        config: settings of the method; `refinement` is not used.
    """

    config: Config = field(default_factory=Config)

    @property
    def name(self) -> str:
        """Says which generator."""
        if self.config.generation.generator == "ridge":
            return "raw softmax, ridge generator"
        return "raw softmax (f-CLSWGAN)"

    def alternatives(self) -> Sequence[Self]:
        """Itself: its settings are those of the method."""
        return (self,)

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train the generator, unless it is in the cache, and the softmax."""
        how = {"device": job.device, "callbacks": job.callbacks, "reuse": job.reuse}
        for one in self.among(job):
            config = one.config.replace({"refinement": {"components": "none"}})
            trained = fit(job.training, config, seed=job.seed, exemplars=False, **how)
            yield one, trained.recognizer
