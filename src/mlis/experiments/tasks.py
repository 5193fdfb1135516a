"""One run, named by everything that its numbers depend on; :mod:`.running` does it."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlis.config import Classification, Config, hash_of
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError, SettingsError
from mlis.experiments.store import PROTOCOLS
from mlis.experiments.testbest import POINTS
from mlis.methods.registry import DEFAULT, METHODS, build_method, check_name
from mlis.provenance import (
    GENERATION_VERSION,
    PROTOCOL,
    REFINEMENT_VERSION,
    arithmetic_key,
    loss_identity,
)

METHOD = DEFAULT
BASELINES = tuple(name for name in METHODS if name != METHOD)
USUAL = ("cosine", "prototype", "eszsl", "gaussian", "ridge", "raw", "cegzsl", METHOD, "auto")
"""Methods that are compared unless others are asked for: the rest takes hours to days on a CPU."""


@dataclass(frozen=True)
class Task:
    """One method on one dataset with one seed.

    Attributes:
        name: of the dataset, for people.
        dataset: keyword arguments of :func:`mlis.data.load_dataset`: where it is.
        data_sha256: what it must be.
        method: one of :data:`mlis.methods.registry.METHODS`.
        config: all settings; a method uses some of them.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        options: the method's own settings.
        protocol: H@val, or what is measured beside it (:mod:`mlis.experiments.testbest`).
    """

    name: str
    dataset: Mapping[str, Any]
    data_sha256: str
    method: str
    config: Config
    seed: int
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = PROTOCOL

    def __post_init__(self) -> None:
        check_name(self.method)
        if self.protocol not in PROTOCOLS:
            known = " or ".join(PROTOCOLS)
            raise SettingsError(f"unknown protocol {self.protocol!r}: expected {known}")

    @functools.cached_property
    def key(self) -> str:
        """Hash of all that the numbers depend on: not of where data lie, nor of versions."""
        tried = [] if self.protocol == PROTOCOL else [POINTS if self.has_components else "all"]
        return hash_of(["row", self.protocol, *self._parts(self.config), *tried])

    @functools.cached_property
    def stem(self) -> str:
        """Hash of what stage 1 depends on; runs that share it differ in stage 2 alone.

        One that leaves encoders of many steps behind shares it with no other.
        """
        if not self.has_components or self.protocol != PROTOCOL:
            return self.key
        return hash_of(["stage 1", *self._parts(stage_one(self.config))])

    def _parts(self, config: Config) -> list[Any]:
        settings = {**config.to_dict(), "precision": arithmetic_key(config, self.device)}
        own = loss_identity(config, None) if self.has_components else None
        code = [GENERATION_VERSION, REFINEMENT_VERSION]
        # the method's defaults and what validation tries, too: they decide what is trained
        known = dataclasses.replace(config, precision="auto")  # it is in `settings`
        method = build_method(self.method, known, **self.options)
        tried = [one.settings for one in method.alternatives()]
        identity = [self.data_sha256, self.method, settings, method.options, own, self.seed, code]
        return identity + ([tried] if len(tried) > 1 else [])

    @property
    def has_components(self) -> bool:
        """Whether the method has components; then its stages share snapshots, and name the run."""
        return METHODS[self.method].has_components

    @property
    def title(self) -> str:
        """For progress and lists: "FLO, ml+is, seed 3"."""
        label = "" if self.protocol == PROTOCOL else f", {self.protocol}"
        return f"{self.name}, {self.kind}, seed {self.seed}{label}"

    @property
    def kind(self) -> str:
        """What is run, except settings that are numbers: runs of one kind take about as long."""
        if not self.has_components:
            return self.method
        refinement = self.config.refinement
        loss = "" if refinement.loss == "circle" else f", {refinement.loss}"
        return refinement.components + loss

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON, which `from_dict` takes."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """Read what `to_dict` gave.

        Raises:
            DataError: it is not that.
        """
        try:
            return cls(**{**values, "config": Config.from_dict(values["config"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"a result row without the task that made it: {error}") from None


def stage_one(config: Config) -> Config:
    """Settings with those of stage 2 set back, as far as stage 1 does not look at them."""
    kept = Classification(synthetic_per_seen=config.classification.synthetic_per_seen)
    return dataclasses.replace(config, classification=kept)


def load_data(task: Task) -> GZSLDataset:
    """The dataset from where the task says that it is.

    Raises:
        DataError: it is not there, or it is another one.
    """
    dataset = _loaded(json.dumps(dict(task.dataset), sort_keys=True))
    if dataset.sha256 != task.data_sha256:
        raise DataError(
            f"{task.name}: expected data with SHA-256 {task.data_sha256[:16]}…, but got "
            f"{dataset.sha256[:16]}…: another file, split or descriptors"
        )
    return dataset


@functools.lru_cache(maxsize=1)  # tasks of one dataset follow each other
def _loaded(arguments: str) -> GZSLDataset:
    try:
        return load_dataset(**json.loads(arguments))
    except TypeError as error:  # of a row that someone wrote
        raise DataError(f"unknown arguments of a dataset: {error}") from None
