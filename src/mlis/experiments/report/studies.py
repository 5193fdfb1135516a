"""Which line of which table each series is: found from its settings, without plan or dataset.

A study is one dataset with one base of settings. Tables and figures vary few of them (`SWEPT`), so
series that agree in all others are of one study, and the base is the values from which most of its
series are one variation away.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlis.config import hash_of
from mlis.experiments.budget import within_quick
from mlis.experiments.plans import BASELINES, COMPONENTS, LABELS, LOSSES, SWEEPS
from mlis.experiments.report.rows import Series
from mlis.experiments.store import PROTOCOLS, STAND_IN, Row
from mlis.experiments.tasks import METHOD

SWEPT = (
    ("refinement", "components"),
    ("refinement", "loss"),
    *((section, name) for sweeps in SWEEPS.values() for _, section, name, _ in sweeps),
)
QUICK = "quick budget"
Values = tuple[Any, ...]  # of SWEPT


class Place(NamedTuple):
    """A series in a table or figure: its label there, and where on the curve."""

    label: str
    x: float | None
    series: Series


@dataclass(frozen=True, eq=False)
class Study:
    """A dataset with one base of settings.

    Attributes:
        name: of the dataset.
        label: with everything that must be known of its numbers: "FLO (stand-in) [quick budget]".
        series: all of them, any protocol.
        base: values of `SWEPT` that tables and figures vary.
        settings: all settings of the base.
    """

    name: str
    label: str
    series: tuple[Series, ...]
    base: Values
    settings: Mapping[str, Any]

    @property
    def data_sha256(self) -> str:
        """Of the dataset."""
        return self.series[0].first.task["data_sha256"]

    @property
    def quick(self) -> bool:
        """Whether its figures mean nothing."""
        return within_quick(self.settings)

    @property
    def budget(self) -> str:
        """As `reproduce` calls it."""
        return "quick" if self.quick else "paper"

    @property
    def rows(self) -> list[Row]:
        """Of all series."""
        return [row for one in self.series for row in one.rows]

    @property
    def seeds(self) -> list[int]:
        """Of all series."""
        return sorted({seed for one in self.series for seed in one.seeds})

    @functools.cached_property
    def main(self) -> Series:
        """The series that is looked at closely: MLIS at the base if it was run."""
        ours = [place.series for place in self.places("table2") if place.label == "MLIS"]
        return (ours or sorted(self.series, key=lambda one: one.method != METHOD))[0]

    @property
    def main_label(self) -> str:
        """What tables call `main`."""
        names = ("table2", "table3", "table4")
        found = [p.label for name in names for p in self.places(name) if p.series is self.main]
        return found[0] if found else f"MLIS, {self.main.config['refinement']['components']}"

    def places(self, experiment: str) -> list[Place]:
        """What the study has of a table or figure, in its order; H@val before test-best."""
        found = [place for one in self.series for place in _places(experiment, one, self.base)]
        order = {label: i for i, label in enumerate(_ORDER[experiment])}
        return sorted(
            found,
            key=lambda p: (order[p.label], PROTOCOLS.index(p.series.protocol), p.x or 0.0),
        )

    @functools.cached_property
    def others(self) -> list[Series]:
        """Series that are in no table and no figure."""
        placed = {id(place.series) for name in _ORDER for place in self.places(name)}
        return [one for one in self.series if id(one) not in placed]

    def differences(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings in which a configuration differs from the base: name → base's value, its own."""
        return differences(self.settings, config)


_ORDER: Mapping[str, tuple[str, ...]] = {
    "table2": (*(LABELS[name] for name in BASELINES), "MLIS"),
    "table3": tuple(COMPONENTS),
    "table4": tuple(loss + suffix for loss in LOSSES for suffix in ("", "+IS")),
    **{name: tuple(label for label, *_ in sweeps) for name, sweeps in SWEEPS.items()},
}


