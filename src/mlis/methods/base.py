"""The interface of every method: settings that can be trained, and chosen on validation classes."""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypedDict, Unpack

import torch

from mlis.compute.memory import enough_memory
from mlis.compute.precision import Precision, own_modes
from mlis.config import Config, hash_of
from mlis.data.dataset import TrainingSplit
from mlis.model.heads import Head
from mlis.model.preprocessing import FeatureScaler, TrainingTensors, prepare
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import Identity, Refiner
from mlis.pipeline import Trained
from mlis.protocol import choose as choose_on_validation
from mlis.provenance import training_key
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore, SnapshotSeries

ByBenchmark = Mapping[str, Mapping[str, Any]]
"""Options of a method, by the name of a benchmark."""


class JobOptions(TypedDict, total=False):
    """How a method is trained; meaning and defaults are those of :class:`Job`."""

    seed: int
    device: str | torch.device
    callbacks: Sequence[Callback]
    checkpoints: CheckpointStore | None
    reuse: bool


@dataclass(frozen=True, eq=False)
class Job:
    """What a method is trained on, and how.

    Attributes:
        training: rows of seen classes, descriptors of all classes; no test row.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        callbacks: are told of the progress.
        checkpoints: keeps snapshots, from which a killed training continues.
        reuse: whether the generator is taken from the user's cache folder or trained there.
        exemplars: whether the state needed to add classes later is kept, where there is a
            generator.
        choosing: train every alternative, so that one can be chosen; else these settings alone.
    """

    training: TrainingSplit
    seed: int = 0
    device: str | torch.device = "auto"
    callbacks: Sequence[Callback] = ()
    checkpoints: CheckpointStore | None = None
    reuse: bool = False
    exemplars: bool = True
    choosing: bool = False

    @property
    def how(self) -> dict[str, Any]:
        """Keyword arguments of :func:`mlis.pipeline.fit`: all but the training split."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("training", "choosing")]
        return {name: getattr(self, name) for name in names}

    def prepare(
        self, config: Config, *, pool: bool = True
    ) -> tuple[FeatureScaler, TrainingTensors]:
        """Scaled features and descriptors on the device, in the settings' precision.

        Features of several regions are averaged over them, unless `pool` is False.
        """
        precision = Precision.of(config.precision, self.device)
        return prepare(self.training, config.preprocessing, precision, pool=pool)

    def series(
        self, method: "Method", steps: Collection[int], parts: Collection[str]
    ) -> SnapshotSeries:
        """Keeps parts of one training of a method after several numbers of steps.

        Continues from a snapshot of the same settings and numbers of steps, and from no other.
        """
        key = hash_of([method.settings, sorted(set(steps))])
        return SnapshotSeries(steps, parts, self.checkpoints, key[:12])

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
        has_components: whether `config.refinement.components` selects what is trained, so that a
            run can compare several.
        needs_shared_space: whether features and descriptors must come from one model.
        reconstruction: whether it was written without the paper's text. Then its name is "after
            AUTHORS (reconstruction)", in the registry too ("…-reconstruction"), never the system's.
        published: options of the authors' program by benchmark, where they are not the defaults;
            `synthetic_per_unseen` is that of `config.classification`, and epochs are counted in
            steps of the benchmark's rows. "CUB, attributes" is there where these settings differ
            from those for sentences. Empty where none are known.
    """

    config: Config = field(default_factory=Config)

    remedy: ClassVar[str] = (
        "Leave the features in their file (a dataset folder, MLIS_RESIDENT_MIB=0)"
    )
    uses_generator: ClassVar[bool] = False
    has_components: ClassVar[bool] = False
    needs_shared_space: ClassVar[bool] = False
    reconstruction: ClassVar[bool] = False
    published: ClassVar[ByBenchmark] = {}

    choose = choose_on_validation  # the function is the method: no frame that only forwards

    @property
    @abstractmethod
    def name(self) -> str:
        """As it stands in a table."""

    def name_on(self, regions: int) -> str:
        """As it stands in a table of a dataset with so many regions per image.

        One that reads regions is another system where there is only one.
        """
        del regions
        return self.name

    @property
    def options(self) -> dict[str, Any]:
        """The method's own settings, for JSON; not `config`."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "config"]
        return {name: getattr(self, name) for name in names}

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, for JSON."""
        return {**self.options, "config": self.config.to_dict()}

    @property
    def chooses(self) -> bool:
        """Whether validation has something to choose: an alternative, or the constant."""
        return len(self.alternatives()) > 1 or isinstance(
            self.config.classification.calibration, str
        )

    def alternatives(self) -> Sequence[Self]:
        """Every setting that validation may choose; by default these settings alone."""
        return (self,)

    @abstractmethod
    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer | Trained]]:
        """Train each of `among(job)`, uncalibrated, in their order; what they share once.

        Yields each with its recognizer, or with a :class:`~mlis.pipeline.Trained` where there is
        more to tell: an exemplar buffer, a generator from the cache.
        """

    def among(self, job: Job) -> Sequence[Self]:
        """What a job trains: all alternatives, or these settings."""
        return self.alternatives() if job.choosing else (self,)

    @own_modes()
    def fit(
        self, training: TrainingSplit, *, exemplars: bool = True, **how: Unpack[JobOptions]
    ) -> Trained:
        """Train with these settings, uncalibrated.

        Args:
            training: rows of seen classes, descriptors of all classes; no test row.
            exemplars, how: as of :class:`Job`.

        Raises:
            DataError: the data are not for this method.
            SettingsError: a setting does not suit these data.
            DivergenceError: a loss became NaN or infinite.
            OutOfMemoryError: memory does not suffice.
        """
        started = time.perf_counter()
        with enough_memory(self.name, self.remedy):
            ((_, found),) = self.train(Job(training, exemplars=exemplars, **how))
        return dataclasses.replace(Trained.of(found), seconds=time.perf_counter() - started)

    def candidates(
        self, training: TrainingSplit, **how: Unpack[JobOptions]
    ) -> Iterator[tuple[Self, Recognizer | Trained]]:
        """Every setting that may be chosen, trained without exemplars. Raises what `fit` does."""
        return self.train(Job(training, exemplars=False, choosing=True, **how))

    def key(self, training: TrainingSplit, seed: int, device: str | torch.device = "auto") -> str:
        """Hash of everything that a training with these settings depends on, for its snapshots."""
        config = self.config.replace({"refinement": {"components": "none"}})
        known = training_key(training, config, seed, device)
        return hash_of([type(self).__qualname__, self.options, known])
