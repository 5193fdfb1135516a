"""The interface of every method: settings that can be fitted to a training split."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch

from mlis.compute.memory import enough_memory
from mlis.compute.precision import Precision, own_modes
from mlis.config import Config
from mlis.data.dataset import TrainingSplit
from mlis.model.heads import Head
from mlis.model.preprocessing import FeatureScaler, TrainingTensors, prepare
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import Identity, Refiner
from mlis.training.callbacks import Callback


@dataclass(frozen=True, eq=False)
class Job:
    """What a method is trained on, and how.

    Attributes:
        training: rows of seen classes, descriptors of all classes; no test row.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        callbacks: are told of the progress.
        reuse: whether the generator is taken from the user's cache folder or trained there.
        choosing: train every alternative, so that one can be chosen; else these settings alone.
    """

    training: TrainingSplit
    seed: int
    device: str | torch.device
    callbacks: Sequence[Callback] = ()
    reuse: bool = False
    choosing: bool = False

    def prepare(self, config: Config) -> tuple[FeatureScaler, TrainingTensors]:
        """Scaled features and descriptors on the device, in the settings' precision."""
        precision = Precision.of(config.precision, self.device)
        return prepare(self.training, config.preprocessing, precision)

    def recognizer(
        self, preprocessing: FeatureScaler, head: Head, refiner: Refiner | None = None
    ) -> Recognizer:
        """An uncalibrated recognizer of all classes; without a refiner of the scaled features."""
        return Recognizer(
            preprocessing=preprocessing,
            refiner=refiner or Identity(),
            head=head,
            class_names=self.training.class_names,
            seen_mask=self.training.seen_mask,
            descriptors=self.training.descriptors,
        )


@dataclass(frozen=True)
class Method(ABC):
    """A method and its settings: a frozen dataclass that says how to `train`.

    Attributes:
        config: the settings that methods share: preprocessing, generation, classification, …
        remedy: what to lower if memory does not suffice.
        uses_generator: whether the generator of `config` is trained, which methods can share.
        needs_shared_space: whether features and descriptors must come from one model.
    """

    config: Config = field(default_factory=Config)

    remedy: ClassVar[str] = (
        "Leave the features in their file (a dataset folder, MLIS_RESIDENT_MIB=0)"
    )
    uses_generator: ClassVar[bool] = False
    needs_shared_space: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """As it stands in a table."""

    def alternatives(self) -> Sequence[Self]:
        """Every setting that validation may choose; by default these settings alone."""
        return (self,)

    @abstractmethod
    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
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
        callbacks: Sequence[Callback] = (),
        reuse: bool = False,
    ) -> Recognizer:
        """Train with these settings, uncalibrated.

        Raises:
            DataError: the data are not for this method.
            SettingsError: a setting does not suit these data.
            DivergenceError: a loss became NaN or infinite.
            OutOfMemoryError: memory does not suffice.
        """
        job = Job(training, seed, device, callbacks, reuse)
        with own_modes(), enough_memory(self.name, self.remedy):
            ((_, recognizer),) = self.train(job)
        return recognizer

    def candidates(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        callbacks: Sequence[Callback] = (),
        reuse: bool = False,
    ) -> Iterator[tuple[Self, Recognizer]]:
        """Every setting that may be chosen, trained. Raises what `fit` does."""
        with enough_memory(self.name, self.remedy):
            yield from self.train(Job(training, seed, device, callbacks, reuse, choosing=True))
