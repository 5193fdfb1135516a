"""Write the report: from a results folder to one page."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mlis.experiments.report.closer import look, problems
from mlis.experiments.report.content import page_content
from mlis.experiments.report.material import Loader
from mlis.experiments.report.series import read_rows, series_of, studies_of
from mlis.pages import render
from mlis.storage.atomic import write_text

CLOSE = 12  # studies that are shown in detail; tables and curves are of all


class Written(NamedTuple):
    """The page, its size in bytes, the rows that it is made from, what is missing (in words)."""

    page: Path
    bytes: int
    runs: int
    missing: tuple[str, ...]


def write_report(
    folder: Path,
    output: Path,
    load: Loader,
    *,
    with_maps: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Written:
    """Write the page.

    Args:
        folder: what `mlis reproduce -o` filled; it is only read.
        output: the page, `.html`.
        load: gives the data of a study, or says why not.
        with_maps: whether features are placed in two dimensions, the slowest part.
        say: is told what is being done.

    Raises:
        DataError: there is no row, or one is damaged.
        OSError: something cannot be written.
    """
    rows = read_rows(folder)
    studies = studies_of(series_of(rows))
    looks = []
    for number, study in enumerate(studies[:CLOSE]):
        say(study.label)
        looks.append(look(folder, study, load, f"study{number}", with_maps))
    text = render("experiments/report/report.html", **page_content(studies, looks))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text)
    missing = tuple(dict.fromkeys(problem for one in looks for problem in problems(one)))
    return Written(output, len(text.encode()), len(rows), missing)
