"""What every baseline offers, and scores by cosine, which two of them give."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlis.config import Config
from mlis.data.dataset import TrainingSplit
from mlis.data.stored import StoredRows
from mlis.errors import DataError
from mlis.preprocessing import FeatureScaler
from mlis.training import Monitor

CHUNK = 2048  # rows scored at a time


class Scorer(Protocol):
    """A trained baseline; :class:`mlis.inference.Recognizer` is one."""

    def scores(self, x: np.ndarray | StoredRows, /) -> np.ndarray:
        """Scores of all C classes for (B, Dx) features as they come: (B, C) float."""
        ...


class Baseline(Protocol):
    """A method and its settings."""

    @property
    def config(self) -> Config:
        """The sections that it shares with the method: preprocessing, generation, …"""
        ...

    @property
    def name(self) -> str:
        """As it stands in a table."""
        ...

    def fit(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> Scorer:
        """Train with these settings, uncalibrated."""
        ...

    def candidates(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> Iterator[tuple[Self, Scorer]]:
        """Every setting that may be chosen, trained; itself alone where nothing is left open."""
        ...


@dataclass(frozen=True, eq=False)
class CosineScorer:
    """Scores are the cosines between scaled features and one prototype a class.

    Attributes:
        scaler: from features as they come to those that the prototypes were made of; None to
            take them as they are.
        prototypes: (C, Dx).
    """

    scaler: FeatureScaler | None
    prototypes: Tensor

    @torch.no_grad()
    def scores(self, x: np.ndarray | StoredRows, /) -> np.ndarray:
        """Cosines (B, C) in −1 … 1 of (B, Dx) features.

        Raises:
            DataError: the features are not of the length of the prototypes.
        """
        if x.ndim != 2 or x.shape[1] != self.prototypes.shape[1]:
            raise DataError(
                f"expected features of shape (B, {self.prototypes.shape[1]}), but got "
                f"{tuple(x.shape)}: use features of the same model as in training"
            )
        directions = normalize(self.prototypes, dim=1)
        result = np.empty((len(x), len(directions)), dtype=np.float32)
        for start in range(0, len(x), CHUNK):
            part = torch.from_numpy(np.array(x[start : start + CHUNK])).to(directions)
            part = part if self.scaler is None else self.scaler(part)
            result[start : start + len(part)] = (normalize(part, dim=1) @ directions.T).cpu()
        return result