def _places(experiment: str, one: Series, base: Values) -> list[Place]:
    values = swept(one.config)
    if one.method != METHOD:
        return [Place(LABELS[one.method], None, one)] if experiment == "table2" else []
    components, loss = values[:2]
    other = {i for i, pair in enumerate(zip(values, base, strict=True)) if pair[0] != pair[1]}
    if experiment == "table2":
        return [] if other else [Place("MLIS", None, one)]
    if experiment == "table3":
        labels = [label for label, name in COMPONENTS.items() if name == components]
        return [Place(label, None, one) for label in labels if other <= {0}]
    if experiment == "table4":
        suffix = {"ml": "", "ml+is": "+IS"}.get(components)
        labels = [label for label, name in LOSSES.items() if name == loss]
        fits = suffix is not None and other <= {0, 1}
        return [Place(f"{label}{suffix}", None, one) for label in labels if fits]
    return [
        Place(label, float(values[at]), one)
        for label, section, name, points in SWEEPS[experiment]
        for at in [SWEPT.index((section, name))]
        if other == {at} or (not other and values[at] in points)
    ]


def swept(config: Mapping[str, Any]) -> Values:
    """The values of `SWEPT`."""
    return tuple(config[section][name] for section, name in SWEPT)


def differences(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ: "section.name" → both values."""
    pairs = {
        f"{section}.{name}": (value, config[section][name])
        for section, settings in base.items()
        if isinstance(settings, Mapping)
        for name, value in settings.items()
    }
    pairs["precision"] = (base["precision"], config["precision"])
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def studies_of(series: Sequence[Series]) -> list[Study]:
    """Series put into studies, in the order of the store."""
    families: dict[tuple[str, str], dict[str, list[Series]]] = {}
    for one in series:
        data = (one.first.task["name"], one.first.task["data_sha256"])
        families.setdefault(data, {}).setdefault(_family(one.config), []).append(one)
    names = [name for name, _ in families]
    return [
        _study(name, sha256 if names.count(name) > 1 else "", number, members)
        for (name, sha256), groups in families.items()
        for number, members in enumerate(groups.values(), 1)
    ]


def _family(config: Mapping[str, Any]) -> str:
    rest = {
        section: {k: v for k, v in settings.items() if (section, k) not in SWEPT}
        for section, settings in config.items()
        if isinstance(settings, Mapping)
    }
    return hash_of([rest, config["precision"]])


def _study(name: str, sha256: str, number: int, members: Sequence[Series]) -> Study:
    base = _base(dict.fromkeys(swept(one.config) for one in members))
    first = members[0].config
    settings = {**first}
    for (section, setting), value in zip(SWEPT, base, strict=True):
        settings[section] = {**settings[section], setting: value}
    label = name + (f", data {sha256[:8]}" if sha256 else "")
    label += f" ({STAND_IN})" if any(row.stand_in for row in members[0].rows) else ""
    label += f", settings {number}" if number > 1 else ""
    label += f" [{QUICK}]" if within_quick(settings) else ""
    return Study(name, label, tuple(members), base, settings)


def _base(found: Mapping[Values, None]) -> Values:
    """The values from which most others are one variation away; baselines are run at them."""
    usual = tuple(Counter(values).most_common(1)[0][0] for values in zip(*found, strict=True))
    candidates = dict.fromkeys((*found, usual))
    candidates |= dict.fromkeys(("ml+is+sfr", *one[1:]) for one in found)
    candidates |= dict.fromkeys(
        (components, "circle", *rest) for components, _, *rest in candidates
    )

    def merit(base: Values) -> tuple[int, bool, bool, bool]:
        near = sum(_is_near(one, base) for one in found)
        return near, base in found, base[0] == "ml+is+sfr", base[1] == "circle"

    return max(candidates, key=merit)


def _is_near(values: Values, base: Values) -> bool:
    other = {i for i, pair in enumerate(zip(values, base, strict=True)) if pair[0] != pair[1]}
    in_table4 = values[0] in ("ml", "ml+is") and values[1] in LOSSES.values()
    return len(other) <= 1 or (other <= {0, 1} and in_table4)
