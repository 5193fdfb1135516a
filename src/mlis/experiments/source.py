"""A dataset of an experiment, or the reason that it cannot be loaded."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlis.config import Config, resolve
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.data.io.benchmarks import split_files
from mlis.errors import DataError
from mlis.experiments.inputs import kind_of
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
        descriptors: their kind, where the benchmark's folder has several; else empty.
    """

    name: str
    arguments: Mapping[str, Any]
    config: Config
    dataset: GZSLDataset | None
    problem: str = ""
    descriptors: str = ""

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
        """Name in tables, with the kind of descriptors and "(stand-in)" where they apply."""
        name = f"{self.name}, {self.descriptors}" if self.descriptors else self.name
        return f"{name} (stand-in)" if self.stand_in else name

    def each_descriptor(self) -> "list[Source]":
        """This source, and the same features with the other descriptors in a benchmark's folder.

        Systems of table 2 were published with CUB's attributes or with sentences: H of the same
        system differs by 8 to 14 points.
        """
        if self.dataset is None or "data_root" not in self.arguments:
            return [self]
        _, *others = split_files(self.name, self.arguments["data_root"])
        if not others:
            return [self]
        first = replace(self, descriptors=kind_of(self.dataset))
        return [first, *(self._with(file, self.dataset) for file in others)]

    def _with(self, split_file: str, own: GZSLDataset) -> "Source":
        """With another file's descriptors; noise as long as descriptors is as long as these."""
        arguments = {**self.arguments, "split_file": split_file}
        found = Source.load(self.name, arguments, self.config.to_dict())
        if found.dataset is None:
            return replace(found, descriptors=split_file)
        config, size = found.config, found.dataset.descriptors.shape[1]
        if config.generation.noise == own.descriptors.shape[1]:
            config = config.replace({"generation": {"noise": size}})
        return replace(found, config=config, descriptors=kind_of(found.dataset))

    @property
    def shared_space(self) -> bool:
        """Whether features and descriptors could be compared by cosine."""
        data = self.dataset
        return data is not None and data.features.shape[1] == data.descriptors.shape[1]
