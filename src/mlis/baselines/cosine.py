"""Cosine of feature and descriptor, where one model made both: zero-shot as CLIP does it.

Radford et al.: "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
section 3.1: the class whose text embedding has the highest cosine with the image's. Nothing is
trained; the constant that is taken from seen classes is the only thing that validation chooses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import torch

from mlis.baselines.base import CosineScorer, Scorer
from mlis.compute import Arithmetic
from mlis.config import Config
from mlis.data.dataset import TrainingSplit
from mlis.errors import DataError
from mlis.training import Monitor


@dataclass(frozen=True)
class SharedSpaceCosine:
    """Features and descriptors as they come, neither scaled nor centred.

    Attributes:
        config: `precision` is used.
    """

    config: Config = field(default_factory=Config)

    @property
    def name(self) -> str:
        """Says what is compared."""
        return "cosine of feature and descriptor"

    def fit(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> CosineScorer:
        """Take the descriptors for prototypes; that they share a space is the caller's word.

        Raises:
            DataError: features and descriptors are not of one length.
        """
        images, texts = training.features.shape[1], training.descriptors.shape[1]
        if images != texts:
            raise DataError(
                "the cosine of feature and descriptor needs both from one model, such as CLIP: "
                f"these features have {images} numbers and the descriptors {texts}"
            )
        arithmetic = Arithmetic.of(self.config.precision, device)
        return CosineScorer(None, arithmetic.tensor(training.descriptors))

    def candidates(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> Iterator[tuple[Self, Scorer]]:
        """Itself: there is nothing to set."""
        yield self, self.fit(training, seed=seed, device=device, monitor=monitor)
