"""What the tests of experiments share: a small dataset on disk and tasks that take a moment."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.data.io.folder import save_dataset
from mlis.experiments.budget import QUICK_OPTIONS, Budget
from mlis.experiments.source import Source
from mlis.experiments.store import Row
from mlis.experiments.tasks import Task
from mlis.training.callbacks import Callback
from simulated import small, tiny


def saved(folder: Path, data: GZSLDataset | None = None, **provenance: Any) -> Path:
    """Save a dataset, by default the tiny one, to a folder."""
    data = data or tiny()
    save_dataset(replace(data, provenance=replace(data.provenance, **provenance)), folder)
    return folder


def config(**sections: Any) -> Config:
    """Settings of a moment, calibrated on validation classes."""
    return small(**{"classification": {"calibration": "validation"}, **sections})


def task(folder: Path, method: str = "mlis", settings: Config | None = None, **changes) -> Task:
    data = changes.pop("data", None) or tiny()
    values: dict[str, Any] = {
        "name": "tiny",
        "dataset": {"name_or_path": str(folder)},
        "data_sha256": data.sha256,
        "method": method,
        "config": settings or config(),
        "seed": 1,
        "device": "cpu",
        "options": QUICK_OPTIONS.get(method, {}),
    }
    return Task(**{**values, **changes})


def source(folder: Path, settings: Mapping[str, Any] | None = None) -> Source:
    return Source.load("tiny", {"name_or_path": str(folder)}, settings or small().to_dict())


def brief(*seeds: int, name: str = "paper") -> Budget:
    return Budget(name, seeds or (0,), "cpu")


def numbers(row: Row | None) -> list[Any]:
    """All that a run found, and nothing of when and how fast."""
    assert row is not None
    return [row.key, row.protocol, row.test, row.validation, row.calibration, row.chosen]


class Heard(Callback):
    """Remembers which stages took how many steps, under which titles; stops one if told to."""

    def __init__(self, stop: tuple[str, str, int] | None = None):
        self.steps: dict[str, dict[str, int]] = {}
        self._stop = stop
        self._title = ""

    def __call__(self, title: str) -> Callback:
        heard = Heard(self._stop)
        heard._title, heard.steps = title, self.steps
        return heard

    def on_start(self, stage: str, step: int, total: int) -> None:
        self.steps.setdefault(self._title, {})[stage] = total - step

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        if self._stop and (self._title, stage) == self._stop[:2] and step >= self._stop[2]:
            raise KeyboardInterrupt


def row(key: str = "a1", H: float = 50.0, **changes) -> Row:
    values = {
        "key": key,
        "protocol": "H@val",
        "task": {"name": "x", "seed": 0},
        "test": {"U": 40.0, "S": 60.0, "H": H},
        "validation": None,
        "calibration": 0.5,
        "chosen": {},
        "cost": {"seconds": 1.5},
        "provenance": {"notes": []},
        "finished": "2020-01-01T00:00:00+00:00",
    }
    return Row(**{**values, **changes})
