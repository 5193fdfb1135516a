"""How the time of a stage-1 step grows with the batch, the classes and the descriptors.

    python benchmarks/growth.py [--classes 50,1000,20000] [--precision auto] [-o growth.json]

From CUB's shape (2048-d features, hidden 4096, 200 classes, 1024-d descriptors, batch 256) one size
is varied at a time; a batch of B is B rows for critic and generator and B/8 classes × 8 samples for
the metric loss. Of several steps the fastest counts. The exponent between neighbouring sizes is
the slope of log time over log size: 1 is linear, 0 is no growth.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paired import seconds
from report import Rows, markdown, write
from shapes import SHAPES, Shape, settings, tensors
from steps import StageOne

from mlis.compute.precision import Precision
from mlis.config import Config

AXES = ("batch", "classes", "descriptor")
SLACK = 0.1  # by which an exponent may exceed 1: what timing scatters


def at(axis: str, value: int, base: str) -> tuple[Shape, Config]:
    """The base's shape and settings with one size changed."""
    shape, config = SHAPES[base], settings(base)
    if axis == "batch":
        samples = min(8, value // 2)
        batch = {"classes_per_batch": max(2, value // samples), "samples_per_class": samples}
        changes = {"generation": {"batch_size": value}, "refinement": batch}
        return shape, config.replace(changes)
    if axis == "descriptor":
        return replace(shape, descriptor=value), config
    seen = value - value // 4
    rows = max(shape.rows, 2 * seen)
    return replace(shape, seen=seen, unseen=value // 4, rows=rows), config


def fastest_step(shape: Shape, config: Config, precision: str, repeats: int) -> float:
    """Milliseconds of the fastest of several whole steps, after one to warm up."""
    chosen = Precision.of(precision)
    stage = StageOne(tensors(shape, chosen), config, chosen)
    stage.step()
    return 1e3 * min(seconds(stage.step) for _ in range(repeats))


def measure(axis: str, values: Sequence[int], base: str, precision: str, repeats: int) -> Rows:
    """One row a size, with the exponent since the size before."""
    rows: Rows = []
    for value in sorted(values):
        took = fastest_step(*at(axis, value, base), precision, repeats)
        row: dict[str, Any] = {"axis": axis, "value": value, "precision": precision, "ms": took}
        row["exponent"] = exponent(rows[-1], row) if rows else None
        rows.append(row)
        print(f"{axis} {value}: {took:.0f} ms, exponent {_shown(row['exponent'])}", flush=True)
    return rows


def exponent(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Slope of log time over log size between two rows."""
    return math.log(other["ms"] / one["ms"]) / math.log(other["value"] / one["value"])


def verdict(rows: Rows) -> dict[str, Any]:
    """Whether the time of one axis grew faster than linearly anywhere."""
    local = [row["exponent"] for row in rows if row["exponent"] is not None]
    return {
        "axis": rows[0]["axis"],
        "largest_exponent": max(local, default=None),
        "overall_exponent": exponent(rows[0], rows[-1]) if local else None,
        "no_faster_than_linear": all(slope <= 1 + SLACK for slope in local),
    }


def verdicts(rows: Rows) -> list[dict[str, Any]]:
    """One for each axis."""
    axes = dict.fromkeys(row["axis"] for row in rows)
    return [verdict([row for row in rows if row["axis"] == axis]) for axis in axes]


def _shown(exponent: float | None) -> str:
    return "–" if exponent is None else f"{exponent:.2f}"


def table(rows: Rows) -> str:
    """All rows as Markdown, and the verdicts."""
    header = ["axis", "size", "precision", "ms a step", "exponent since the row above"]
    body = [
        [row["axis"], f"{row['value']:,}", row["precision"], f"{row['ms']:.0f}", _shown(slope)]
        for row in rows
        for slope in (row["exponent"],)
    ]
    lines = [
        f"- {found['axis']}: "
        + ("no faster than linear" if found["no_faster_than_linear"] else "FASTER than linear")
        + f"; exponents at most {_shown(found['largest_exponent'])}, "
        f"{_shown(found['overall_exponent'])} from end to end (1 is linear, up to {1 + SLACK} "
        "passes as scatter)"
        for found in verdicts(rows)
    ]
    return markdown(header, body) + "\n\n" + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", default="64,128,256,512,1024")
    parser.add_argument("--classes", default="50,200,1000,5000,20000")
    parser.add_argument("--descriptor", default="64,256,1024,4096")
    parser.add_argument("--base", default="CUB", help="the shape whose sizes are varied")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    rows: Rows = []
    for axis in AXES:
        values = [int(value) for value in getattr(options, axis).split(",")]
        rows += measure(axis, values, options.base, options.precision, options.repeats)
    print(table(rows))
    write(options.output, arguments, rows, verdicts=verdicts(rows))


if __name__ == "__main__":
    main()
