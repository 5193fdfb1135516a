"""The cost of a list of tasks: which are done, what they share, how long the rest will take."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    stems, generators = set[str](), set[str]()  # what the tasks before in the list train
    found = []
    for task, entry in asked.values():
        title = entry.title(task)
        if store.get(task.key) is not None:
            found.append(Prospect(task, title, DONE, "", 0.0))
            continue
        begun = (work_of(results, task) / "training").exists() and task.stem not in stems
        reuses = ["encoder of a run before it"] if task.stem in stems else []
        stems.add(task.stem)
        if key := _generator(task, entry.source):
            if (generator_folder(key) / f"{STAGE}.safetensors").exists():
                reuses.append("generator in the cache")
            elif key in generators:
                reuses.append("generator of a run before it")
            generators.add(key)
        state = BEGUN if begun else TO_DO
        found.append(Prospect(task, title, state, ", ".join(reuses), estimate(task, rows)))
    return found


def _generator(task: Task, source: Source) -> str | None:
    """Key of the generator in the user's cache folder, if the task has one there."""
    config = task.config
    stored = config.generation.generator not in CLOSED_FORM
    sequential = config.refinement.schedule == "sequential"
    if stored and sequential and METHODS[task.method].uses_generator:
        return generation_key(source.training, config, task.seed, task.device)
    return None


def estimate(task: Task, rows: Iterable[Row]) -> float | None:
    """Mean seconds of rows like this task: best of the same settings, else of as many steps."""
    levels: dict[int, list[float]] = {}
    for row in rows:
        if row.task["method"] not in METHODS:  # of another version
            continue
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
