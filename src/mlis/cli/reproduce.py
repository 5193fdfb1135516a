"""`mlis reproduce`: tables and figures of the paper."""

import argparse
import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis import presets
from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.datasets import dataset_arguments
from mlis.cli.engine_flags import add_engine_flags, cluster_of
from mlis.cli.flag_types import at_least, names, ranges
from mlis.cli.output import add_output_flag, check_folder
from mlis.cli.reproduce_output import print_done, print_outlook, print_row, write
from mlis.config import read_toml
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mlis.cli.progress import Progress
    from mlis.compute.ray_cluster import Cluster
    from mlis.experiments.budget import Budget
    from mlis.experiments.engine import Engine
    from mlis.experiments.outlook import Prospect
    from mlis.experiments.plans import Entry
    from mlis.experiments.source import Source

NAMES = ("table1", "table2", "table3", "table4", "figure3", "figure4")

_DESCRIPTION = """\
Measure what a table or figure of the paper asks for, under H@val, and write it.

  mlis reproduce table3 --datasets FLO --data-root DIR -o results
  mlis reproduce all --datasets FLO --data-root DIR -o results --dry-run

Every run is a row of RESULTS/results.jsonl, which is only ever added to. What is there is not run
again; a command that was stopped at any moment continues when it is given again. Several processes
may work on one RESULTS. Settings: defaults < the dataset's own preset < --settings; all methods
choose their calibration constant on validation classes. A dataset whose files are missing is a line
that says so. Writes RESULTS/tables/NAME.md, .csv, .tex and RESULTS/figures/NAME.svg, .png, .csv."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "reproduce", help="tables and figures of the paper, measured", description=_DESCRIPTION
    )
    parser.add_argument("name", metavar="NAME", choices=(*NAMES, "all"), help="|".join(NAMES))
    group = parser.add_argument_group("what")
    group.add_argument(
        "--datasets",
        type=names,
        metavar="NAME[,NAME…]",
        help="benchmarks, `letters` or dataset folders (default: those of the paper)",
    )
    group.add_argument("--data-root", metavar="DIR", help="folder that holds FLO/, CUB/, …")
    group.add_argument(
        "--seeds", type=ranges, metavar="A-B|N,N…", help="default: 0-4; quick budget: 0"
    )
    group.add_argument(
        "--budget",
        choices=("paper", "quick"),
        default="paper",
        help="quick: a few steps and small networks, to see that it runs; figures mean nothing",
    )
    group.add_argument("--settings", metavar="FILE.toml", type=Path, help="over the presets")
    group.add_argument(
        "--protocol",
        action="append",
        choices=("val", "test-best", "both"),
        help="test-best or both: beside H@val also H@test-best (optimistic), the best of several "
        "steps and all constants on test data, as in published figures (default: val)",
    )
    _add_how(parser)
    add_common_flags(parser, with_json=True)
    parser.set_defaults(run=run)


def _add_how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    add_output_flag(group, "RESULTS", "folder")
    group.add_argument(
        "--jobs", type=at_least(1), default=1, metavar="N", help="runs at a time (default: 1)"
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="list the runs, what is there, what is reused and how long the rest may take",
    )
    add_device_flag(group)
    add_engine_flags(group, "run")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments ask for."""
    from mlis.experiments.budget import Budget
    from mlis.experiments.engine import store_of
    from mlis.experiments.outlook import outlook
    from mlis.experiments.plans import plan

    if not args.dry_run:
        check_folder(args.output)
    cluster = cluster_of(args)
    if cluster is not None and args.jobs != 1:
        raise SettingsError(
            "--jobs has no meaning with --engine ray: as many runs go on at a time as the cluster "
            "has cores and GPUs for (--cores, --gpus)"
        )
    seeds = args.seeds or ((0,) if args.budget == "quick" else Budget.seeds)
    budget = Budget(args.budget, seeds, args.device, _protocols(args.protocol))
    wanted = NAMES if args.name == "all" else (args.name,)
    sources = _sources(args, wanted)
    plans = {name: plan(name, sources[name], budget) for name in wanted}
    entries = [entry for found in plans.values() for entry in found]
    prospects = outlook(entries, store_of(args.output), args.output)
    if args.dry_run:
        print_outlook(args, prospects, sources)
        return 0
    return _execute(args, plans, prospects, budget, cluster)


