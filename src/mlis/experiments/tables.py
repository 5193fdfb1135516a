"""Tables 1 to 4: what was measured here beside what was published, each figure with its label."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mlis.data.io.benchmarks import TABLE_1, Counts
from mlis.evaluation import METRICS, summarise
from mlis.experiments.budget import REDUCED, Budget, size_of
from mlis.experiments.inputs import NAMES, inputs_of
from mlis.experiments.plans import Entry
from mlis.experiments.published import Name, Published, published
from mlis.experiments.source import FIVE, Source
from mlis.experiments.store import TEST_BEST, Row, Store
from mlis.experiments.table_files import Table
from mlis.methods.registry import METHODS

MEASURED, PUBLISHED, MISSING, NOT_RUN = "measured", "published", "missing", "not run"
HOW_TO_GET = (
    "the benchmarks' features (res101.mat) are in xlsa17.zip, from the page of Xian et al., "
    "“Zero-Shot Learning – The Good, the Bad and the Ugly”"
)
REDUCED_NOTE = (
    "reduced: smaller networks, fewer steps, larger batches or step sizes than the system's "
    "defaults, sized for a CPU. Such a line shows that a system learns, not how good it is."
)
RECONSTRUCTION_NOTE = (
    "reconstruction: written from a paper's abstract, without its text or program. Such a line is "
    "no measurement of that paper's system."
)
_COMPARED: dict[str, tuple[Name, ...]] = {
    "table2": ("table2", "others"),
    "table3": ("table3",),
    "table4": ("table4",),
}
TEST_BEST_NOTE = (
    f"{TEST_BEST}: the best of several steps or settings, and of all calibration constants, on "
    "test data. To stand beside published figures; not to be compared with H@val."
)
HEADER = (
    *("dataset", "method", "U", "S", "H", "runs", "", "protocol", "size"),
    *("features", "descriptors", "split", "note"),
)
ORIGIN = HEADER[-4:]  # long texts, for files
TITLES = {
    "table1": "Table 1: datasets",
    "table2": "Table 2: generalized zero-shot recognition",
    "table3": "Table 3: components of stage 1",
    "table4": "Table 4: metric losses, with and without implicit semantics",
}


@dataclass(frozen=True)
class Line:
    """A method on a dataset.

    Attributes:
        dataset: with the kind of descriptors, of several, and "(stand-in)" where that is so.
        method: as the table calls it.
        kind: measured, published, missing (no data) or not run.
        summary: means and deviations over seeds (:func:`mlis.evaluation.summarise`), per cent.
        runs: how many seeds; None where a publication does not say.
        protocol: of the figures; empty without any.
        size: of a measurement (:func:`mlis.experiments.budget.size_of`): full, reduced or quick.
        features: file or words.
        descriptors: what kind, where from.
        split: which version.
        note: what else must be said of them.
        budget: what was asked for ("paper", "reduced" or "quick").
    """

    dataset: str
    method: str
    kind: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    runs: int | None = None
    protocol: str = ""
    size: str = ""
    features: str = ""
    descriptors: str = ""
    split: str = ""
    note: str = ""
    budget: str = ""

    def cell(self, name: str) -> str:
        """Mean ± standard deviation; a dash where there is none."""
        mean, std = self.summary.get(f"{name}_mean"), self.summary.get(f"{name}_std")
        if mean is None:
            return "–"
        return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def table(name: str, entries: Sequence[Entry], store: Store, budget: Budget) -> Table:
    """Put a table together from the rows that the store has."""
    if name == "table1":
        return statistics(one for entry in entries for one in _sizes_of(entry.source))
    rows = [row for entry in entries for row in rows_of(entry, store)]
    said = notes(rows, budget.seeds)
    return assemble(titled(TITLES[name], budget), list(_lines(name, entries, store, budget)), said)


def assemble(title: str, lines: Sequence[Line], said: Sequence[str]) -> Table:
    """Lines as texts, and as numbers for CSV."""
    shown = tuple(
        (
            *(line.dataset, line.method, line.cell("U"), line.cell("S"), line.cell("H")),
            *(str(line.runs or "–"), line.kind, line.protocol, line.size),
            *(line.features, line.descriptors, line.split, line.note),
        )
        for line in lines
    )
    return Table(title, HEADER, shown, tuple(_data(line) for line in lines), tuple(said))


def rows_of(entry: Entry, store: Store) -> list[Row]:
    """What the store has of an entry."""
    found = [store.get(task.key) for task in entry.tasks]
    return [row for row in found if row is not None]


def titled(title: str, budget: Budget) -> str:
    """A title that says if the figures under it mean nothing, or less."""
    said = {
        "quick": " [quick budget: no result, only that it runs]",
        "reduced": " [some systems at reduced size, see each line]",
    }
    return title + said.get(budget.name, "")


def notes(rows: Sequence[Row], seeds: Sequence[int]) -> tuple[str, ...]:
    """Protocol, data, machines and versions of some rows, in words."""
    facts = [row.provenance for row in rows]
    said = [
        "Per cent: U and S are means over classes of top-1 accuracy, of unseen and seen classes; "
        "H their harmonic mean. Mean ± standard deviation over seeds "
        f"{', '.join(map(str, seeds))}.",
        "H@val: everything chosen on validation classes, retrained, tested once. As published: "
        "nearly always the best epoch on the test set, with the features of each paper.",
    ]
    if any(row.protocol == TEST_BEST for row in rows):
        said.append(TEST_BEST_NOTE)
    if any(size_of(row.task)[0] == REDUCED for row in rows):
        said.append(REDUCED_NOTE)
    if any(METHODS[row.task["method"]].reconstruction for row in rows):
        said.append(RECONSTRUCTION_NOTE)
    if any(row.stand_in for row in rows):
        said.append("stand-in: features made up in the benchmark's format; figures mean nothing.")
    said += sorted({f"{one['data']}: data SHA-256 {one['data_sha256']}" for one in facts})
    for one in facts:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        place = f"{one['device']}, {one['machine']}, {one['product_dtype']} products"
        if (text := f"Measured with {versions} on {place}.") not in said:
            said.append(text)
    return tuple(said)


def published_lines(name: str, dataset: str) -> Iterator[Line]:
    """What others have published of a dataset, to stand beside a table."""
    for compared in _COMPARED[name]:
        yield from (_published(one) for one in published(compared) if one.dataset == dataset)


def measured_line(
    dataset: str, method: str, rows: Sequence[Row], *, note: str = "", budget: str = ""
) -> Line:
    """A line of the runs of one method and protocol, one run per seed."""
    (protocol,) = {row.protocol for row in rows}
    facts, (size, detail) = rows[0].provenance, size_of(rows[0].task)
    return Line(
        *(dataset, method, MEASURED, summarise([row.test for row in rows]), len(rows), protocol),
        size=size,
        **{name: facts.get(name, "") for name in ("features", "descriptors")}
        | facts.get("inputs", {}),
        note="; ".join(filter(None, (detail, note))),
        budget=budget,
    )


def _lines(name: str, entries: Sequence[Entry], store: Store, budget: Budget) -> Iterator[Line]:
    sources = {entry.source.label: entry.source for entry in entries}
    for dataset, group in itertools.groupby(sources.values(), lambda source: source.name):
        yield from published_lines(name, dataset)
        for source in group:
            if source.dataset is None:
                yield Line(source.label, "ours", MISSING, note=_problem(source))
                continue
            yield from (
                _measured(entry, store, budget) for entry in entries if entry.source is source
            )


def _published(one: Published) -> Line:
    summary = {f"{name}_mean": getattr(one, name) for name in ("U", "S", "H")}
    where = f"{one.venue} {one.year}" if one.year else one.venue
    how = ("" if one.setting == "not known" else one.setting, f"selection: {one.selection}")
    note = "; ".join(filter(None, (where, one.source, *how, one.note)))
    facts = (one.dataset, one.method, PUBLISHED, summary, None, one.protocol)
    inputs = {name: getattr(one, name) for name in NAMES}
    return Line(*facts, **inputs, note=note)


def _measured(entry: Entry, store: Store, budget: Budget) -> Line:
    rows = rows_of(entry, store)
    missing = [task.seed for task in entry.tasks if store.get(task.key) is None]
    note = f"seeds {', '.join(map(str, missing))} not run" if missing else ""
    line = Line(entry.source.label, entry.label, NOT_RUN, note=note)
    if rows:
        line = measured_line(entry.source.label, entry.label, rows, note=note, budget=budget.name)
    # a row by an earlier version tells less of the same data
    return replace(line, **(inputs_of(entry.source.dataset) if entry.source.dataset else {}))


def _data(line: Line) -> Mapping[str, Any]:
    columns = [f"{name}_{part}" for name in METRICS for part in ("mean", "std")]
    return {
        **{name: getattr(line, name) for name in ("dataset", "method", "kind", "protocol")},
        "budget": line.budget,
        "size": line.size,
        "runs": line.runs,
        **{name: getattr(line, name) for name in NAMES},
        **{name: line.summary.get(name) for name in columns},
        "note": line.note,
    }


Sizes = tuple[str, str, Mapping[str, Any], str]  # dataset, kind, counts, note


def sizes(name: str, label: str, counts: Counts | None, problem: str) -> Iterator[Sizes]:
    """Published sizes of a dataset and those of its data, or the problem with them."""
    paper = TABLE_1.get(name) if name in FIVE else None
    if paper is not None:
        yield name, PUBLISHED, asdict(paper), "MLIS paper, Table 1"
    if counts is None:
        yield label, MISSING, {}, problem
        return
    note = "" if paper is None else "as published" if counts == paper else "differs"
    yield label, MEASURED, asdict(counts), note


def _sizes_of(source: Source) -> Iterator[Sizes]:
    counts = None if source.dataset is None else Counts.of(source.dataset)
    return sizes(source.name, source.label, counts, _problem(source))


def _problem(source: Source) -> str:
    return f"{source.problem} ({HOW_TO_GET})" if source.name in FIVE else source.problem


def statistics(found: Iterable[Sizes]) -> Table:
    """Table 1 of lines: dataset, kind, counts by name (those of `Counts`, if known), note."""
    names = [field.name for field in fields(Counts)]
    data = tuple(
        {"dataset": label, "kind": kind, **dict.fromkeys(names), **counts, "note": note}
        for label, kind, counts, note in found
    )
    lines = tuple(
        tuple(
            "–" if cell is None else f"{cell:,}" if isinstance(cell, int) else cell for cell in row
        )
        for row in (tuple(one.values()) for one in data)
    )
    header = ("dataset", "", *(name.replace("_", " ") for name in names), "note")
    said = ("Published: Table 1 of the paper. Measured: of the files that were read.",)
    return Table(TITLES["table1"], header, lines, data, said)
