"""Tables 1 to 4 beside published figures, bars, and the curves of figures 3 and 4."""

from collections.abc import Iterator, Mapping, Sequence

from mlis.experiments import figures, tables
from mlis.experiments.report import charts
from mlis.experiments.report.html import cells, escape, figure, group, section, table
from mlis.experiments.report.lines import Block, Counted, blocks, counted, curves
from mlis.experiments.report.material import Data
from mlis.experiments.report.studies import Study
from mlis.experiments.table_files import Table
from mlis.experiments.tables import MEASURED

TABLES = ("table2", "table3", "table4")
FIGURES = ("figure3", "figure4")
OTHERS = 200  # lines of series that are in no table, a study
_HEADER = ("method, protocol", "U", "S", "H")


def table_files(studies: Sequence[Study], data: Mapping[str, Data]) -> dict[str, Table]:
    """The tables to be written beside the page, as `mlis reproduce` writes them."""
    found = {"table1": tables.statistics(_sizes(studies, data))}
    for name in TABLES:
        lines = [line for block in blocks(name, studies) for line in block.lines]
        if any(line.kind == MEASURED for line in lines):
            rows = [row for one in studies for p in one.places(name) for row in p.series.rows]
            seeds = sorted({row.task["seed"] for row in rows})
            found[name] = tables.assemble(tables.TITLES[name], lines, tables.notes(rows, seeds))
    return found


def sizes_section(studies: Sequence[Study], data: Mapping[str, Data]) -> str:
    """Table 1."""
    found = tables.statistics(_sizes(studies, data))
    rows = [cells(escape(line[0]), line[1:]) for line in found.lines]
    header = [name or "kind" for name in found.header]
    body = table("Classes and images", header, [f"<tbody>{''.join(rows)}</tbody>"])
    return section("table1", found.title, f'<div class="wide">{body}</div>')


def _sizes(studies: Sequence[Study], data: Mapping[str, Data]) -> Iterator[Counted]:
    """One or two lines of table 1 for each dataset, however many studies it has."""
    done = set()
    for study in studies:
        if study.data_sha256 not in done:
            done.add(study.data_sha256)
            yield from counted(study, data[study.label].dataset, data[study.label].problem)


def table_section(name: str, studies: Sequence[Study]) -> str:
    """One of tables 2 to 4, with bars of H under it; nothing where nothing was run for it."""
    found = blocks(name, studies)
    if not found:
        return ""
    title = tables.TITLES[name]
    caption = "Per cent; mean ± standard deviation over runs"
    shown = table(caption, _HEADER, [_body(block) for block in found])
    drawn = "".join(_bars(block, found) for block in found if block.measured)
    alone = sum(block.measured for block in found) == 1
    style = "beside" if alone else "below"
    body = f'<div class="{style}">{shown}<div class="charts">{drawn}</div></div>'
    return section(name, title, body)


def _body(block: Block) -> str:
    rows = [group(block.title, len(_HEADER))]
    for line in block.lines:
        runs = f", {line.runs} run{'s' if line.runs != 1 else ''}" if line.runs else ""
        note = f"; {line.note}" if line.note else ""
        first = f"{escape(line.method)}<small>{escape(line.protocol + runs + note)}</small>"
        style = "ours" if line.kind == MEASURED else "theirs"
        rows.append(cells(first, [line.cell(name) for name in ("U", "S", "H")], style))
    return f"<tbody>{''.join(rows)}</tbody>"


def _bars(block: Block, found: Sequence[Block]) -> str:
    """Bars of a study, with what is published of its dataset."""
    others = [one for one in found if one.dataset == block.dataset and not one.measured]
    theirs = [line for one in others for line in one.lines]
    caption = (
        f"<b>{escape(block.title)}.</b> H, per cent. Filled: measured, with one standard deviation."
    )
    caption += " Outlined: as published." if theirs else ""
    return figure(charts.bars(block.title, [*block.lines, *theirs]), caption)


def curve_section(name: str, studies: Sequence[Study]) -> str:
    """Figure 3 or 4: a panel a study, setting and protocol, and its numbers."""
    found = curves(name, studies)
    if not found:
        return ""
    drawn = [
        figure(
            charts.curve_panel(curve),
            f"<b>{escape(curve.dataset)}, {escape(curve.protocol)}.</b> Line and band: mean ± one "
            f"standard deviation. Small dots: seeds {escape(_seeds(curve))}.",
        )
        for curve in found
    ]
    body = f'{charts.legend_of_measures()}<div class="charts">{"".join(drawn)}</div>'
    return section(name, figures.TITLES[name], body + _numbers(name, found))


def _seeds(curve: figures.Curve) -> str:
    return ", ".join(
        str(seed) for seed in sorted({row.task["seed"] for _, rows in curve.points for row in rows})
    )


def _numbers(name: str, found: Sequence[figures.Curve]) -> str:
    """The same as a table, every seed."""
    bodies = []
    for curve in found:
        heading = f"{curve.dataset}, {curve.protocol}: {curve.label}"
        rows = [group(heading, 5)]
        for (value, of_seeds), summary in zip(curve.points, curve.summaries(), strict=True):
            line = tables.Line("", "", "", summary)
            each = "; ".join(
                "/".join(_number(row.test[m]) for m in ("U", "S", "H")) for row in of_seeds
            )
            rows.append(cells(f"{value:g}", [*(line.cell(m) for m in ("U", "S", "H")), each]))
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    title = f"{figures.TITLES[name]}, per cent"
    shown = table(title, ("setting", "U", "S", "H", "each seed: U/S/H"), bodies)
    return f"<details><summary>As numbers, every seed</summary>{shown}</details>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def others_section(studies: Sequence[Study]) -> str:
    """Runs whose settings are of no table: what they differ in, and their numbers."""
    bodies = []
    for study in studies:
        rows = []
        for one in study.others[:OTHERS]:
            changed = study.differences(one.config)
            words = ", ".join(f"{k} {own}" for k, (_, own) in changed.items()) or one.method
            line = tables.Line("", "", "", one.summary)
            said = f"{one.protocol}, {len(one.rows)} run{'s' if len(one.rows) != 1 else ''}"
            first = f"{escape(words)}<small>{escape(said)}</small>"
            rows.append(cells(first, [line.cell(name) for name in ("U", "S", "H")]))
        if (left := len(study.others) - OTHERS) > 0:
            rows.append(cells(f"{left} more are in results.jsonl", [""] * 3))
        if rows:
            bodies.append(f"<tbody>{group(study.label, len(_HEADER))}{''.join(rows)}</tbody>")
    body = table("Settings that are in no table, per cent", _HEADER, bodies) if bodies else ""
    return section("others", "Other settings", body)


def settings_section(studies: Sequence[Study]) -> str:
    """Where a dataset has several bases of settings: what sets them apart."""
    rows = []
    for study in studies:
        first = next(one for one in studies if one.name == study.name)
        if study is not first and (changed := study.differences(first.settings)):
            said = "; ".join(f"{k}: {own} (not {was})" for k, (own, was) in changed.items())
            rows.append(f"<dt>{escape(study.label)}</dt><dd>{escape(said)}</dd>")
    if not rows:
        return ""
    said = "<p>One dataset was measured at several bases of settings. Against its first one:</p>"
    return section("settings", "Settings", f'{said}<dl class="labels">{"".join(rows)}</dl>')
