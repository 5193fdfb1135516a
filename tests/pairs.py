"""A recognizer and its exemplar buffer, changed and saved together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlis.config import Config
from mlis.data.dataset import TrainingSplit
from mlis.incremental import ExemplarBuffer, add_classes, remove_classes, rename_classes
from mlis.io.checkpoint import load_exemplars, load_model, save_model
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit


class Pair(NamedTuple):
    recognizer: Recognizer
    exemplars: ExemplarBuffer | None

    def add(self, names: Any, descriptors: Any, **options: Any) -> "Pair":
        return Pair(*add_classes(*self, names, descriptors, **options))

    def remove(self, names: Any) -> "Pair":
        return Pair(*remove_classes(*self, names))

    def rename(self, names: Mapping[str, str]) -> "Pair":
        return self._replace(recognizer=rename_classes(self.recognizer, names))

    def save(self, folder: Path, record: Mapping[str, Any] | None = None) -> None:
        save_model(self.recognizer, folder, self.exemplars, record)

    def __getattr__(self, name: str) -> Any:  # of the recognizer: scores, class_names, …
        return getattr(self.recognizer, name)


def trained_pair(
    training: TrainingSplit, config: Config, *, exemplars: bool = True, **options: Any
) -> Pair:
    trained = fit(training, config, exemplars=exemplars, **options)
    return Pair(trained.recognizer, trained.exemplars)


def loaded_pair(folder: Path) -> Pair:
    return Pair(load_model(folder), load_exemplars(folder))
