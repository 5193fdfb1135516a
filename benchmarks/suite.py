"""All benchmarks of speed and memory: `make bench`, or `make bench BENCH=--full`.

    python benchmarks/suite.py [--full] [--parts steps,growth] [--data-root DIR] [-o bench-out]

Each part runs as a process of its own, so that one that fails is reported and the others run.
Quick, the default, takes some minutes: two shapes, few repeats. Full takes an hour or more, and
16 GB each in the temporary folder and for the rows of the largest fit. `bench.json` holds every
row, `bench.md` the tables.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import end_to_end
import extraction
import growth
import loading
import stage_two
import steps
from report import Rows, facts, markdown, measured_on

from mlis.storage.atomic import atomic_write, write_json

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    """One script of this folder.

    Attributes:
        script: its file's name.
        title: what it measures.
        table: its rows as Markdown.
        quick, full: its arguments in either mode.
        needs_data: whether it takes `--data-root`.
    """

    script: str
    title: str
    table: Callable[[Rows], str]
    quick: str = ""
    full: str = ""
    needs_data: bool = False

    def command(self, full: bool, data_root: Path | None) -> list[str]:
        """Arguments of the script, its output left out."""
        data = ["--data-root", str(data_root)] if self.needs_data and data_root else []
        return [*shlex.split(self.full if full else self.quick), *data]


def rows_table(rows: Rows) -> str:
    """The table of `growth_rows.py`."""
    header = ["rows", "fit", "MiB at the start", "loaded", "fitted", "tested"]
    header += ["load, s", "fit, s", "test, s"]
    body = []
    for row in rows:
        memory = [f"{row[f'MiB_{stage}']:,.0f}" for stage in ("start", "load", "fit", "test")]
        times = [f"{row[f's_{stage}']:.1f}" for stage in ("load", "fit", "test")]
        body.append([f"{row['rows']:,}", row["fit"], *memory, *times])
    return markdown(header, body)


PARTS: Mapping[str, Part] = {
    "steps": Part(
        "steps.py",
        "Steps of stage 1, and inference",
        steps.table,
        quick="--shapes CUB,FLO --repeats 2",
        full="--repeats 7 --profile",
    ),
    "stage_two": Part(
        "stage_two.py",
        "Stage 2 to convergence",
        stage_two.table,
        quick="--shapes FLO --repeats 1 --patience 3",
        full="--repeats 3",
    ),
    "growth": Part(
        "growth.py",
        "A stage-1 step as sizes grow",
        growth.table,
        quick="--batch 64,256,1024 --classes 50,1000,20000 --descriptor 64,4096 --repeats 2",
        full="--repeats 5",
    ),
    "rows": Part(
        "growth_rows.py",
        "A fit as the file grows",
        rows_table,
        quick="--rows 10000,50000 --steps 5 --iterations 2",
        full="--rows 10000,100000,1000000,2000000",
    ),
    "loading": Part(
        "loading.py", "Opening a file of AWA2's size", loading.table, quick="--repeats 1"
    ),
    "extraction": Part(
        "extraction.py", "Photographs to features", extraction.table,
        quick="--images 48 --repeats 2",
    ),
    "end_to_end": Part(
        "end_to_end.py", "From the feature file to the tested result", end_to_end.table,
        needs_data=True,
    ),
}  # fmt: skip


def run(name: str, part: Part, command: list[str], folder: Path) -> dict[str, Any]:
    """Run one part; its rows, or why there are none."""
    output = folder / f"{name}.json"
    output.unlink(missing_ok=True)
    words = [sys.executable, str(HERE / part.script), *command, "-o", str(output)]
    shown = shlex.join(["python", f"benchmarks/{part.script}", *command])
    print(f"\n== {part.title}\n{shown}", flush=True)
    started = time.perf_counter()
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, errors="replace")
    result: dict[str, Any] = {
        "name": name,
        "title": part.title,
        "command": shown,
        "seconds": time.perf_counter() - started,
    }
    if done.returncode or not output.exists():
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        print(f"failed (exit code {done.returncode}): {done.stderr}", file=sys.stderr)
        return {**result, "status": "failed", "reason": last[0], "rows": []}
    found = json.loads(output.read_text())
    status = {"status": "skipped", "reason": found["skipped"]} if "skipped" in found else {}
    return {**result, "status": "ok", **status, "rows": found["rows"]}


def report(results: Sequence[dict[str, Any]], machine: Mapping[str, Any], full: bool) -> str:
    """All tables in Markdown."""
    lines = ["# Benchmarks", "", measured_on(machine) + (", full." if full else ", quick.")]
    for result in results:
        spent = f"`{result['command']}`, {result['seconds']:.0f} s"
        lines += ["", f"## {result['title']}", "", spent, ""]
        if result["status"] == "ok":
            lines += [PARTS[result["name"]].table(result["rows"])]
        else:
            lines += [f"{result['status'].capitalize()}: {result['reason']}"]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all shapes and sizes, more repeats")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--data-root", type=Path, help="folder that holds FLO/")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench-out"))
    options = parser.parse_args(arguments)
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, but got {unknown[0]!r}")
    options.output.mkdir(parents=True, exist_ok=True)
    machine, results = facts(), []
    for name in names:
        command = PARTS[name].command(options.full, options.data_root)
        results.append(run(name, PARTS[name], command, options.output))
        write_json(
            options.output / "bench.json", {**machine, "full": options.full, "parts": results}
        )
        with atomic_write(options.output / "bench.md") as temporary:
            temporary.write_text(report(results, machine, options.full), encoding="utf-8")
    failed = [result["name"] for result in results if result["status"] == "failed"]
    print(f"\nwritten: {options.output / 'bench.json'} and {options.output / 'bench.md'}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
