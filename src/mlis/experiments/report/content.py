"""What the report shows of all studies: tables beside published figures, curves, origin."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlis.data.io.benchmarks import Counts
from mlis.experiments import figures, tables
from mlis.experiments.budget import REDUCED
from mlis.experiments.figures import Curve
from mlis.experiments.inputs import NAMES, inputs_of
from mlis.experiments.published import PROTOCOL as AS_PUBLISHED
from mlis.experiments.published import published
from mlis.experiments.report import charts
from mlis.experiments.report.series import MEASURES, QUICK, Place, Study
from mlis.experiments.source import FIVE
from mlis.experiments.store import PROTOCOLS, STAND_IN, Row
from mlis.experiments.tables import (
    MEASURED,
    Line,
    measured_line,
    published_lines,
)
from mlis.experiments.tasks import METHOD

TITLES = {**tables.TITLES, "others": "Other settings"}
TABLES = ("table2", "table3", "table4")
FIGURES = ("figure3", "figure4")
REDUCED_SIZE = "reduced size"
LABELS = (*PROTOCOLS, AS_PUBLISHED, STAND_IN, REDUCED_SIZE, QUICK)
OTHERS, RUNS = 200, 1000  # lines of series that are in no table, of a study; runs listed


def page_content(studies: Sequence[Study], looks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that `report.html` shows."""
    rows = [row for study in studies for row in study.rows]
    inputs = {one["label"]: inputs_of(one["dataset"]) for one in looks if one["dataset"]}
    found = {name: blocks(name, studies, inputs) for name in TABLES}
    found["others"] = list(_others(studies))
    days = sorted(row.finished[:10] for row in rows)
    labels = {row.protocol for row in rows}
    labels |= {AS_PUBLISHED} if any(study.name in FIVE for study in studies) else set()
    labels |= {STAND_IN} if any(row.stand_in for row in rows) else set()
    labels |= {QUICK} if any(study.quick for study in studies) else set()
    sizes = {line.size for of in found.values() for block in of for line in block.lines}
    labels |= {REDUCED_SIZE} if REDUCED in sizes else set()
    return {
        "names": list(dict.fromkeys(study.name for study in studies)),
        "when": " to ".join(dict.fromkeys((days[0], days[-1]))),
        "protocols": sorted({row.protocol for row in rows}),
        "seeds": sorted({seed for study in studies for seed in study.seeds}),
        "labels": [name for name in LABELS if name in labels],
        "mains": [_main(study) for study in studies[:6]],
        "sizes": tables.statistics(_sizes(studies, looks)),
        "tables": [
            {"anchor": name, "title": TITLES[name], "blocks": of}
            | {"bars": list(_bars_of(of)) if name in TABLES else []}
            for name, of in found.items()
            if of
        ],
        "figures": [
            {"anchor": name, "title": figures.TITLES[name], "curves": drawn}
            | {"blocks": [_numbers(curve) for curve, _ in drawn]}
            for name in FIGURES
            if (drawn := [(one, charts.curve_panel(one)) for one in curves(name, studies)])
        ],
        "settings": list(_settings(studies)),
        "looks": looks,
        "map_method": charts.METHOD,
        "facts": _facts(rows),
        "first": rows[0].key[:12],
        "runs": list(itertools.islice(_runs(studies), RUNS)),
        "runs_left": len(rows) - RUNS,
        "count": len(rows),
    }


def _main(study: Study) -> dict[str, Any]:
    """The main numbers of a study, and what the paper has for the same dataset."""
    series = study.main
    inputs = series.first.provenance.get("inputs", {})
    kind = str(inputs.get("descriptors", "")).partition(",")[0]  # CUB has two
    seeds = f"{len(series.rows)} seeds" if len(series.rows) > 1 else f"seed {series.seeds[0]}"
    theirs = [
        one
        for one in (published("table2") if study.name in FIVE else ())
        if (one.dataset, one.method) == (study.name, "MLIS-GZSL")
        and one.descriptors.startswith(kind)
    ]
    return {
        "label": f"{study.label}: {study.main_label}, {series.protocol}, {seeds}",
        "line": Line(study.label, study.main_label, MEASURED, series.summary),
        "published": theirs[0] if theirs else None,
    }


