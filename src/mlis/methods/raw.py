"""Softmax on the features themselves, real and synthetic: no refinement.

With the WGAN-GP this is f-CLSWGAN (Xian, Lorenz, Schiele, Akata: "Feature Generating Networks for
Zero-Shot Learning", CVPR 2018) less its classification loss in the generator: the paper's generator
also learns from a softmax on seen classes, here it is the one that MLIS itself uses, so that the
two differ in refinement alone. With the ridge generator only the softmax is trained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from mlis.methods.base import Job, Method, with_decays
from mlis.pipeline import Trained, fit_each


@dataclass(frozen=True)
class RawSoftmax(Method):
    """Stage 1a and stage 2 of MLIS, without stage 1b; `config.refinement` is not used."""

    uses_generator: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Says which generator."""
        if self.config.generation.generator == "wgan-gp":
            return "raw softmax (f-CLSWGAN)"
        return f"raw softmax, {self.config.generation.generator} generator"

    def alternatives(self) -> Sequence[Self]:
        """Weight decays of the softmax."""
        return [replace(self, config=one) for one in with_decays(self.config)]

    def train(self, job: Job) -> Iterator[tuple[Self, Trained]]:
        """Train the generator, unless it is in the cache, and the softmax."""
        among = self.among(job)
        raw = [one.config.replace({"refinement": {"components": "none"}}) for one in among]
        return zip(among, fit_each(job.training, raw, **job.how), strict=True)


@dataclass(frozen=True)
class RidgeSoftmax(RawSoftmax):
    """`RawSoftmax` with the ridge generator, whatever generator it is given."""

    uses_generator: ClassVar[bool] = False

    def __post_init__(self) -> None:
        config = self.config.replace({"generation": {"generator": "ridge"}})
        object.__setattr__(self, "config", config)
