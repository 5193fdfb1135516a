"""What settings are worth: H on classes that were held out of the training classes.

One split of a few classes is a noisy guide, so that there are several, drawn by seeds. H is at the
best calibration constant, which is legitimate here: these are validation classes, and the constant
is one of the settings that are chosen on them.
"""

import functools
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from mlis.config import Config
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.data.out_of_core.arrays import update_hash
from mlis.data.out_of_core.streaming import CHUNK_ROWS
from mlis.data.splits import add_validation
from mlis.errors import DataError
from mlis.evaluation import evaluate
from mlis.pipeline import fit
from mlis.provenance import training_key
from mlis.storage.atomic import write_json
from mlis.training.callbacks import Callback
from mlis.training.generator_cache import STAGE as GENERATION


@dataclass(frozen=True)
class Measured:
    """What one class split found, means over seeds.

    Attributes:
        H, T1, AUSUC: per cent, on the held-out classes; H at the best calibration constant.
        seconds: wall time of a training without its generator.
    """

    H: float
    T1: float
    AUSUC: float
    seconds: float


def training_sha256(dataset: GZSLDataset) -> str:
    """Hash of the training rows and their classes: of all that a search is handed.

    Test rows, and descriptors of classes that have no training rows, do not enter.
    """
    rows, seen = dataset.split.trainval, dataset.seen_classes
    hasher = hashlib.sha256(b"mlis training rows 1:")
    hasher.update(json.dumps([dataset.class_names[i] for i in seen]).encode())
    for array in (dataset.labels[rows], dataset.descriptors[seen], rows):
        update_hash(hasher, "part", array)
    for start in range(0, len(rows), CHUNK_ROWS):
        update_hash(hasher, "features", dataset.features[rows[start : start + CHUNK_ROWS]])
    return hasher.hexdigest()


def class_splits(dataset: GZSLDataset, count: int) -> list[GZSLDataset]:
    """The dataset's own validation split (`count` 0), or `count` others of its training classes.

    They are drawn by seeds 1, 2, …; the parts of `for_validation` alone are to be used.

    Raises:
        DataError: there are too few classes.
    """
    splits = [dataset]
    if count:
        drawn = [add_validation(dataset.split, dataset.labels, seed=s + 1) for s in range(count)]
        splits = [replace(dataset, split=split) for split, _ in drawn]
    splits[0].for_validation()  # says so where there are too few classes
    return splits


@dataclass(frozen=True)
class Bench:
    """Where settings are measured; plain values, so that it goes to another process.

    Attributes:
        dataset: arguments of :func:`mlis.data.load_dataset`.
        training: hash of the training rows (:func:`training_sha256`).
        splits: how many class splits; 0: the dataset's own.
        seeds: of trainings.
        device: "auto", "cpu", "cuda", …
        folder: of what was measured before.
    """

    dataset: Mapping[str, Any]
    training: str
    splits: int
    seeds: tuple[int, ...]
    device: str
    folder: Path

    @property
    def rounds(self) -> int:
        """How many class splits there are to measure."""
        return self.splits or 1

    def identity(self) -> dict[str, Any]:
        """What numbers depend on."""
        return {
            "training_sha256": self.training,
            "class_splits": self.splits,
            "seeds": list(self.seeds),
        }


def measure(bench: Bench, config: Config, index: int) -> Measured:
    """Train on class split `index`, once a seed, and measure on its held-out classes.

    Raises:
        DataError: the data are gone, or others.
        DivergenceError: a training diverged.
        SettingsError: settings that do not suit these data.
    """
    sha256, splits = _splits(json.dumps(dict(bench.dataset), sort_keys=True), bench.splits)
    if sha256 != bench.training:
        raise DataError("the training rows are not those that this search began with")
    found = [_measure(bench, splits[index], config, seed) for seed in bench.seeds]
    names = [field.name for field in fields(Measured)]
    return Measured(**{name: statistics.fmean(one[name] for one in found) for name in names})


@functools.lru_cache(maxsize=1)
def _splits(arguments: str, count: int) -> tuple[str, Sequence[GZSLDataset]]:
    dataset = load_dataset(**json.loads(arguments))
    return training_sha256(dataset), class_splits(dataset, count)


def _measure(bench: Bench, data: GZSLDataset, config: Config, seed: int) -> dict[str, float]:
    """Of one seed, from its file if it was measured before."""
    training, held_out = data.for_validation()
    path = bench.folder / f"{training_key(training, config, seed, bench.device)[:32]}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    clock = _Clock()
    where = {"seed": seed, "device": bench.device, "callbacks": [clock]}
    trained = fit(training, config, **where, reuse=True, growable=False)
    seconds = perf_counter() - clock.began
    scores = trained.recognizer.scores(held_out.features)
    found = evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
    row = {"H": found.best_H, "T1": found.T1, "AUSUC": found.AUSUC, "seconds": round(seconds, 3)}
    known = {name: float(value) for name, value in row.items() if value is not None}
    if known.keys() != row.keys():
        raise DataError(f"nothing to measure on the held-out classes: {'; '.join(found.notes)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, known)
    return known


class _Clock(Callback):
    """Notes when the generator was available, whether trained here or not."""

    def __init__(self) -> None:
        self.began = perf_counter()

    def on_end(self, stage: str) -> None:
        if stage == GENERATION:
            self.began = perf_counter()
