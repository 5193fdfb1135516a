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
from mlis.model.heads import SharedSpaceHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Recognizer


@dataclass(frozen=True)
class SharedSpaceCosine(Method):
    """Features and descriptors as given, neither scaled nor centred.

    Attributes:
        config: `precision` is used; `preprocessing` if `scaled`.
        text: the descriptor's first numbers, which are of the text; 0 for all.
        views: of each image, whose features are joined; their cosines are averaged.
        scaled: whether the recognizer scales features as those of other methods do, so that they
            can share it; the cosines are of features before that.
    """

    text: int = 0
    views: int = 1
    scaled: bool = False

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
        training, settings = job.training, self.config.preprocessing
        images = training.features.shape[1] // (training.regions if self.scaled else 1)
        texts = self.text or training.descriptors.shape[1]
        if images != self.views * texts:
            raise DataError(
                "cosine of feature and descriptor: expected both from one model, such as CLIP, "
                f"got features of {images} numbers and descriptors of {texts}. Use another method, "
                "or features and descriptors of one model."
            )
        scaler = FeatureScaler.identity(images)
        if self.scaled:
            scaler = FeatureScaler.fit(training.features, settings, training.regions)
        for one in self.among(job):
            precision = Precision.of(one.config.precision, job.device)
            prototypes = precision.tensor(training.descriptors[:, :texts])
            yield one, job.recognizer(scaler, SharedSpaceHead.of(prototypes, scaler))
