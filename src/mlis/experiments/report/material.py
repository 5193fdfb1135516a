"""Loads what the details of a study need: the data, the saved model's answers, losses."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.dataset import GZSLDataset
from mlis.data.splits import sample_classes
from mlis.errors import DataError
from mlis.experiments.engine import record_of
from mlis.experiments.report.pictures import Pictures, pictures_of
from mlis.experiments.report.series import Study
from mlis.experiments.tasks import Task
from mlis.experiments.tasks import load_data as load_tasks_data
from mlis.experiments.tested import Tested
from mlis.explanation import Examples, Explanation, explain
from mlis.explanation.examples import COMPARED
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.io.checkpoint import is_model, load_model

Losses = dict[str, dict[str, list[tuple[float, float]]]]  # "refinement: metric" → run → points
POINTS = 200  # of a loss curve


@dataclass(frozen=True, eq=False)
class Data:
    """The dataset of a study, and pictures of its rows as far as they are known."""

    dataset: GZSLDataset
    pictures: Pictures


Loader = Callable[[Study], Data]  # raises DataError


def no_data(study: Study) -> Data:
    """Read nothing but the results."""
    raise DataError("the data were not to be read")


def load_data(study: Study, *, data_root: Path | None, images: Path | None) -> Data:
    """The dataset where the rows say that it is, checked against their hash.

    Args:
        study: whose data.
        data_root: folder of the benchmarks, if it has moved.
        images: folder that holds the photographs.

    Raises:
        DataError: it is not there any more, or is another one.
    """
    task = Task.from_dict(study.main.first.task)
    arguments = dict(task.dataset)
    if data_root is not None and "data_root" in arguments:
        arguments["data_root"] = str(data_root)
    dataset = load_tasks_data(dataclasses.replace(task, dataset=arguments))
    return Data(dataset, pictures_of(arguments, dataset, images))


@dataclass(frozen=True, eq=False)
class Answers(Tested):
    """A saved model's answers, and what illustrates them.

    Attributes:
        pictures: of the rows, as far as they are known.
        compared: training images, to explain a mistake with.
    """

    pictures: Pictures
    compared: Examples | ExemplarBuffer | None

    def rows_of(self, label: str, predicted: str = "") -> np.ndarray:
        """Test rows of a class, only those taken for another class if one is given."""
        index = {name: i for i, name in enumerate(self.recognizer.class_names)}
        hit = self.test.labels == index.get(label, -1)
        if predicted:
            hit &= self.predicted == index.get(predicted, -1)
        return np.flatnonzero(hit)

    def explained(self, rows: Sequence[int]) -> list[Explanation]:
        """Why the model answers what it does for some test rows, beside training images."""
        x = [np.asarray(self.test.features[row], dtype=np.float32) for row in rows]
        return explain(self.recognizer, np.stack(x), self.compared)


def tested(results: Path, study: Study, data: Data) -> Answers:
    """Let the saved model of the main series' lowest seed predict again.

    Raises:
        DataError: there is none, or it does not fit the data.
    """
    row = study.main.first
    folder = record_of(results, row.key) / "model"
    if not is_model(folder):
        where = f"runs/{row.key[:16]}/model"
        raise DataError(f"{where} is not there (seed {row.task['seed']})")
    model, test = load_model(folder), data.dataset.for_testing()
    if model.transductive:
        raise DataError("the saved model was adapted to unlabelled images: it is transductive")
    got = test.features.shape[1]
    if model.num_features != got:
        raise DataError(f"the saved model: expected {model.num_features} features, got {got}")
    pictures, compared = data.pictures.of(test_rows(data.dataset)), training_examples(data.dataset)
    return Answers(**vars(Tested.of(model, test)), pictures=pictures, compared=compared)


def test_rows(dataset: GZSLDataset) -> np.ndarray:
    """(n,) int64, rows of a dataset, as `for_testing` orders them."""
    return np.concatenate([dataset.split.test_seen, dataset.split.test_unseen])


def training_examples(dataset: GZSLDataset) -> Examples:
    """Training images to compare with; of more than `COMPARED` as many of each class."""
    rows = dataset.split.trainval
    if len(rows) > COMPARED:
        rows, _ = sample_classes(rows, dataset.labels, COMPARED)
    return Examples(np.asarray(dataset.features[rows]), dataset.labels[rows])


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
    """Loss → (step, value), evenly thinned; damaged lines are passed over."""
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    count = min(POINTS, len(lines))
    for i in np.linspace(0, len(lines) - 1, count).round().astype(int):
        try:
            values: Any = json.loads(lines[i])
            step = float(values.pop("step"))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        for name, value in values.items():
            if name != "seconds" and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(name, []).append((step, float(value)))
    return found
