"""The cost of a list of tasks: which are done, what they share, how long the rest will take."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.data.dataset import TrainingSplit
from mlis.experiments.engine import work_of
from mlis.experiments.plans import Entry
from mlis.experiments.source import Source
from mlis.experiments.store import Row, Store
from mlis.experiments.tasks import Task
from mlis.generators.registry import CLOSED_FORM
from mlis.methods.registry import METHODS
from mlis.provenance import generation_key
from mlis.training.generator_cache import STAGE, generator_folder

DONE, BEGUN, TO_DO = "done", "begun", "to do"


@dataclass(frozen=True)
class Prospect:
    """One task.

    Attributes:
        task: what is to be run.
        title: as the first experiment that asks for it calls it.
        state: done (in the store), begun (snapshots are there) or to do.
        reuses: which stages it takes from elsewhere, in words; may be empty.
        seconds: mean of comparable rows; None where there are none, 0 when done.
    """

    task: Task
    title: str
    state: str
    reuses: str
    seconds: float | None


def outlook(entries: Sequence[Entry], store: Store, results: Path) -> list[Prospect]:
    """One prospect a task, in the order of the entries, none twice."""
    rows = tuple(store)
    asked: dict[str, tuple[Task, Entry]] = {}
    for entry in entries:
        for task in entry.tasks:
            asked.setdefault(task.key, (task, entry))
    shared = _Shared()
    found = []
    for task, entry in asked.values():
        title = entry.title(task)
        if store.get(task.key) is not None:
            found.append(Prospect(task, title, DONE, "", 0.0))
            continue
        begun = (work_of(results, task) / "training").exists() and task.stem not in shared.stems
        reuses = _reuses(task, entry.source, shared)
        state = BEGUN if begun else TO_DO
        found.append(Prospect(task, title, state, reuses, estimate(task, rows)))
    return found


class _Shared:
    """What the tasks before in the list have trained by then."""

    def __init__(self) -> None:
        self.stems: set[str] = set()
        self.generators: set[str] = set()
        self._splits: dict[str, TrainingSplit] = {}

    def split(self, source: Source) -> TrainingSplit:
        """Training rows of a dataset, made once."""
        assert source.dataset is not None  # else it has no tasks
        if source.name not in self._splits:
            self._splits[source.name] = source.dataset.for_training()
        return self._splits[source.name]


def _reuses(task: Task, source: Source, shared: _Shared) -> str:
    """Which stages are there, or will be when it is this task's turn."""
    said = []
    if task.stem in shared.stems:
        said.append("encoder of a run before it")
    shared.stems.add(task.stem)
    config = task.config
    stored = config.generation.generator not in CLOSED_FORM
    sequential = config.refinement.schedule == "sequential"
    if stored and sequential and METHODS[task.method].uses_generator:
        key = generation_key(shared.split(source), config, task.seed, task.device)
        if (generator_folder(key) / f"{STAGE}.safetensors").exists():
            said.append("generator in the cache")
        elif key in shared.generators:
            said.append("generator of a run before it")
        shared.generators.add(key)
    return ", ".join(said)


def estimate(task: Task, rows: Iterable[Row]) -> float | None:
    """Mean seconds of rows like this task: best of the same settings, else of as many steps."""
    levels: dict[int, list[float]] = {}
    for row in rows:
        other = Task.from_dict(row.task)
        if (other.kind, other.protocol, _size(other)) != (task.kind, task.protocol, _size(task)):
            continue
        same_data = other.data_sha256 == task.data_sha256
        level = 2 if not same_data else 0 if other.config == task.config else 1
        levels.setdefault(level, []).append(float(row.cost["seconds"]))
    return statistics.fmean(levels[min(levels)]) if levels else None


def _size(task: Task) -> list[Any]:
    """Steps and sizes, on which the time depends most."""
    generation, refinement = task.config.generation, task.config.refinement
    sizes = [generation.generator, generation.steps, generation.hidden, dict(task.options)]
    return [*sizes, refinement.steps, refinement.hidden]