# --- table 1 --------------------------------------------------------------------------------------


def _sizes(studies: Sequence[Study], looks: Sequence[Mapping[str, Any]]) -> Iterator[tables.Sizes]:
    """Published sizes and those of the data, for each dataset, however many studies it has."""
    shown = {one["label"]: (one["dataset"], one["data_problem"]) for one in looks}
    first = {study.data_sha256: study for study in reversed(studies)}
    for study in reversed(first.values()):
        dataset, problem = shown.get(study.label, (None, "not shown in detail"))
        counts = None if dataset is None else Counts.of(dataset)
        yield from tables.sizes(study.name, study.label, counts, problem)


# --- tables 2 to 4 --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Lines of one table that belong together.

    Attributes:
        dataset: its name.
        title: of a study, or of what others have published on the dataset.
        lines: at least one.
    """

    dataset: str
    title: str
    lines: tuple[Line, ...]

    @property
    def measured(self) -> bool:
        """Whether its lines were measured here."""
        return self.lines[0].kind == MEASURED

    @property
    def inputs(self) -> str:
        """Features, descriptors and split of measured lines, which are the same for all."""
        found = (getattr(self.lines[0], name) for name in NAMES) if self.measured else ()
        return "; ".join(filter(None, found))


def blocks(
    table: str, studies: Sequence[Study], inputs: Mapping[str, Mapping[str, str]] | None = None
) -> list[Block]:
    """What was measured, study by study, and then what is published of the same dataset.

    Args:
        table: its name.
        studies: in the order of the page.
        inputs: of studies whose data are at hand, by label; a row by an earlier version tells less.
    """
    known = inputs or {}
    found = []
    for name in dict.fromkeys(study.name for study in studies):
        ours = [study for study in studies if study.name == name]
        lines = [(one.label, _measured(table, one, known.get(one.label, {}))) for one in ours]
        measured = [Block(name, *pair) for pair in lines if pair[1]]
        theirs = tuple(published_lines(table, name)) if measured else ()
        found += [*measured, *([Block(name, f"{name}, as published", theirs)] if theirs else [])]
    return found


def _measured(table: str, study: Study, inputs: Mapping[str, str]) -> tuple[Line, ...]:
    places = study.places(table)
    names = Counter((place.label, place.series.protocol) for place in places)
    budget = "quick" if study.quick else "paper"
    lines = (
        measured_line(
            *(study.label, place.label, place.series.rows),
            note=_note(study, place, doubled=names[place.label, place.series.protocol] > 1),
            budget=budget,
        )
        for place in places
    )
    return tuple(replace(line, **inputs) for line in lines)


def _note(study: Study, place: Place, *, doubled: bool) -> str:
    """What must be said of a line; of two that are called alike also what sets them apart."""
    series, said = place.series, []
    if missing := [seed for seed in study.seeds if seed not in series.seeds]:
        said.append(f"seeds {', '.join(map(str, missing))} not run")
    if series.doubles:
        said.append(f"{series.doubles} rows of earlier code left out")
    if doubled:
        said.append(f"{series.first.provenance.get('product_dtype', '?')} products")
        options = series.first.task.get("options") or {}
        said += [f"{name} {value}" for name, value in options.items()]
        said.append(f"row {series.first.key[:8]}")
    return "; ".join(said)


def _bars_of(found: Sequence[Block]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """H of each study's lines with what is published of its dataset, highest first."""
    for block in (one for one in found if one.measured):
        others = [one for one in found if one.dataset == block.dataset and not one.measured]
        lines = [line for one in (block, *others) for line in one.lines]
        known = [line for line in lines if line.summary.get("H_mean") is not None]
        yield block.title, [_bar(x) for x in sorted(known, key=lambda x: -x.summary["H_mean"])]


