"""What `mlis reproduce` prints and writes."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.printing import number, print_json, print_table, say
from mlis.escape import terminal

if TYPE_CHECKING:
    from mlis.experiments.budget import Budget
    from mlis.experiments.outlook import Prospect
    from mlis.experiments.plans import Entry
    from mlis.experiments.source import Source
    from mlis.experiments.store import Row


def print_outlook(
    args: argparse.Namespace, prospects: "Sequence[Prospect]", sources: "dict[str, list[Source]]"
) -> None:
    """What would be run, what is there, and how long the rest may take."""
    lines = [["run", "key", "state", "reuses", "seconds"]]
    for one in prospects:
        seconds = "unknown" if one.seconds is None else number(one.seconds, 0)
        lines.append([one.title, one.task.key[:12], one.state, one.reuses, seconds])
    print_table(lines)
    missing = {s.name: s.problem for group in sources.values() for s in group if s.dataset is None}
    for name, problem in missing.items():
        say(f"{name} is left out: {problem}")
    left = [one for one in prospects if one.state != "done"]
    known = [one.seconds for one in left if one.seconds is not None]
    seconds = sum(known) / args.jobs
    unknown = len(left) - len(known)
    expected = [f"about {number(seconds / 60)} minutes"] if known else []
    expected += [f"{unknown} of unknown length"] if unknown else []
    done = len(prospects) - len(left)
    took = f": {', '.join(expected)}" if expected else ""
    say(f"{len(prospects)} runs, {done} done, {len(left)} to do{took}")
    if args.json:
        runs = [
            {
                **{"key": one.task.key, "run": one.title, "state": one.state},
                **{"reuses": one.reuses, "seconds": one.seconds},
            }
            for one in prospects
        ]
        left_out = {"missing": missing, "estimated_seconds": round(seconds, 1), "unknown": unknown}
        print_json({"experiment": args.name, "dry_run": True, "runs": runs, **left_out})


def print_row(title: str, row: "Row") -> None:
    """One line on stderr of a run that has ended."""
    from tqdm import tqdm

    found = f"H {number(row.test['H'])} ({row.protocol}), {row.cost['seconds']:.1f} s"
    tqdm.write(terminal(f"{title}: {found}"), file=sys.stderr)


def write(name: str, entries: "Sequence[Entry]", results: Path, budget: "Budget") -> list[Path]:
    """Print a table, and write it, or a figure, from what the store has."""
    from mlis.experiments import figures, table_files, tables
    from mlis.experiments.engine import store_of

    store = store_of(results)
    if name not in tables.TITLES:
        return figures.write(name, figures.curves(entries, store), budget, results / "figures")
    table = tables.table(name, entries, store, budget)
    say(table.title)
    print_table([table.header[:-1], *(line[:-1] for line in table.lines)])
    return table_files.write(name, table, results / "tables")


def print_done(
    args: argparse.Namespace,
    plans: "Mapping[str, list[Entry]]",
    prospects: "Sequence[Prospect]",
    budget: "Budget",
    files: Sequence[Path],
    problems: Mapping[str, str],
    started: float,
) -> None:
    """What failed, what was written, and which figures mean nothing."""
    from mlis.experiments.engine import store_of

    for title, problem in problems.items():
        say(f"failed: {title}: {problem}")
    say("written:", *files)
    origins = _origins(plans)
    if made_up := origins["stand_in"]:
        say(f"stand-in, features made up, no figure means anything: {', '.join(made_up)}")
    if args.json:
        there = sum(one.state == "done" for one in prospects)
        print_json(
            {
                "experiment": args.name,
                "protocol": ", ".join(budget.protocols),
                "budget": budget.name,
                "runs": len(prospects),
                "run_now": len(prospects) - there - len(problems),
                "failed": problems,
                **origins,
                "seconds": round(time.perf_counter() - started, 3),
                "store": str(store_of(args.output).path),
                "files": list(map(str, files)),
            }
        )


def _origins(plans: "Mapping[str, list[Entry]]") -> dict[str, Any]:
    """Which datasets are stand-ins, and which are missing and why."""
    sources = {e.source.name: e.source for found in plans.values() for e in found}.values()
    return {
        "stand_in": [source.name for source in sources if source.stand_in],
        "missing": {source.name: source.problem for source in sources if source.dataset is None},
    }
