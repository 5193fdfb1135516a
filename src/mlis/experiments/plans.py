"""What each table and figure of the paper asks for, as lists of tasks."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlis.config import Config, resolve
from mlis.data import load_dataset
from mlis.data.benchmarks import TABLE_1, Counts
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError
from mlis.experiments.store import is_stand_in
from mlis.experiments.tasks import BASELINES, METHOD, Task
from mlis.provenance import PROTOCOL

TABLES = ("table1", "table2", "table3", "table4")
FIGURES = ("figure3", "figure4")
NAMES = (*TABLES, *FIGURES)
FIVE = ("CUB", "AWA2", "SUN", "FLO", "aPY")
PAPER_DATASETS = {name: ("CUB", "AWA2") if name in ("table4", *FIGURES) else FIVE for name in NAMES}

COMPONENTS = {"ML": "ml", "ML+IS": "ml+is", "ML+IS+SFR": "ml+is+sfr"}
LOSSES = {
    "circle": "circle",
    "contrastive": "contrastive",
    "multi-similarity": "multi_similarity",
}
# what is swept: label of the axis, section and setting, values
SWEEPS: dict[str, tuple[tuple[str, str, str, tuple[float, ...]], ...]] = {
    "figure3": (
        (
            *("synthetic samples per unseen class, stage 1", "refinement", "synthetic_per_unseen"),
            (0, 1, 2, 5, 10, 20, 50),
        ),
        (
            "synthetic samples per unseen class, stage 2",
            "classification",
            "synthetic_per_unseen",
            (10, 30, 100, 300, 1000, 3000),
        ),
    ),
    "figure4": (
        ("relaxation factor m", "refinement", "margin", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("scale factor γ", "refinement", "gamma", (16.0, 32.0, 64.0, 128.0, 256.0, 512.0)),
    ),
}
QUICK_POINTS = 3  # of a sweep, with the quick budget

# upper limits of the quick budget: seconds a run, figures that mean nothing
QUICK: dict[str, dict[str, int]] = {
    "generation": {"steps": 10, "critic_steps": 2, "hidden": 64, "noise": 32, "batch_size": 32},
    "refinement": {"steps": 10, "hidden": 64, "classes_per_batch": 16, "samples_per_class": 4},
    "classification": {"synthetic_per_unseen": 10, "synthetic_per_seen": 10, "max_iterations": 50},
}
QUICK_OPTIONS: dict[str, dict[str, Any]] = {
    "cegzsl": {
        **{"steps": 10, "choices": [5, 10], "batch_size": 64},
        **{"embedding": 64, "projection": 32, "hidden": 64},
    }
}


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
    def counts(self) -> Counts | None:
        """Its sizes."""
        return None if self.dataset is None else Counts.of(self.dataset)

    @property
    def published_counts(self) -> Counts | None:
        """Those of the paper's Table 1."""
        return TABLE_1.get(self.name) if self.name in FIVE else None

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


@dataclass(frozen=True)
class Budget:
    """How much is spent.

    Attributes:
        name: "paper", settings as they are, or "quick", to see that everything runs.
        seeds: of each line of a table and each point of a curve.
        device: "auto", "cpu", "cuda", …
        protocols: H@val, and what is measured beside it.
    """

    name: str = "paper"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    device: str = "auto"
    protocols: tuple[str, ...] = (PROTOCOL,)

    @property
    def quick(self) -> bool:
        """Whether figures mean nothing."""
        return self.name == "quick"

    def limited(self, config: Config) -> Config:
        """Settings, cut down where the budget is quick."""
        if not self.quick:
            return config
        sections = config.to_dict()
        least = {
            section: {name: min(sections[section][name], most) for name, most in limits.items()}
            for section, limits in QUICK.items()
        }
        least["classification"]["tolerance"] = 0.01
        return config.replace(least)


def within_quick(config: Mapping[str, Any]) -> bool:
    """Whether settings (`Config.to_dict`) train no longer than the quick budget does.

    Rows do not say what was spent on them; stage 2 is left out, as figures sweep it.
    """
    return all(
        config[section][name] <= most
        for section in ("generation", "refinement")
        for name, most in QUICK[section].items()
    )


