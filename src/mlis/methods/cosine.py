"""Cosine of feature and descriptor, where one model made both: zero-shot as CLIP does it.

Radford et al.: "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
section 3.1: the class whose text embedding has the highest cosine with the image's. Nothing is
trained; validation chooses the calibration constant alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from mlis.compute.precision import Precision
from mlis.errors import DataError
from mlis.methods.base import Job, Method
from mlis.model.heads import CosineHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Recognizer


@dataclass(frozen=True)
class SharedSpaceCosine(Method):
    """Features and descriptors as given, neither scaled nor centred.

    Attributes:
        config: `precision` is used.
    """

    needs_shared_space: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Says what is compared."""
        return "cosine of feature and descriptor"

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Use the descriptors as prototypes; the caller must know that they share a space.

        Raises:
            DataError: features and descriptors differ in length.
        """
        images, texts = job.training.features.shape[1], job.training.descriptors.shape[1]
        if images != texts:
            raise DataError(
                "cosine of feature and descriptor: expected both from one model, such as CLIP, "
                f"got features of {images} numbers and descriptors of {texts}. Use another method, "
                "or features and descriptors of one model."
            )
        for one in self.among(job):
            precision = Precision.of(one.config.precision, job.device)
            prototypes = precision.tensor(job.training.descriptors)
            yield one, job.recognizer(FeatureScaler.identity(images), CosineHead(prototypes))
