"""The report: from a results folder to one page, and tables and figures beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlis.errors import MlisError
from mlis.experiments.report import head, maps, origin, results
from mlis.experiments.report.classes import classes_section, confusions_section
from mlis.experiments.report.closer import Look, map_section, trained_section
from mlis.experiments.report.diagram import diagram
from mlis.experiments.report.files import write_files
from mlis.experiments.report.html import escape, section
from mlis.experiments.report.material import Data, Loader, losses_of, model_of, sizes, tested
from mlis.experiments.report.rows import read_rows, series_of
from mlis.experiments.report.studies import Study, studies_of
from mlis.pages import document, style_of
from mlis.storage.atomic import atomic_write

CLOSE = 12  # studies that are looked at closely; tables and curves are of all
LIMIT = 8 * 2**20  # bytes of a page; what fills it is bounded piece by piece

Say = Callable[[str], None]


@dataclass(frozen=True)
class Written:
    """What was written, and what is not on the page because something is missing.

    Attributes:
        page: its path.
        bytes: its size.
        files: tables and figures beside it.
        runs: rows that it is made from.
        missing: in words.
    """

    page: Path
    bytes: int
    files: tuple[Path, ...]
    runs: int
    missing: tuple[str, ...]


def write_report(
    folder: Path, output: Path, load: Loader, *, with_maps: bool = True, say: Say = lambda _: None
) -> Written:
    """Write `output` and, in `STEM_files/` beside it, `tables/` and `figures/`.

    Args:
        folder: what `mlis reproduce -o` filled; it is only read.
        output: the page, `.html`.
        load: gives the data of a study, or says why not.
        with_maps: whether features are placed in two dimensions, the slowest part.
        say: hears what is being done.

    Raises:
        DataError: there is no row, or one is damaged.
        OSError: something cannot be written.
    """
    rows = read_rows(folder)
    studies = studies_of(series_of(rows))
    data: dict[str, Data] = {}
    looks = []
    for number, study in enumerate(studies):
        close = number < CLOSE
        say(f"{study.label}: reading")
        data[study.label] = load(study) if close else Data(None, "not looked at closely")
        if close:
            looks.append(_look(folder, study, data[study.label], f"study{number}", with_maps, say))
    text = render(studies, data, looks)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    beside = output.with_name(f"{output.stem}_files")
    tables = results.table_files(studies, data)
    written = write_files(beside, tables, studies, looks)
    missing = tuple(dict.fromkeys(problem for look in looks for problem in _problems(look)))
    return Written(output, len(text.encode()), tuple(written), len(rows), missing)


def _look(folder: Path, study: Study, data: Data, anchor: str, with_maps: bool, say: Say) -> Look:
    model = model_of(folder, study)
    answers, found, problem = data.problem, None, data.problem
    if data.dataset is not None:
        answers = tested(folder, study, data.dataset)
        problem = answers if isinstance(answers, str) else ""
    if not with_maps:
        problem = "it was not asked for"
    elif data.dataset is not None and not isinstance(answers, str):
        say(f"{study.label}: map")
        found = maps.Map.of(data.dataset, answers.recognizer)
        problem = "" if found else "fewer than 5 test images"
    losses, without = losses_of(folder, study)
    known = sizes(study, data.dataset, model)
    name = f"{study.label}, {study.main_label}"
    return Look(
        anchor=anchor,
        study=study,
        data_problem=data.problem,
        model=model,
        tested=answers,
        map=found,
        map_problem=problem,
        drawing=diagram(name, study.main.config, known),
        losses=losses,
        without_losses=without,
        pictures=data.pictures,
    )


def _problems(look: Look) -> list[str]:
    """What could not be shown of a study."""
    said = [f"no map: {look.map_problem}" if look.map is None else ""]
    said.append(look.pictures.problem if not look.data_problem else "")
    said.append("no losses in runs/" if not look.losses else "")
    return [f"{look.study.label}: {problem}" for problem in said if problem]


def render(studies: Sequence[Study], data: Mapping[str, Data], looks: Sequence[Look]) -> str:
    """The whole page as one string of HTML.

    Raises:
        MlisError: it is larger than `LIMIT`, which the bounds of its parts should not allow.
    """
    sections = {
        "table1": results.sizes_section(studies, data),
        **{name: results.table_section(name, studies) for name in results.TABLES},
        **{name: results.curve_section(name, studies) for name in results.FIGURES},
        "others": results.others_section(studies),
        "settings": results.settings_section(studies),
        **{look.anchor: _closely(look) for look in looks},
        "origin": origin.origin_section(studies),
    }
    parts = {name: part for name, part in sections.items() if part}
    top = head.title(studies)
    protocol = head.protocol(studies, top + "".join(parts.values()))
    body = "\n".join([top, _contents(parts, looks), protocol, *parts.values()])
    text = document(
        f"mlis report: {', '.join(dict.fromkeys(study.name for study in studies))}",
        style_of("mlis.experiments.report"),
        body,
        before='<a class="skip" href="#contents">To the contents</a>\n',
    )
    if len(text.encode()) > LIMIT:
        raise MlisError(f"the page has {len(text.encode()):,} bytes, more than {LIMIT:,}: a bug")
    return text


def _closely(look: Look) -> str:
    parts = [
        trained_section(look),
        map_section(look),
        classes_section(look),
        confusions_section(look),
    ]
    title = f"A closer look: {look.study.label}"
    return section(look.anchor, title, "\n".join(filter(None, parts)))


def _contents(parts: Mapping[str, str], looks: Sequence[Look]) -> str:
    names = {
        **{"table1": "Datasets", "table2": "Against others", "table3": "Components"},
        **{"table4": "Losses", "figure3": "Synthetic samples", "figure4": "m and γ"},
        **{"others": "Other settings", "settings": "Settings", "origin": "Origin"},
        **{look.anchor: look.study.label for look in looks},
    }
    links = "".join(f'<li><a href="#{name}">{escape(names[name])}</a></li>' for name in parts)
    return f'<nav id="contents" aria-label="Contents"><ul>{links}</ul></nav>'