def _bar(line: Line) -> dict[str, Any]:
    mean, std = line.summary["H_mean"], line.summary.get("H_std")
    low, high = max(mean - (std or 0), 0), min(mean + (std or 0), 100)
    size = REDUCED_SIZE if line.size == REDUCED else ""
    return {
        **{"name": line.method, "title": line.method, "kind": line.kind, "percent": mean},
        "value": " · ".join(filter(None, (line.cell("H"), line.protocol, size))),
        "spread": (low, high - low) if std is not None else None,
    }


# --- figures 3 and 4, other settings --------------------------------------------------------------


def curves(figure: str, studies: Sequence[Study]) -> list[Curve]:
    """One a study, setting and protocol; of fewer than two points there is no curve."""
    grouped: dict[tuple[str, str, str], dict[float, Place]] = {}
    for study in studies:
        for place in study.places(figure):
            if place.x is not None:
                key = (study.label, place.label, place.series.protocol)
                grouped.setdefault(key, {})[place.x] = place
    return [
        Curve(label, setting, tuple((x, place.series.rows) for x, place in sorted(points.items())))
        for (label, setting, _), points in grouped.items()
        if len(points) > 1
    ]


def _numbers(curve: Curve) -> Block:
    """A curve's points as lines of a table."""
    lines = [measured_line(curve.dataset, f"{x:g}", rows) for x, rows in curve.points]
    return Block(curve.dataset, f"{curve.dataset}: {curve.label}", tuple(lines))


def _others(studies: Sequence[Study]) -> Iterator[Block]:
    """Series that are in no table, each called by what it differs in."""
    for study in (one for one in studies if one.others):
        lines = [
            measured_line(study.label, _changes(study, one.config) or one.method, one.rows)
            for one in study.others[:OTHERS]
        ]
        if left := len(study.others) - len(lines):
            lines.append(Line(study.label, f"{left} more are in results.jsonl", MEASURED))
        yield Block(study.name, study.label, tuple(lines))


def _changes(study: Study, config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {own}" for name, (_, own) in study.differences(config).items())


def _settings(studies: Sequence[Study]) -> Iterator[tuple[str, str]]:
    """Where a dataset has several bases of settings: how each differs from the first."""
    for study in studies:
        first = next(one for one in studies if one.name == study.name)
        if study is not first and (changes := _changes(first, study.settings)):
            yield study.label, changes


# --- origin ---------------------------------------------------------------------------------------


def _facts(rows: Sequence[Row]) -> dict[str, list[tuple[str, int]]]:
    """What rows say of data, features, versions and machines, with the number of rows."""

    def each(row: Row) -> dict[str, str]:
        facts, name = row.provenance, row.task["name"]
        notes = "".join(f" ({note})" for note in facts.get("notes", ()))
        machine = [str(facts.get(k, "?")) for k in ("device", "machine", "cpu", "product_dtype")]
        return {
            "Data, SHA-256": f"{name} {row.task['data_sha256']}{notes}",
            "Features": f"{name}: {facts.get('features') or 'unknown'}; descriptors: "
            f"{facts.get('descriptors') or 'unknown'}",
            "Versions": ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()),
            "Machines": f"{', '.join(machine)} products",
        }

    found = [each(row) for row in rows]
    return {name: Counter(one[name] for one in found).most_common(12) for name in found[0]}


def _runs(studies: Sequence[Study]) -> Iterator[list[str]]:
    """Cells of each run in the list of all runs."""
    every = [(one, study.label) for study in studies for one in study.series]
    for one, label in every:
        r = one.config["refinement"]
        method = f"{r['components']}, {r['loss']}" if one.method == METHOD else one.method
        for row in one.rows:
            values = [
                "–" if row.test[name] is None else f"{row.test[name]:.2f}" for name in MEASURES
            ]
            seconds = row.cost.get("seconds")
            time = f"{seconds:.0f}" if isinstance(seconds, (int, float)) else "–"
            start = [row.key[:12], label, method, str(row.task["seed"])]
            yield [*start, *values, row.protocol, one.config_sha256[:8], time]
