"""Base of methods that train several networks: validation chooses the length, and what varies.

Methods of one network: :mod:`mlis.methods.network_method`.

The programs of these systems keep the epoch that is best on test rows. Here the alternatives are
snapshots of one training, or of one for each variant of the settings, and one is chosen on
validation classes.
"""

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Generic, Self, TypeVar

from mlis.compute.precision import Precision
from mlis.methods.base import Job, Method
from mlis.model.heads import Head
from mlis.model.preprocessing import TrainingTensors
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import Refiner
from mlis.training.loop import train
from mlis.training.state import PackedTrainer

T = TypeVar("T", bound=PackedTrainer)
Parts = tuple[Head, Refiner]


class SnapshotMethod(Method, Generic[T]):
    """A method with a setting `steps`.

    Attributes:
        stage: name of the training, for progress and losses.
        shares: of the steps, to choose from.
    """

    stage: ClassVar[str]
    shares: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)
    steps: int

    def variants(self) -> Sequence[Self]:
        """Settings that validation may choose besides `steps`, each a training of its own."""
        return (self,)

    def alternatives(self) -> Sequence[Self]:
        """Each variant at each share of the steps."""
        steps = sorted({max(1, round(share * self.steps)) for share in self.shares})
        return [replace(one, steps=number) for one in self.variants() for number in steps]

    @abstractmethod
    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> T:
        """Makes the networks and takes the steps."""

    @abstractmethod
    def outcome(self, trainer: T, data: TrainingTensors, seed: int) -> Parts:
        """Head and refiner of the trainer's present networks."""

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train all networks once for each variant, and make a recognizer of each snapshot.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        scaler, data = job.prepare(self.config)
        precision = Precision.of(self.config.precision, job.device)
        for whole, group in itertools.groupby(
            self.among(job), lambda one: replace(one, steps=self.steps)
        ):
            among = list(group)
            trainer = whole.trainer(data, precision, job.seed)
            kept = job.series(whole, [one.steps for one in among], trainer.kept())
            train(self.stage, trainer, max(one.steps for one in among), job.callbacks, kept)
            for one in among:
                trainer.load_outcome(kept.states[one.steps])
                yield one, job.recognizer(scaler, *one.outcome(trainer, data, job.seed))
            del trainer, kept  # the next training needs the memory
