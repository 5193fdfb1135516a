"""From the rows of a store to series (the same run with several seeds) and studies.

A study is one dataset with one base of settings. Tables and figures vary few settings (`SWEPT`), so
series that agree in all others are of one study. Which line of which table a series is follows from
how its settings differ from the study's base.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlis.config import Config, flat_settings, hash_of
from mlis.errors import DataError, SettingsError
from mlis.evaluation import summarise
from mlis.experiments.budget import within_quick
from mlis.experiments.plans import BASELINES, FIGURES, SWEEPS, label_of, variants
from mlis.experiments.store import PROTOCOLS, STAND_IN, Row, Store
from mlis.experiments.tasks import METHOD
from mlis.methods.registry import METHODS

MEASURES = ("U", "S", "H")
QUICK = "quick budget"
COMPONENTS, LOSS = "refinement.components", "refinement.loss"
SWEPT = (
    *(COMPONENTS, LOSS),
    *(f"{section}.{name}" for sweeps in SWEEPS.values() for _, section, name, _ in sweeps),
)
_OF_ONE_RUN = ("seed", "dataset", "device", "config")  # of a task: what does not name its series


@dataclass(frozen=True, eq=False)
class Series:
    """The same run with several seeds.

    Attributes:
        rows: by seed, each once.
        config: all settings, as `Config.to_dict` gives them.
        config_sha256: of `config`.
        doubles: older rows with a seed that is among `rows`, left out.
    """

    rows: tuple[Row, ...]
    config: Mapping[str, Any]
    config_sha256: str
    doubles: int = 0

    @property
    def first(self) -> Row:
        """The row of the lowest seed, whose model and losses `mlis reproduce` keeps."""
        return self.rows[0]

    @property
    def method(self) -> str:
        """`mlis`, or a baseline's name."""
        return self.first.task["method"]

    @property
    def protocol(self) -> str:
        """The label that goes with the numbers."""
        return self.first.protocol

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the rows."""
        return tuple(row.task["seed"] for row in self.rows)

    @functools.cached_property
    def summary(self) -> Mapping[str, Any]:
        """Means and deviations over seeds."""
        return summarise([row.test for row in self.rows])


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
        settings: of the base.
    """

    name: str
    label: str
    series: tuple[Series, ...]
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
    def rows(self) -> list[Row]:
        """Of all series."""
        return [row for one in self.series for row in one.rows]

    @property
    def seeds(self) -> list[int]:
        """Of all series."""
        return sorted({seed for one in self.series for seed in one.seeds})

    @functools.cached_property
    def main(self) -> Series:
        """The series shown in detail: MLIS at the base if it was run."""
        ours = [place.series for place in self.places("table2") if place.label == "MLIS"]
        return (ours or sorted(self.series, key=lambda one: one.method != METHOD))[0]

    @functools.cached_property
    def main_label(self) -> str:
        """What tables call `main`."""
        names = ("table2", "table3", "table4")
        found = [p.label for name in names for p in self.places(name) if p.series is self.main]
        return found[0] if found else f"MLIS, {self.main.config['refinement']['components']}"

    def places(self, experiment: str) -> list[Place]:
        """What the study has of a table or figure, in its order; H@val before test-best."""
        found = [place for one in self.series for place in _places(experiment, one, self.settings)]
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
        """Settings in which a configuration differs: "section.name" → base's value, its own."""
        base, own = flat_settings(self.settings), flat_settings(config)
        return {name: (base[name], own[name]) for name in base if base[name] != own[name]}


# --- rows to series -------------------------------------------------------------------------------


