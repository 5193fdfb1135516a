"""Lines of the tables and points of the figures, from studies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlis.data.dataset import GZSLDataset
from mlis.data.io.benchmarks import TABLE_1, Counts
from mlis.experiments.figures import Curve
from mlis.experiments.report.studies import Place, Study
from mlis.experiments.source import FIVE
from mlis.experiments.tables import MEASURED, PUBLISHED, Line, measured_line, published_lines

Counted = tuple[str, str, Mapping[str, Any], str]  # dataset, kind, counts, note


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


def blocks(table: str, studies: Sequence[Study]) -> list[Block]:
    """What was measured, study by study, and then what is published of the same dataset."""
    found = []
    for name in dict.fromkeys(study.name for study in studies):
        ours = [study for study in studies if study.name == name]
        lines = [(one.label, _measured(table, one)) for one in ours]
        measured = [Block(name, *pair) for pair in lines if pair[1]]
        theirs = tuple(published_lines(table, name)) if measured else ()
        found += [*measured, *([Block(name, f"{name}, as published", theirs)] if theirs else [])]
    return found


def _measured(table: str, study: Study) -> tuple[Line, ...]:
    places = study.places(table)
    names = [(place.label, place.series.protocol) for place in places]
    return tuple(
        measured_line(
            *(study.label, place.label, place.series.rows),
            note=_note(study, place, doubled=names.count(name) > 1),
            budget=study.budget,
        )
        for place, name in zip(places, names, strict=True)
    )


def _note(study: Study, place: Place, *, doubled: bool) -> str:
    """What must be said of a line; of two that are called alike also what sets them apart."""
    series, said = place.series, []
    if missing := [seed for seed in study.seeds if seed not in series.seeds]:
        said.append(f"seeds {', '.join(map(str, missing))} not run")
    if series.doubles:
        said.append(f"{series.doubles} rows of earlier code left out")
    options = series.first.task.get("options") or {}
    if doubled:
        said.append(f"{series.first.provenance.get('product_dtype', '?')} products")
        said += [f"{name} {value}" for name, value in options.items()]
        said.append(f"row {series.first.key[:8]}")
    return "; ".join(said)


def counted(study: Study, dataset: GZSLDataset | None, problem: str) -> list[Counted]:
    """Lines of table 1: published sizes, and those of the data, or of the rows without them."""
    paper = TABLE_1.get(study.name) if study.name in FIVE else None
    found: list[Counted] = []
    if paper is not None:
        found.append((study.name, PUBLISHED, asdict(paper), "MLIS paper, Table 1"))
    if dataset is None:
        counts, note = _of_rows(study), f"from the rows: {problem}"
    else:
        counts = asdict(Counts.of(dataset))
        note = "" if paper is None else "as published" if counts == asdict(paper) else "differs"
    return [*found, (study.label, MEASURED, counts, note)]


def _of_rows(study: Study) -> dict[str, int]:
    """Sizes as far as the classes of a row tell them."""
    classes = study.main.first.test.get("per_class", ())
    seen = [one["images"] for one in classes if one["seen"]]
    unseen = [one["images"] for one in classes if not one["seen"]]
    if not classes:
        return {}
    names = ("classes", "seen", "unseen", "test_seen_images", "test_unseen_images")
    sizes = (len(classes), len(seen), len(unseen), sum(seen), sum(unseen))
    return dict(zip(names, sizes, strict=True))


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