def _protocols(given: Sequence[str] | None) -> tuple[str, ...]:
    """H@val always, whatever is asked for beside it."""
    from mlis.experiments.store import PROTOCOLS

    return PROTOCOLS if {"test-best", "both"} & set(given or ()) else PROTOCOLS[:1]


def _sources(args: argparse.Namespace, names: Sequence[str]) -> "dict[str, list[Source]]":
    """Datasets of each experiment; each dataset is loaded once."""
    from mlis.experiments.plans import PAPER_DATASETS

    layer = {} if args.settings is None else read_toml(args.settings)
    wanted = {name: args.datasets or PAPER_DATASETS[name] for name in names}
    loaded: dict[str, Source] = {}
    for dataset in dict.fromkeys(one for group in wanted.values() for one in group):
        loaded[dataset] = _source(dataset, args.data_root, layer)
    labels = [source.name for source in loaded.values()]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise SettingsError(f"--datasets: two are called {', '.join(twice)}: rename a folder")
    if all(source.dataset is None for source in loaded.values()):
        raise DataError(next(iter(loaded.values())).problem)
    return {name: [loaded[one] for one in group] for name, group in wanted.items()}


def _source(name: str, data_root: str | None, layer: Mapping[str, Any]) -> "Source":
    from mlis.data.io.benchmarks import benchmark_name
    from mlis.experiments.source import Source

    known = benchmark_name(name)
    place = {"data_root": data_root} if known and data_root is not None else {}
    arguments = dataset_arguments(argparse.Namespace(dataset=name, **place))
    preset = presets.load(presets.own_preset(name))
    source = Source.load(known or Path(name).name, arguments, preset, layer)
    if source.dataset is None and known is None:  # a benchmark may be missing, a typing error not
        raise DataError(source.problem)
    return source


def _execute(
    args: argparse.Namespace,
    plans: "Mapping[str, list[Entry]]",
    prospects: "Sequence[Prospect]",
    budget: "Budget",
    cluster: "Cluster | None",
) -> int:
    """Run what is left, write tables and figures, say what was done; return the exit code."""
    from mlis.cli.progress import Progress

    started, progress = time.perf_counter(), Progress()
    engine = _engine(args, budget, progress, cluster)
    try:
        files, problems = _run_and_write(engine, args.output, plans, prospects, budget)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("continue with the same command") from None
    finally:
        progress.close()
    print_done(args, plans, prospects, budget, files, problems, started)
    return 1 if problems else 0


def _run_and_write(
    engine: "Engine",
    output: Path,
    plans: "Mapping[str, list[Entry]]",
    prospects: "Sequence[Prospect]",
    budget: "Budget",
) -> tuple[list[Path], dict[str, str]]:
    """Files that were written, each as soon as all its runs are there, and failures by title."""
    there = {one.task.key for one in prospects if one.state == "done"}
    waiting = {name: {t.key for e in found for t in e.tasks} for name, found in plans.items()}
    titles = {one.task.key: one.title for one in prospects}
    files: list[Path] = []
    problems: dict[str, str] = {}
    finished: set[str] = set()

    def write_complete() -> None:
        for name in [name for name, keys in waiting.items() if keys <= finished]:
            del waiting[name]
            files.extend(write(name, plans[name], output, budget))

    write_complete()
    with contextlib.closing(engine.run([one.task for one in prospects], output)) as outcomes:
        for outcome in outcomes:
            finished.add(outcome.task.key)
            title = titles[outcome.task.key]
            if outcome.row is None:
                problems[title] = outcome.problem
            elif outcome.task.key not in there:
                print_row(f"{len(finished)}/{len(prospects)} {title}", outcome.row)
            write_complete()
    return files, problems


def _engine(
    args: argparse.Namespace, budget: "Budget", progress: "Progress", cluster: "Cluster | None"
) -> "Engine":
    models_of = (min(budget.seeds),)
    if cluster is None:
        from mlis.experiments.engine import LocalEngine

        return LocalEngine(args.jobs, models_of, progress)
    from mlis.experiments.ray_engine import RayEngine

    return RayEngine(cluster, models_of)
