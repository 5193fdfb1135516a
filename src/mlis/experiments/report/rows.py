"""From the rows of a store to series: one method at one setting, a row a seed."""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.config import Config, hash_of
from mlis.errors import DataError, SettingsError
from mlis.evaluation import summarise
from mlis.experiments.store import Row, Store

MEASURES = ("U", "S", "H")
_OF_ONE_RUN = ("seed", "dataset", "device", "config")  # of a task: what does not name its series


@dataclass(frozen=True, eq=False)
class Series:
    """The same run with several seeds.

    Attributes:
        rows: by seed, each once.
        config: all settings, as `Config.to_dict` gives them.
        config_sha256: of `config`.
        doubles: rows of an earlier day with a seed that is among `rows`, left out.
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


def read_rows(results: Path) -> list[Row]:
    """All rows of a results folder, checked as far as a report looks at them.

    Raises:
        DataError: there is none, or one is damaged (the message names it).
    """
    path = results / "results.jsonl"
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
                f"{path}, row {row.key[:16]}: {problem}: remove that line, and its run is done "
                "again"
            )
    return rows


def _fault(row: Row) -> str:
    """What a row lacks that every run writes; empty where it is whole."""
    kinds = {"name": str, "method": str, "seed": int, "config": Mapping, "dataset": Mapping}
    for name, kind in kinds.items():
        if not isinstance(row.task.get(name), kind):
            return f"task.{name} is {row.task.get(name)!r}"
    for name in MEASURES:
        value = row.test.get(name, "")
        if not (value is None or (isinstance(value, (int, float)) and 0 <= value <= 100)):
            return f"test.{name} is {value!r}, which is not in per cent"
    if not all(_is_class(one) for one in row.test.get("per_class", ())):
        return "test.per_class is not a list of classes"
    if not isinstance(row.provenance.get("versions", {}), Mapping):
        return "provenance.versions is no object"
    try:
        _settings(json.dumps(row.task["config"], sort_keys=True))
    except SettingsError as error:
        return f"task.config is of another version ({error})"
    return ""


def _is_class(one: Any) -> bool:
    return type(one) is dict and {"name", "seen", "images", "accuracy"} <= one.keys()


@functools.lru_cache(maxsize=4096)
def _settings(text: str) -> tuple[Mapping[str, Any], str]:
    config = Config.from_dict(json.loads(text))
    return config.to_dict(), config.sha256


def settings_of(row: Row) -> tuple[Mapping[str, Any], str]:
    """All settings of a row, and their hash."""
    return _settings(json.dumps(row.task["config"], sort_keys=True))


def series_of(rows: Iterable[Row]) -> list[Series]:
    """Put rows together that differ in their seed alone, in the order of the store.

    Of several rows of one seed (another version of the training code) the last one counts.
    """
    found: dict[str, dict[int, Row]] = {}
    doubles: dict[str, int] = {}
    for row in rows:
        name = _identity(row)
        seeds = found.setdefault(name, {})
        doubles[name] = doubles.get(name, 0) + (row.task["seed"] in seeds)
        seeds[row.task["seed"]] = row
    return [
        Series(tuple(seeds[seed] for seed in sorted(seeds)), *settings, doubles[name])
        for name, seeds in found.items()
        for settings in [settings_of(next(iter(seeds.values())))]
    ]


def _identity(row: Row) -> str:
    task = {name: value for name, value in row.task.items() if name not in _OF_ONE_RUN}
    products = row.provenance.get("product_dtype", "")
    return hash_of([row.protocol, task, settings_of(row)[1], products])
