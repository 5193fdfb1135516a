"""Measure what a table or figure of the paper needs, under H@val, and write it.

  mlis reproduce table3 --datasets FLO --data-root DIR -o results
  mlis reproduce all --datasets FLO --data-root DIR -o results --dry-run

Every run is a row of RESULTS/results.jsonl, to which rows are only added. Finished runs are not
repeated: a command that was stopped at any moment continues when it is run again. Several processes
may share one RESULTS. Settings: defaults < the dataset's own preset < --settings; all methods
choose their calibration constant on validation classes. A dataset whose files are missing becomes a
line that says so. Writes RESULTS/tables/NAME.md, .csv, .tex and RESULTS/figures/NAME.svg, .png,
.csv.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis import presets
from mlis.cli.arguments import (
    Commands,
    add_command,
    add_common,
    add_engine_flags,
    at_least,
    cluster_of,
    names,
    seeds,
)
from mlis.cli.datasets import add_dataset_options, dataset_arguments, given_options
from mlis.cli.output import check_folder, number, print_json, print_table, say
from mlis.config import read_toml
from mlis.errors import DataError, SettingsError
from mlis.escape import terminal

if TYPE_CHECKING:
    from mlis.compute.ray_cluster import Cluster
    from mlis.experiments.budget import Budget
    from mlis.experiments.engine import LocalEngine
    from mlis.experiments.outlook import Prospect
    from mlis.experiments.plans import Entry
    from mlis.experiments.ray_engine import RayEngine
    from mlis.experiments.source import Source

NAMES = ("table1", "table2", "table3", "table4", "figure3", "figure4")


def add_to(commands: Commands) -> None:
    """Add the command."""
    text = "measure tables and figures of the paper"
    parser = add_command(commands, "reproduce", run, text, __doc__)
    parser.add_argument("name", metavar="NAME", choices=(*NAMES, "all"), help="|".join(NAMES))
    group = parser.add_argument_group("what")
    group.add_argument(
        "--datasets",
        type=names,
        metavar="NAME[,NAME…]",
        help="benchmarks, `letters` or dataset folders (default: those of the paper)",
    )
    add_dataset_options(group, "data_root", "features_file")
    group.add_argument(
        "--seeds", type=seeds, metavar="A-B|N,N…", help="default: 0-4; quick budget: 0"
    )
    group.add_argument(
        "--budget",
        choices=("paper", "reduced", "quick"),
        default="paper",
        help="paper: each system of table2 as published for the benchmark, where that is known, "
        "else its defaults (the default); reduced: those that take hours or days, cut down to "
        "minutes, and labelled so in each row; quick: a few steps and small networks, to test the "
        "set-up; figures mean nothing",
    )
    group.add_argument(
        "--methods",
        type=names,
        metavar="NAME[,NAME…]",
        help="of table2, or `all`; default: those that a CPU trains in minutes. The generative "
        "systems take hours to days at their published lengths",
    )
    group.add_argument("--settings", metavar="FILE.toml", type=Path, help="override the presets")
    group.add_argument(
        "--protocol",
        action="append",
        choices=("val", "test-best", "both"),
        help="test-best or both: beside H@val also H@test-best (optimistic), the best of several "
        "steps or settings and all constants on test data, as in published figures (default: val)",
    )
    group = parser.add_argument_group("how")
    add_common(group, "--output", metavar="RESULTS", help="folder of the results")
    group.add_argument(
        "--jobs", type=at_least(1), default=1, metavar="N", help="parallel runs (default: 1)"
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="list the runs, which are done, what is reused and how long the rest may take",
    )
    add_common(group, "--device")
    add_engine_flags(group, "run")


def run(args: argparse.Namespace) -> int:
    """Return the exit code."""
    from mlis.experiments.budget import Budget
    from mlis.experiments.engine import store_of
    from mlis.experiments.outlook import outlook
    from mlis.experiments.plans import plan
    from mlis.experiments.store import PROTOCOLS

    started = time.perf_counter()
    if not args.dry_run:
        check_folder(args.output)
    cluster = cluster_of(args)
    if cluster is not None and args.jobs != 1:
        raise SettingsError(
            "--jobs: not allowed with --engine ray: the cluster's cores and GPUs decide how many "
            "runs are parallel. Use --cores and --gpus."
        )
    both = {"test-best", "both"} & set(args.protocol or ())  # H@val is always there
    given = args.seeds or ((0,) if args.budget == "quick" else Budget.seeds)
    protocols = PROTOCOLS if both else PROTOCOLS[:1]
    budget = Budget(args.budget, given, args.device, protocols, _methods(args))
    wanted = NAMES if args.name == "all" else (args.name,)
    sources = _sources(args, wanted)
    plans = {name: plan(name, sources[name], budget) for name in wanted}
    entries = [entry for found in plans.values() for entry in found]
    prospects = outlook(entries, store_of(args.output), args.output)
    if args.dry_run:
        _print_outlook(args, prospects, sources)
        return 0
    work = _Work(args.output, plans, prospects, budget)
    _execute(args, work, cluster)
    _print_done(args, work, started)
    return 1 if work.problems else 0


def _methods(args: argparse.Namespace) -> tuple[str, ...]:
    """Methods of table 2."""
    from mlis.experiments.tasks import USUAL
    from mlis.methods.registry import METHODS, check_name

    if args.methods is None:
        return USUAL
    if args.methods == ("all",):
        return tuple(METHODS)
    for name in args.methods:
        check_name(name)
    return args.methods


def _sources(args: argparse.Namespace, names: Sequence[str]) -> "dict[str, list[Source]]":
    """Datasets of each experiment; each dataset is loaded once."""
    from mlis.experiments.plans import PAPER_DATASETS

    layer = {} if args.settings is None else read_toml(args.settings)
    wanted = {name: args.datasets or PAPER_DATASETS[name] for name in names}
    loaded: dict[str, Source] = {}
    for dataset in dict.fromkeys(one for group in wanted.values() for one in group):
        loaded[dataset] = _source(dataset, given_options(args), layer)
    labels = [source.name for source in loaded.values()]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise SettingsError(
            f"--datasets: expected distinct names, got two called {', '.join(twice)}. Rename a "
            "folder."
        )
    if all(source.dataset is None for source in loaded.values()):
        raise DataError(next(iter(loaded.values())).problem)
    sources = {name: [loaded[one] for one in group] for name, group in wanted.items()}
    if "table2" in sources:
        each = [source.each_descriptor() for source in sources["table2"]]
        sources["table2"] = [source for group in each for source in group]
    return sources


def _source(name: str, options: Mapping[str, Any], layer: Mapping[str, Any]) -> "Source":
    from mlis.data.io.benchmarks import benchmark_name, is_benchmark
    from mlis.experiments.source import Source

    known = benchmark_name(name)
    in_root = "data_root" in options and is_benchmark(name, options["data_root"])
    place = options if known or in_root else {}  # --data-root, --features
    arguments = dataset_arguments(argparse.Namespace(dataset=name, **place))
    preset = presets.load(presets.own_preset(name))
    source = Source.load(known or Path(name).name, arguments, preset, layer)
    if source.dataset is None and known is None:  # a benchmark may be missing, a typing error not
        raise DataError(source.problem)
    return source


def _print_outlook(
    args: argparse.Namespace, prospects: "Sequence[Prospect]", sources: "dict[str, list[Source]]"
) -> None:
    """Which runs there are, which are done, and how long the rest may take."""
    rows = [["run", "key", "state", "reuses", "seconds"]]
    for one in prospects:
        seconds = "unknown" if one.seconds is None else number(one.seconds, 0)
        rows.append([one.title, one.task.key[:12], one.state, one.reuses, seconds])
    print_table(rows)
    missing = {s.label: s.problem for group in sources.values() for s in group if s.dataset is None}
    for name, problem in missing.items():
        say(f"{name} is left out: {problem}")
    left = [one for one in prospects if one.state != "done"]
    known = [one.seconds for one in left if one.seconds is not None]
    seconds, unknown = sum(known) / args.jobs, len(left) - len(known)
    expected = [f"about {number(seconds / 60)} minutes"] if known else []
    expected += [f"{unknown} of unknown length"] if unknown else []
    took = f": {', '.join(expected)}" if expected else ""
    say(f"{len(prospects)} runs, {len(prospects) - len(left)} done, {len(left)} to do{took}")
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


@dataclass
class _Work:
    """What is to be run and written, what was written, and which runs failed."""

    results: Path
    plans: "Mapping[str, list[Entry]]"
    prospects: "Sequence[Prospect]"
    budget: "Budget"
    files: list[Path] = field(default_factory=list[Path])
    problems: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, engine: "LocalEngine | RayEngine") -> None:
        """Run what is left; write each table and figure as soon as all its runs are done."""
        done = {one.task.key for one in self.prospects if one.state == "done"}
        titles = {one.task.key: one.title for one in self.prospects}
        waiting = {
            name: {task.key for entry in entries for task in entry.tasks}
            for name, entries in self.plans.items()
        }
        finished: set[str] = set()

        def write_complete() -> None:
            for name in [name for name, keys in waiting.items() if keys <= finished]:
                del waiting[name]
                self.files += self._write(name)

        write_complete()
        tasks = [one.task for one in self.prospects]
        with contextlib.closing(engine.run(tasks, self.results)) as outcomes:
            for outcome in outcomes:
                key, row = outcome.task.key, outcome.row
                finished.add(key)
                if row is None:
                    self.problems[titles[key]] = outcome.problem
                elif key not in done:
                    found = f"H {number(row.test['H'])} ({row.protocol})"
                    count = f"{len(finished)}/{len(tasks)}"
                    _print_above(f"{count} {titles[key]}: {found}, {row.cost['seconds']:.1f} s")
                write_complete()

    def _write(self, name: str) -> list[Path]:
        """Print and write a table, or write a figure."""
        from mlis.experiments import figures, table_files, tables
        from mlis.experiments.engine import store_of

        entries, store = self.plans[name], store_of(self.results)
        if name not in tables.TITLES:
            curves = figures.curves(entries, store)
            return figures.write(name, curves, self.budget, self.results / "figures")
        table = tables.table(name, entries, store, self.budget)
        say(table.title)
        shown = len(table.header) - len(tables.ORIGIN if table.header == tables.HEADER else "1")
        print_table([line[:shown] for line in (table.header, *table.lines)])
        return table_files.write(name, table, self.results / "tables")


def _print_above(line: str) -> None:
    """One line on stderr, above a progress bar."""
    from tqdm import tqdm

    tqdm.write(terminal(line), file=sys.stderr)


def _execute(args: argparse.Namespace, work: _Work, cluster: "Cluster | None") -> None:
    from mlis.cli.progress import Progress
    from mlis.experiments.engine import LocalEngine
    from mlis.experiments.ray_engine import RayEngine

    models_of = (min(work.budget.seeds),)
    with Progress("continue with the same command") as progress:
        local = LocalEngine(args.jobs, models_of, progress)
        work.run(local if cluster is None else RayEngine(cluster, models_of))


def _print_done(args: argparse.Namespace, work: _Work, started: float) -> None:
    """Which runs failed, which files were written, and which figures mean nothing."""
    from mlis.experiments.engine import store_of

    for title, problem in work.problems.items():
        say(f"failed: {title}: {problem}")
    say("written:", *work.files)
    sources = {e.source.label: e.source for found in work.plans.values() for e in found}
    stand_in = list(dict.fromkeys(one.name for one in sources.values() if one.stand_in))
    if stand_in:
        say(f"stand-in, features made up, no figure means anything: {', '.join(stand_in)}")
    if args.json:
        done = sum(one.state == "done" for one in work.prospects)
        print_json(
            {
                "experiment": args.name,
                "protocol": ", ".join(work.budget.protocols),
                "budget": work.budget.name,
                "runs": len(work.prospects),
                "run_now": len(work.prospects) - done - len(work.problems),
                "failed": work.problems,
                "stand_in": stand_in,
                "missing": {n: s.problem for n, s in sources.items() if s.dataset is None},
                "seconds": round(time.perf_counter() - started, 3),
                "store": str(store_of(args.output).path),
                "files": list(map(str, work.files)),
            }
        )
