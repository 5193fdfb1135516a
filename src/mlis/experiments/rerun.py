"""Repeats the run of a stored row and compares."""

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.experiments.running import How, Listen, run, silent
from mlis.experiments.store import Row
from mlis.experiments.tasks import Task

TOLERANCE = 1.0  # percentage points of U, S and H: sums in another order end a little elsewhere
MEASURES = ("U", "S", "H")


@dataclass(frozen=True)
class Comparison:
    """An earlier row, and the same run again.

    Attributes:
        row: the new one; its key is another if this machine multiplies in another precision, or
            the code has changed.
        same_place: whether CPU, threads, precision and versions are the earlier row's.
        same_bits: whether every number is.
        difference: largest of U, S and H, percentage points.
    """

    row: Row
    same_place: bool
    same_bits: bool
    difference: float

    @property
    def agrees(self) -> bool:
        """Bits on the same CPU with the same versions, else U, S and H within `TOLERANCE`."""
        if self.same_place and self.row.provenance["device"] == "cpu":
            return self.same_bits
        return self.difference <= TOLERANCE

    def __str__(self) -> str:
        if self.same_bits:
            return "agrees: every number is the same"
        same, other = "the same machine and versions", "another machine or version"
        where = same if self.same_place else other
        verdict = "agrees" if self.agrees else "does not agree"
        bound = "every number the same" if self.same_place else f"at most {TOLERANCE:g}"
        return f"{verdict}: {self.difference:.3g} points apart on {where} (expected {bound})"


def rerun(
    row: Row,
    *,
    dataset: Mapping[str, Any] | None = None,
    device: str | None = None,
    listen: Listen = silent,
) -> Comparison:
    """Do a run again, generator included, in a folder of its own; the store stays as it is.

    Args:
        row: what to do again.
        dataset: arguments of `load_dataset`, if the data have moved.
        device: another one than the row's.
        listen: hears of the training.

    Raises:
        DataError: the data are not there, or are others.
        DivergenceError: a training diverged.
    """
    task = Task.from_dict(row.task)
    task = dataclasses.replace(task, dataset=dataset or task.dataset, device=device or task.device)
    with tempfile.TemporaryDirectory(prefix="mlis-rerun-") as folder:
        again = run(task, Path(folder), How(listen=listen, reuse=False))
    return compare(row, again)


def compare(row: Row, again: Row) -> Comparison:
    """Two rows of one task."""
    pairs = [(row.test[name], again.test[name]) for name in MEASURES]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    texts = dict.fromkeys(("notes", "features", "inputs"))  # which an earlier version worded else
    one, two = ({**r.provenance, **texts} for r in (row, again))
    return Comparison(
        row=again,
        same_place=one == two,
        same_bits=_numbers(row) == _numbers(again),
        difference=max((abs(a - b) for a, b in known), default=0.0),
    )


def _numbers(row: Row) -> list[Any]:
    return [row.test, row.validation, row.calibration, row.chosen]
