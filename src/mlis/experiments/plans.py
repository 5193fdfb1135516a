"""What each table and figure of the paper asks for, as lists of tasks."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlis.experiments.budget import SAMPLES, Budget
from mlis.experiments.inputs import kind_of
from mlis.experiments.source import FIVE, Source
from mlis.experiments.tasks import BASELINES, METHOD, Task
from mlis.methods.registry import METHODS
from mlis.provenance import PROTOCOL

TABLES = ("table1", "table2", "table3", "table4")
FIGURES = ("figure3", "figure4")
NAMES = (*TABLES, *FIGURES)
PAPER_DATASETS = {name: ("CUB", "AWA2") if name in ("table4", *FIGURES) else FIVE for name in NAMES}

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


class Variant(NamedTuple):
    """A line of a table or a point of a curve: its label, where on the curve, changed settings."""

    label: str
    x: float | None
    changes: Mapping[str, Mapping[str, Any]]


def variants(name: str, points: int | None = None) -> list[Variant]:
    """What a table or figure varies of MLIS; of a curve the first `points`, or all."""
    parts = {"ML": "ml", "ML+IS": "ml+is", "ML+IS+SFR": "ml+is+sfr"}
    losses = ("circle", "contrastive", "multi-similarity")
    if name == "table3":
        return [Variant(k, None, {"refinement": {"components": v}}) for k, v in parts.items()]
    if name == "table4":
        return [
            Variant(loss + suffix, None, {"refinement": {"components": components, "loss": code}})
            for loss, code in ((one, one.replace("-", "_")) for one in losses)
            for suffix, components in (("", "ml"), ("+IS", "ml+is"))
        ]
    return [
        Variant(label, value, {section: {setting: value}})
        for label, section, setting, values in SWEEPS.get(name, ())
        for value in values[:points]
    ]


@dataclass(frozen=True, eq=False)
class Entry:
    """A line of a table, or a point of a curve: one task per seed.

    Attributes:
        source: the dataset.
        label: the method; of a curve the label of the axis.
        tasks: one per seed; none where the dataset is not there.
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

    >>> from mlis.config import Config
    >>> [entry.label for entry in plan("table3", [Source("CUB", {}, Config(), None)], Budget())]
    ['ML', 'ML+IS', 'ML+IS+SFR']
    """
    entries = [entry for source in sources for entry in _entries(name, source, budget)]
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
    kind = kind_of(source.dataset)
    own = dict(budget.options(method, (f"{source.name}, {kind}", source.name)))
    if SAMPLES in own:
        config = config.replace({"classification": {SAMPLES: own.pop(SAMPLES)}})
    return tuple(
        Task(
            name=source.name,
            dataset=source.arguments,
            data_sha256=source.dataset.sha256,
            method=method,
            config=config,
            seed=seed,
            device=budget.device,
            options=own,
        )
        for seed in budget.seeds
    )


def label_of(method: str, regions: int) -> str:
    """A method as it stands in a table of a dataset with so many regions per image."""
    return METHODS[method]().name_on(regions)


def _entries(name: str, source: Source, budget: Budget) -> Iterator[Entry]:
    if name == "table1":
        yield Entry(source, "statistics", ())
    for method in (*BASELINES, METHOD) if name == "table2" else ():
        usable = source.shared_space or not METHODS[method].needs_shared_space
        if usable and method in budget.methods:
            regions = 1 if source.dataset is None else source.dataset.provenance.regions
            yield Entry(source, label_of(method, regions), _tasks(source, budget, {}, method))
    for one in variants(name, QUICK_POINTS if budget.quick else None):
        yield Entry(source, one.label, _tasks(source, budget, one.changes), one.x)