@dataclass(frozen=True, eq=False)
class Entry:
    """A line of a table, or a point of a curve: one task a seed.

    Attributes:
        source: the dataset.
        label: the method; of a curve the label of the axis.
        tasks: one a seed; none where the dataset is not there.
        x: where on the curve.
    """

    source: Source
    label: str
    tasks: tuple[Task, ...]
    x: float | None = None

    def title(self, task: Task) -> str:
        """A task of it for progress and lists: "FLO, relaxation factor m 0.25, seed 3"."""
        method = self.label if self.x is None else f"{self.label} {self.x:g}"
        label = "" if task.protocol == PROTOCOL else f", {task.protocol}"
        return f"{self.source.label}, {method}, seed {task.seed}{label}"

    def under(self, protocol: str) -> "Entry":
        """The same, measured under another protocol."""
        tasks = tuple(dataclasses.replace(task, protocol=protocol) for task in self.tasks)
        return dataclasses.replace(self, tasks=tasks)


def plan(name: str, sources: Sequence[Source], budget: Budget) -> list[Entry]:
    """Entries of one experiment, dataset by dataset; of each one a protocol, where it has tasks.

    >>> [entry.label for entry in plan("table3", [Source("CUB", {}, Config(), None)], Budget())]
    ['ML', 'ML+IS', 'ML+IS+SFR']
    """
    entries = [entry for source in sources for entry in _PLANS[name](source, budget)]
    return [
        entry.under(protocol)
        for entry in entries
        for protocol in (budget.protocols if entry.tasks else budget.protocols[:1])
    ]


def _tasks(
    source: Source, budget: Budget, changes: Mapping[str, Any], method: str = METHOD
) -> tuple[Task, ...]:
    if source.dataset is None:
        return ()
    config = budget.limited(source.config).replace(changes)
    options = QUICK_OPTIONS.get(method, {}) if budget.quick else {}
    return tuple(
        Task(
            name=source.name,
            dataset=source.arguments,
            data_sha256=source.dataset.sha256,
            method=method,
            config=config,
            seed=seed,
            device=budget.device,
            options=options,
        )
        for seed in budget.seeds
    )


def _table1(source: Source, budget: Budget) -> Iterator[Entry]:
    yield Entry(source, "statistics", ())


LABELS = {
    "cosine": "cosine of feature and descriptor",
    "prototype": "nearest ridge prototype",
    "eszsl": "ESZSL",
    "ridge": "raw softmax, ridge generator",
    "raw": "raw softmax (f-CLSWGAN)",
    "cegzsl": "CE-GZSL",
}


def _table2(source: Source, budget: Budget) -> Iterator[Entry]:
    for method in BASELINES:
        if method != "cosine" or source.shared_space:
            yield Entry(source, LABELS[method], _tasks(source, budget, {}, method))
    yield Entry(source, "MLIS", _tasks(source, budget, {}))


def _table3(source: Source, budget: Budget) -> Iterator[Entry]:
    for label, components in COMPONENTS.items():
        tasks = _tasks(source, budget, {"refinement": {"components": components}})
        yield Entry(source, label, tasks)


def _table4(source: Source, budget: Budget) -> Iterator[Entry]:
    for label, loss in LOSSES.items():
        for suffix, components in (("", "ml"), ("+IS", "ml+is")):
            changes = {"refinement": {"components": components, "loss": loss}}
            yield Entry(source, label + suffix, _tasks(source, budget, changes))


def _sweeps(name: str, source: Source, budget: Budget) -> Iterator[Entry]:
    for label, section, setting, values in SWEEPS[name]:
        for value in values[:QUICK_POINTS] if budget.quick else values:
            yield Entry(source, label, _tasks(source, budget, {section: {setting: value}}), value)


_PLANS: dict[str, Callable[[Source, Budget], Iterator[Entry]]] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table4": _table4,
    **{name: functools.partial(_sweeps, name) for name in FIGURES},
}