def read_rows(results: Path) -> list[Row]:
    """All rows of a results folder, checked as far as a report uses them.

    Raises:
        DataError: there is none, or one is damaged (the message names it).
    """
    path = results / "results.jsonl"
    if (results / "run.json").is_file():
        raise DataError(
            f"{results}: expected what `mlis reproduce -o` writes, got a run of `mlis fit`. Its "
            f"page is written by `mlis evaluate {results} --html report.html`."
        )
    if not path.is_file():
        where = f"{results} has no results.jsonl" if results.is_dir() else f"no folder {results}"
        raise DataError(f"{where}: expected what `mlis reproduce … -o {results}` writes")
    try:
        rows = list(Store(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not rows:
        raise DataError(f"{path} holds no row yet: `mlis reproduce … -o {results}` fills it")
    for row in rows:
        if problem := _fault(row):
            raise DataError(
                f"{path}, row {row.key[:16]}: {problem}. Remove that line; the next `mlis "
                "reproduce` repeats its run."
            )
    return rows


def _fault(row: Row) -> str:
    """What a row lacks that every run writes; empty where it is whole."""
    kinds = {"name": str, "method": str, "seed": int, "config": Mapping, "dataset": Mapping}
    for name, kind in kinds.items():
        if not isinstance(row.task.get(name), kind):
            return f"task.{name} is {row.task.get(name)!r}"
    if row.task["method"] not in METHODS:
        return f"task.method is {row.task['method']!r}, which this version does not have"
    for name in MEASURES:
        value = row.test.get(name, "")
        if not (value is None or (isinstance(value, (int, float)) and 0 <= value <= 100)):
            return f"test.{name}: expected per cent, got {value!r}"
    needed = {"name", "seen", "images", "accuracy"}
    if not all(isinstance(c, dict) and needed <= c.keys() for c in row.test.get("per_class", ())):
        return "test.per_class is not a list of classes"
    if not isinstance(row.provenance.get("versions", {}), Mapping):
        return "provenance.versions is not an object"
    try:
        _settings_of(row)
    except SettingsError as error:
        return f"task.config is of another version ({error})"
    return ""


def _settings_of(row: Row) -> tuple[Mapping[str, Any], str]:
    """All settings of a row, and their hash."""
    return _settings(json.dumps(row.task["config"], sort_keys=True))


@functools.lru_cache(maxsize=4096)
def _settings(text: str) -> tuple[Mapping[str, Any], str]:
    config = Config.from_dict(json.loads(text))
    return config.to_dict(), config.sha256


def series_of(rows: Iterable[Row]) -> list[Series]:
    """Group rows that differ in their seed alone, in the order of the store.

    Of several rows of one seed (another version of the training code) the last one counts.
    """
    found: dict[str, dict[int, Row]] = {}
    doubles: Counter[str] = Counter()
    for row in rows:
        task = {name: value for name, value in row.task.items() if name not in _OF_ONE_RUN}
        products = row.provenance.get("product_dtype", "")
        name = hash_of([row.protocol, task, _settings_of(row)[1], products])
        seeds = found.setdefault(name, {})
        doubles[name] += row.task["seed"] in seeds
        seeds[row.task["seed"]] = row
    return [
        Series(
            tuple(seeds[seed] for seed in sorted(seeds)),
            *_settings_of(next(iter(seeds.values()))),
            doubles[name],
        )
        for name, seeds in found.items()
    ]


# --- series to studies ----------------------------------------------------------------------------

_ORDER: Mapping[str, tuple[str, ...]] = {
    "table2": (
        *dict.fromkeys(label_of(name, regions) for name in BASELINES for regions in (2, 1)),
        "MLIS",
    ),
    **{
        name: tuple(dict.fromkeys(one.label for one in variants(name)))
        for name in ("table3", "table4", *FIGURES)
    },
}


def _places(experiment: str, one: Series, base: Mapping[str, Any]) -> list[Place]:
    if one.method != METHOD:
        label = label_of(one.method, one.first.provenance.get("regions", 1))
        return [Place(label, None, one)] if experiment == "table2" else []
    found, usual = _swept(one.config), _swept(base)
    if experiment == "table2":
        return [Place("MLIS", None, one)] if found == usual else []
    return [
        Place(variant.label, variant.x, one)
        for variant in variants(experiment)
        if found == usual | flat_settings(variant.changes)
    ]


def _swept(config: Mapping[str, Any]) -> dict[str, Any]:
    flat = flat_settings(config)
    return {name: flat[name] for name in SWEPT}


def studies_of(series: Sequence[Series]) -> list[Study]:
    """Group series into studies, in the order of the store."""
    families: dict[tuple[str, str], dict[str, list[Series]]] = {}
    for one in series:
        fixed = {k: v for k, v in flat_settings(one.config).items() if k not in SWEPT}
        data = (one.first.task["name"], one.first.task["data_sha256"])
        families.setdefault(data, {}).setdefault(hash_of(fixed), []).append(one)
    names = [name for name, _ in families]
    return [
        _study(name, sha256 if names.count(name) > 1 else "", number, members)
        for (name, sha256), groups in families.items()
        for number, members in enumerate(groups.values(), 1)
    ]


def _study(name: str, sha256: str, number: int, members: Sequence[Series]) -> Study:
    settings = {**members[0].config}
    for name_of, value in _base([_swept(one.config) for one in members]).items():
        section, setting = name_of.split(".")
        settings[section] = {**settings[section], setting: value}
    label = name + (f", data {sha256[:8]}" if sha256 else "")
    label += f" ({STAND_IN})" if any(row.stand_in for row in members[0].rows) else ""
    label += f", settings {number}" if number > 1 else ""
    label += f" [{QUICK}]" if within_quick(settings) else ""
    return Study(name, label, tuple(members), settings)


def _base(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What figures and tables vary from: the paper's method, else the most frequent values."""
    base = _swept(Config().to_dict())
    for name, usual in base.items():
        count = Counter(one[name] for one in found)
        (value, most), *rest = count.most_common(2)
        tied = rest and rest[0][1] == most
        if name != COMPONENTS and not tied and not (name == LOSS and usual in count):
            base[name] = value
    return base
