"""What every baseline offers, and scores by cosine, which two of them give."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlis.compute.memory import enough_memory, in_parts
from mlis.compute.precision import Precision, own_modes
from mlis.config import Config
from mlis.data.dataset import TrainingSplit
from mlis.data.out_of_core.stored import StoredRows
from mlis.errors import DataError
from mlis.model.preprocessing import FeatureScaler, TrainingTensors, prepare
from mlis.training.loop import Monitor

CHUNK = 2048  # rows scored at a time


class Scorer(Protocol):
    """A trained baseline; :class:`mlis.model.recognizer.Recognizer` is one."""

    def scores(self, x: np.ndarray | StoredRows, /) -> np.ndarray:
        """Scores of all C classes for (B, Dx) features as they come: (B, C) float."""
        ...


@dataclass(frozen=True, eq=False)
class Job:
    """What a baseline is trained on, and how.

    Attributes:
        training: rows of seen classes, descriptors of all classes; no test row.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        monitor: hears of losses; one that has the generator spares its training.
        choosing: train every alternative, so that one can be chosen; else these settings alone.
    """

    training: TrainingSplit
    seed: int
    device: str | torch.device
    monitor: Monitor
    choosing: bool = False

    def prepare(self, config: Config) -> tuple[FeatureScaler, TrainingTensors]:
        """Scaled features and descriptors on the device, in the settings' precision."""
        precision = Precision.of(config.precision, self.device)
        return prepare(self.training, config.preprocessing, precision)


Trained = TypeVar("Trained", bound=Scorer, covariant=True)


class Baseline(ABC, Generic[Trained]):
    """A method and its settings: a frozen dataclass that says how to `train`.

    Attributes:
        config: the sections that it shares with the method: preprocessing, generation, …
        remedy: what to lower where memory does not suffice.
    """

    config: Config
    remedy: ClassVar[str] = (
        "Leave the features in their file (a dataset folder, MLIS_RESIDENT_MIB=0)"
    )

    @property
    @abstractmethod
    def name(self) -> str:
        """As it stands in a table."""

    @abstractmethod
    def alternatives(self) -> Sequence[Self]:
        """Every setting that validation may choose; itself alone where nothing is left open."""

    @abstractmethod
    def train(self, job: Job) -> Iterator[tuple[Self, Trained]]:
        """Train each of `among(job)`, uncalibrated, in their order; what they share once."""

    def among(self, job: Job) -> Sequence[Self]:
        """What a job trains: all alternatives, or these settings."""
        return self.alternatives() if job.choosing else (self,)

    def fit(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> Trained:
        """Train with these settings, uncalibrated.

        Raises:
            DataError: the data are not for this baseline.
            SettingsError: a setting does not suit these data.
            DivergenceError: a loss became NaN or infinite.
            OutOfMemoryError: memory does not suffice.
        """
        job = Job(training, seed, device, monitor or Monitor())
        with own_modes(), enough_memory(self.name, self.remedy):
            ((_, trained),) = self.train(job)
        return trained

    def candidates(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> Iterator[tuple[Self, Trained]]:
        """Every setting that may be chosen, trained. Raises what `fit` does."""
        with enough_memory(self.name, self.remedy):
            yield from self.train(Job(training, seed, device, monitor or Monitor(), choosing=True))


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

    @own_modes()
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

        def score(part: slice) -> None:
            rows = torch.from_numpy(np.array(x[part])).to(directions)
            rows = rows if self.scaler is None else self.scaler(rows)
            result[part] = (normalize(rows, dim=1) @ directions.T).cpu()

        in_parts(len(x), CHUNK, score, "cosine scores", "use device='cpu'")
        return result
