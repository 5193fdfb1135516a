"""Tables and figures beside the page, each a file of its own."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlis.experiments import figures, table_files
from mlis.experiments.budget import Budget
from mlis.experiments.report.closer import Look
from mlis.experiments.report.lines import curves
from mlis.experiments.report.maps import sheet
from mlis.experiments.report.studies import Study
from mlis.experiments.table_files import Table
from mlis.pages import style_of
from mlis.storage.atomic import atomic_write

FIGURES = ("figure3", "figure4")


def write_files(
    folder: Path, found: Mapping[str, Table], studies: Sequence[Study], looks: Sequence[Look]
) -> list[Path]:
    """Write `tables/NAME.md|csv|tex` and `figures/NAME.svg` (curves also .png and .csv).

    `figure2.svg` and `map.svg` are named after the study where there are several.
    """
    paths = [
        path
        for name, one in found.items()
        for path in table_files.write(name, one, folder / "tables")
    ]
    place = folder / "figures"
    for budget in (Budget("paper"), Budget("quick")):  # never both in one figure
        of_it = [study for study in studies if study.quick == budget.quick]
        beside = f"{place}_quick" if budget.quick and len(of_it) < len(studies) else place
        for name in FIGURES:
            paths += figures.write(name, curves(name, of_it), budget, Path(beside))
    for look in looks:
        suffix = f"_{file_name(look.study.label)}" if len(looks) > 1 else ""
        if look.study.main.method == "mlis":
            paths.append(write_svg(place / f"figure2{suffix}.svg", look.drawing))
        if look.map is not None:
            paths.append(
                write_svg(
                    place / f"map{suffix}.svg",
                    _map(look),
                )
            )
    return paths


def _map(look: Look) -> str:
    first = look.study.main.first
    assert look.map is not None
    return sheet(look.map, f"{look.what}, seed {first.task['seed']}", first.test)


def file_name(label: str) -> str:
    """A label as part of a file's name.

    >>> file_name("FLO (stand-in), settings 2")
    'FLO_stand-in_settings_2'
    """
    return re.sub(r"[^\w-]+", "_", label).strip("_")[:80] or "dataset"


def write_svg(path: Path, drawing: str) -> Path:
    """A drawing as a file that stands alone, with its style."""
    path.parent.mkdir(parents=True, exist_ok=True)
    style = style_of("mlis.pages") + style_of("mlis.experiments.report")
    head, body = drawing.split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    rules = f"<style><![CDATA[{style}]]></style>"
    ground = '<rect class="ground" width="100%" height="100%"/>'
    with atomic_write(path) as temporary:
        temporary.write_text(f"{head}>{rules}{ground}{body}\n", encoding="utf-8")
    return path
