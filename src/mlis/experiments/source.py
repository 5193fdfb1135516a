"""A dataset of an experiment, or the reason that it cannot be loaded."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlis.config import Config, resolve
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.errors import DataError
from mlis.experiments.store import is_stand_in

FIVE = ("CUB", "AWA2", "SUN", "FLO", "aPY")


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset that was asked for.

    Attributes:
        name: as it was asked for, a benchmark in its usual spelling.
        arguments: of :func:`mlis.data.load_dataset`.
        config: settings for it.
        dataset: None where it cannot be loaded.
        problem: why, and what to do.
    """

    name: str
    arguments: Mapping[str, Any]
    config: Config
    dataset: GZSLDataset | None
    problem: str = ""

    @classmethod
    def load(cls, name: str, arguments: Mapping[str, Any], *layers: Mapping[str, Any]) -> "Source":
        """Load a dataset, or say why not; settings are the defaults and these layers.

        The calibration constant is chosen on validation classes, for every method alike.
        """
        config = resolve(*layers, {"classification": {"calibration": "validation"}})
        try:
            return cls(name, arguments, config, load_dataset(**arguments))
        except DataError as error:
            return cls(name, arguments, config, None, str(error))

    @functools.cached_property
    def training(self) -> TrainingSplit:
        """The training rows of a dataset that is there."""
        assert self.dataset is not None
        return self.dataset.for_training()

    @property
    def stand_in(self) -> bool:
        """Whether its features are made up."""
        return self.dataset is not None and is_stand_in(self.dataset.provenance.notes)

    @property
    def label(self) -> str:
        """Its name, and what it is not."""
        return f"{self.name} (stand-in)" if self.stand_in else self.name

    @property
    def shared_space(self) -> bool:
        """Whether features and descriptors could be compared by cosine."""
        data = self.dataset
        return data is not None and data.features.shape[1] == data.descriptors.shape[1]
