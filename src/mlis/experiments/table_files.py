"""A table as Markdown, CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis import escape
from mlis.data.io.csv_file import csv_text
from mlis.storage.atomic import write_text


@dataclass(frozen=True)
class Table:
    """Cells, ready to be written.

    Attributes:
        title: with the budget where figures mean nothing.
        header, lines: texts; all lines as long as the header.
        data: the same for CSV, numbers apart, one mapping a line.
        notes: what must be read with it.
    """

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    data: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def write(name: str, table: Table, folder: Path) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME.tex into `folder`, made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(table), "csv": table_csv(table), "tex": latex(table)}
    for suffix, text in texts.items():
        write_text(folder / f"{name}.{suffix}", text)
    return [folder / f"{name}.{suffix}" for suffix in texts]


def markdown(table: Table) -> str:
    """GitHub's dialect."""
    lines = [_pipes(table.header), _pipes(["---"] * len(table.header))]
    lines += [_pipes(line) for line in table.lines]
    notes = [f"- {escape.markdown(' '.join(note.split()))}" for note in table.notes]
    return "\n".join([f"# {table.title}", "", *lines, "", *notes, ""])


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(escape.markdown(' '.join(cell.split())) for cell in cells)} |"


def table_csv(table: Table) -> str:
    """One line a line, numbers unrounded, protocol, kind and budget in columns of their own."""
    columns = table.data[0] if table.data else ["dataset"]
    return csv_text(columns, (line.values() for line in table.data))


_ESCAPES = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"±": r"$\pm$", "–": "--", "γ": r"$\gamma$", "λ": r"$\lambda$", "…": r"\ldots{}"},
        **{"“": "``", "”": "''"},
    }
)


def latex(table: Table) -> str:
    """A `tabular` that needs no package, notes as comments and title above."""
    rows = [" & ".join(cell.translate(_ESCAPES) for cell in line) + r" \\" for line in table.lines]
    return "\n".join(
        [
            f"% {table.title}",
            *(f"% {' '.join(note.split())}" for note in table.notes),
            rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
            r"\hline",
            " & ".join(cell.translate(_ESCAPES) for cell in table.header) + r" \\",
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )
