"""Lists of what could not be used, as files beside the result."""

import csv
from collections.abc import Sequence
from pathlib import Path

from mlis.escape import csv_cell
from mlis.features.images.walk import Bad
from mlis.storage.atomic import atomic_write

BAD = "bad.csv"


def write_bad(folder: Path, bad: Sequence[Bad]) -> None:
    """Write `bad.csv`: path and reason of every file without a row; header alone if none."""
    write_rows(folder / BAD, ("path", "reason"), [(each.path, each.reason) for each in bad])


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV file for people, whole or not at all."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as handle,
    ):
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([csv_cell(cell) for cell in row] for row in rows)
