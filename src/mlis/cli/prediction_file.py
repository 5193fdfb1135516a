"""How `mlis predict` writes predictions: as CSV or as JSON lines, to a file or to stdout."""

import contextlib
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from mlis.errors import SettingsError
from mlis.escape import csv_cell, json_line, terminal
from mlis.storage.atomic import atomic_write


def format_of(output: Path | None, given: str | None) -> str:
    """`csv` or `jsonl`: what is given, else by the file's name, csv on stdout."""
    if given is not None or output is None:
        return given or "csv"
    kind = output.suffix.casefold().removeprefix(".")
    if kind not in ("csv", "jsonl"):
        raise SettingsError(
            f"-o {output}: name a .csv or .jsonl file, or choose with --format csv|jsonl"
        )
    return kind


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """Stdout, or a file that appears whole or not at all."""
    if path is None:
        yield sys.stdout
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SettingsError(f"-o {path}: name a file in a folder that exists")
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as handle,
    ):
        yield handle


def write(
    out: TextIO,
    lines: Iterator[dict[str, Any]],
    first: str,
    last: Sequence[str],
    k: int,
    kind: str,
) -> None:
    """Write a line each, as they come.

    Args:
        out: what `opened` gave.
        lines: `first`, `predictions` (at most k of them), and perhaps what `last` names.
        first: "path", or "row" where paths are not known.
        last: further columns: "reason" of photographs, "label" where it is known.
        k: predictions that a line of CSV has room for.
        kind: what `format_of` gave.
    """
    if kind == "jsonl":
        for line in lines:
            out.write(json_line(line) + "\n")
        return
    writer = csv.writer(out, lineterminator="\n")
    names = [f"{name}_{rank}" for rank in range(1, k + 1) for name in ("class", "score", "seen")]
    writer.writerow([first, *names, *last])
    for line in lines:
        cells = [
            cell
            for entry in line["predictions"]
            for cell in (entry["class"], entry["score"], str(entry["seen"]).lower())
        ]
        cells += [""] * (len(names) - len(cells))
        row = [line[first], *cells, *(line.get(name, "") for name in last)]
        cells = map(csv_cell, row)
        writer.writerow((terminal(str(cell)) for cell in cells) if out.isatty() else cells)
