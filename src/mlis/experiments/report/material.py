"""What a closer look needs beside the rows: losses, the model, the data, and pictures of them."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.errors import MlisError
from mlis.experiments.engine import record_of
from mlis.experiments.report.pictures import NO_PICTURES, Pictures, pictures_of
from mlis.experiments.report.studies import Study
from mlis.io.checkpoint import is_model, load_model
from mlis.model.recognizer import Recognizer

Loader = Callable[[Study], "Data"]
Losses = dict[str, dict[str, list[tuple[float, float]]]]  # "refinement: metric" → run → points
POINTS = 200  # of a loss curve


@dataclass(frozen=True, eq=False)
class Data:
    """The dataset of a study, or why there is none.

    Attributes:
        dataset: None where it is not there any more, is another one, or was not asked for.
        problem: why.
        pictures: of its rows, as far as they are known.
    """

    dataset: GZSLDataset | None
    problem: str = ""
    pictures: Pictures = NO_PICTURES


def no_data(study: Study) -> Data:
    """Read nothing but the results."""
    return Data(None, "the data were not to be read")


def load_data(study: Study, *, data_root: Path | None, images: Path | None) -> Data:
    """The dataset where the rows say that it is, checked against their hash.

    Args:
        study: whose data.
        data_root: folder of the benchmarks, if it has moved.
        images: folder that holds the photographs.
    """
    task = study.main.first.task
    arguments = dict(task["dataset"])
    if data_root is not None and "data_root" in arguments:
        arguments["data_root"] = str(data_root)
    try:
        dataset = _loaded(json.dumps(arguments, sort_keys=True))
    except (MlisError, OSError, TypeError) as error:
        return Data(None, f"its data cannot be read: {error}")
    if dataset.sha256 != task["data_sha256"]:
        return Data(
            None,
            f"the data are others now: SHA-256 {dataset.sha256[:16]}… instead of "
            f"{task['data_sha256'][:16]}…",
        )
    return Data(dataset, "", pictures_of(arguments, dataset, images))


@functools.lru_cache(maxsize=1)  # studies of one dataset follow each other
def _loaded(arguments: str) -> GZSLDataset:
    return load_dataset(**json.loads(arguments))


@dataclass(frozen=True, eq=False)
class Tested:
    """A saved model's answers on the test rows.

    Attributes:
        recognizer: of the lowest seed.
        rows: (n,) int64, rows of the dataset, as `for_testing` orders them.
        labels, predicted: (n,) int64.
    """

    recognizer: Recognizer
    rows: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray


def tested(results: Path, study: Study, dataset: GZSLDataset) -> Tested | str:
    """Let the saved model of a study's main series answer again; or why it cannot."""
    found = model_of(results, study)
    if isinstance(found, str):
        return found
    test = dataset.for_testing()
    if found.num_features != test.features.shape[1]:
        return f"the saved model takes {found.num_features} features, the data have others"
    rows = np.concatenate([dataset.split.test_seen, dataset.split.test_unseen])
    return Tested(found, rows, test.labels, found.predict(np.asarray(test.features)))


def model_of(results: Path, study: Study) -> Recognizer | str:
    """The saved model of the main series' lowest seed; or why there is none."""
    row = study.main.first
    folder = record_of(results, row.key) / "model"
    if not is_model(folder):
        return f"runs/{row.key[:16]}/model is not there (seed {row.task['seed']})"
    try:
        return load_model(folder)
    except (MlisError, OSError) as error:
        return f"the saved model cannot be read: {error}"


def losses_of(results: Path, study: Study) -> tuple[Losses, list[int]]:
    """Losses of the main series, and the seeds that have none; at most `POINTS` of each."""
    found: Losses = {}
    missing = []
    for row in study.main.rows:
        seed = row.task["seed"]
        files = sorted(record_of(results, row.key).glob("training/*.jsonl"))
        if not files:
            missing.append(seed)
        for path in files:
            for name, points in _read_losses(path).items():
                found.setdefault(f"{path.stem}: {name}", {})[f"seed {seed}"] = points
    return found, missing


def _read_losses(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Loss → (step, value); lines that are no such thing are passed over."""
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for text in _thinned(lines):
        try:
            values: Any = json.loads(text)
            step = float(values.pop("step"))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        for name, value in values.items():
            if name != "seconds" and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(name, []).append((step, float(value)))
    return found


def _thinned(lines: list[str]) -> list[str]:
    """At most `POINTS`, evenly, the last one always."""
    if len(lines) <= POINTS:
        return lines
    chosen = np.unique(np.linspace(0, len(lines) - 1, POINTS).round().astype(int))
    return [lines[i] for i in chosen]


def sizes(study: Study, dataset: GZSLDataset | None, model: Recognizer | str) -> Mapping[str, int]:
    """Lengths of features and descriptors and numbers of classes, as far as they are known."""
    classes = study.main.first.test.get("per_class", ())
    known: dict[str, int] = {}
    if classes:
        known |= {"classes": len(classes), "unseen": sum(not one["seen"] for one in classes)}
    if isinstance(model, Recognizer):
        known |= {"features": model.num_features, "descriptors": model.descriptors.shape[1]}
    if dataset is not None:
        known |= {"features": dataset.features.shape[1], "descriptors": len(dataset.descriptors[0])}
    return known
