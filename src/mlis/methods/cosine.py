"""Cosine of feature and descriptor, where one model made both: zero-shot as CLIP does it.

Radford et al.: "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
section 3.1: the class whose text embedding has the highest cosine with the image's. Nothing is
trained; the constant that is taken from seen classes is the only thing that validation chooses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from mlis.compute.precision import Precision
from mlis.config import Config
from mlis.errors import DataError
from mlis.methods.base import Baseline, CosineScorer, Job


@dataclass(frozen=True)
class SharedSpaceCosine(Baseline[CosineScorer]):
    """Features and descriptors as they come, neither scaled nor centred.

    Attributes:
        config: `precision` is used.
    """

    config: Config = field(default_factory=Config)

    @property
    def name(self) -> str:
        """Says what is compared."""
        return "cosine of feature and descriptor"

    def alternatives(self) -> Sequence[Self]:
        """Itself: there is nothing to set."""
        return (self,)

    def train(self, job: Job) -> Iterator[tuple[Self, CosineScorer]]:
        """Take the descriptors for prototypes; that they share a space is the caller's word.

        Raises:
            DataError: features and descriptors are not of one length.
        """
        images, texts = job.training.features.shape[1], job.training.descriptors.shape[1]
        if images != texts:
            raise DataError(
                "the cosine of feature and descriptor needs both from one model, such as CLIP: "
                f"these features have {images} numbers and the descriptors {texts}"
            )
        for one in self.among(job):
            precision = Precision.of(one.config.precision, job.device)
            yield one, CosineScorer(None, precision.tensor(job.training.descriptors))
