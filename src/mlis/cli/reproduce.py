"""`mlis reproduce`: tables and figures of the paper; `mlis rerun`: one of their rows again."""

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis import presets
from mlis.cli.common import (
    add_common_flags,
    add_device_flag,
    add_engine_flags,
    cluster_of,
    number,
    print_json,
    print_table,
)
from mlis.cli.datasets import dataset_arguments, relocated
from mlis.config import read_toml
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mlis.cli.progress import Progress
    from mlis.cluster import Cluster
    from mlis.experiments.engine import Engine
    from mlis.experiments.outlook import Prospect
    from mlis.experiments.plans import Budget, Entry, Source
    from mlis.experiments.store import Row

NAMES = ("table1", "table2", "table3", "table4", "figure3", "figure4")

_REPRODUCE = """\
Measure what a table or figure of the paper asks for, under H@val, and write it.

  mlis reproduce table3 --datasets FLO --data-root DIR -o results
  mlis reproduce all --datasets FLO --data-root DIR -o results --dry-run

Every run is a row of RESULTS/results.jsonl, which is only ever added to. What is there is not run
again; a command that was stopped at any moment continues when it is given again. Several processes
may work on one RESULTS. Settings: defaults < the dataset's own preset < --settings; all methods
choose their calibration constant on validation classes. A dataset whose files are missing is a line
that says so. Writes RESULTS/tables/NAME.md, .csv, .tex and RESULTS/figures/NAME.svg, .png, .csv."""

_RERUN = """\
Do the run of one row again, from what the row says alone, and compare all numbers: the same bits
are expected on the same machine with the same versions, else U, S and H within 1 point. The store
stays as it is. Exit code 1 if they do not agree."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands."""
    parser = commands.add_parser(
        "reproduce", help="tables and figures of the paper, measured", description=_REPRODUCE
    )
    parser.add_argument("name", metavar="NAME", choices=(*NAMES, "all"), help="|".join(NAMES))
    group = parser.add_argument_group("what")
    group.add_argument(
        "--datasets",
        type=_names,
        metavar="NAME[,NAME…]",
        help="benchmarks, `letters` or dataset folders (default: those of the paper)",
    )
    group.add_argument("--data-root", metavar="DIR", help="folder that holds FLO/, CUB/, …")
    group.add_argument(
        "--seeds", type=_seeds, metavar="A-B|N,N…", help="default: 0-4; quick budget: 0"
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
    _add_rerun(commands)


def _add_how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    group.add_argument("-o", "--output", metavar="RESULTS", type=Path, required=True, help="folder")
    group.add_argument(
        "--jobs", type=_positive, default=1, metavar="N", help="runs at a time (default: 1)"
    )
    group.add_argument(
        "--stack-seeds",
        action="store_true",
        help="train the seeds of one setting of MLIS together in batched products, each as alone "
        "but for rounding, which its row says; slower on a CPU, meant for GPUs, and no GPU has "
        "run it yet",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="list the runs, what is there, what is reused and how long the rest may take",
    )
    add_device_flag(group)
    add_engine_flags(group, "run")


def _add_rerun(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "rerun", help="do a result's run again and compare", description=_RERUN
    )
    parser.add_argument("row", metavar="ROW", help="key of the row, or how it begins")
    parser.add_argument(
        "-o", "--output", metavar="RESULTS", type=Path, required=True, help="folder"
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="where the data are, if they have moved",
    )
    add_device_flag(parser, default=None)
    add_common_flags(parser, with_json=True)
    parser.set_defaults(run=run_again, dataset=None)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names such as FLO,CUB, but got {text!r}")
    return names


def _seeds(text: str) -> tuple[int, ...]:
    """Numbers and ranges.

    >>> _seeds("0-2,7")
    (0, 1, 2, 7)
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        high = high or low
        if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
            raise argparse.ArgumentTypeError(f"expected seeds such as 0-4 or 0,2, got {text!r}")
        seeds += range(int(low), int(high) + 1)
    return tuple(dict.fromkeys(seeds))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number ≥ 1, but got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments ask for."""
    from mlis.experiments.engine import store_of
    from mlis.experiments.outlook import outlook
    from mlis.experiments.plans import Budget, plan

    if args.output.exists() and not args.output.is_dir():
        raise SettingsError(f"-o {args.output}: is a file; name a folder")
    cluster = cluster_of(args)
    if cluster is not None and (args.jobs != 1 or args.stack_seeds):
        raise SettingsError(
            "--jobs and --stack-seeds have no meaning with --engine ray: as many runs go on at a "
            "time as the cluster has cores and GPUs for (--cores, --gpus)"
        )
    seeds = args.seeds or ((0,) if args.budget == "quick" else Budget.seeds)
    budget = Budget(args.budget, seeds, args.device, _protocols(args.protocol))
    names = NAMES if args.name == "all" else (args.name,)
    sources = _sources(args, names)
    plans = {name: plan(name, sources[name], budget) for name in names}
    entries = [entry for found in plans.values() for entry in found]
    prospects = outlook(entries, store_of(args.output), args.output)
    if args.dry_run:
        return _print_outlook(args, prospects, sources)
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
    from mlis.data.benchmarks import benchmark_name
    from mlis.experiments.plans import Source

    known = benchmark_name(name)
    place = {"data_root": data_root} if known and data_root is not None else {}
    arguments = dataset_arguments(argparse.Namespace(dataset=name, **place))
    preset = presets.load(presets.own_preset(name))
    source = Source.load(known or Path(name).name, arguments, preset, layer)
    if source.dataset is None and known is None:  # a benchmark may be missing, a typing error not
        raise DataError(source.problem)
    return source


def _print_outlook(
    args: argparse.Namespace, prospects: "Sequence[Prospect]", sources: "dict[str, list[Source]]"
) -> int:
    lines = [["run", "key", "state", "reuses", "seconds"]]
    for one in prospects:
        seconds = "unknown" if one.seconds is None else number(one.seconds, 0)
        lines.append([one.title, one.task.key[:12], one.state, one.reuses, seconds])
    print_table(lines)
    missing = {s.name: s.problem for group in sources.values() for s in group if s.dataset is None}
    for name, problem in missing.items():
        print(f"{name} is left out: {problem}")
    left = [one for one in prospects if one.state != "done"]
    known = [one.seconds for one in left if one.seconds is not None]
    seconds = sum(known) / args.jobs
    unknown = len(left) - len(known)
    expected = [f"about {number(seconds / 60)} minutes"] if known else []
    expected += [f"{unknown} of unknown length"] if unknown else []
    done = len(prospects) - len(left)
    took = f": {', '.join(expected)}" if expected else ""
    print(f"{len(prospects)} runs, {done} done, {len(left)} to do{took}")
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
    return 0


def _execute(
    args: argparse.Namespace,
    plans: "Mapping[str, list[Entry]]",
    prospects: "Sequence[Prospect]",
    budget: "Budget",
    cluster: "Cluster | None",
) -> int:
    from mlis.cli.progress import Progress
    from mlis.experiments.engine import store_of

    started, progress = time.perf_counter(), Progress()
    there = {one.task.key for one in prospects if one.state == "done"}
    engine = _engine(args, budget, progress, cluster)
    waiting = {name: {t.key for e in found for t in e.tasks} for name, found in plans.items()}
    titles = {one.task.key: one.title for one in prospects}
    files: list[Path] = []
    problems: dict[str, str] = {}
    finished: set[str] = set()

    def write_complete() -> None:
        for name in [name for name, keys in waiting.items() if keys <= finished]:
            del waiting[name]
            files.extend(_write(name, plans[name], args.output, budget))

    try:
        write_complete()
        with contextlib.closing(
            engine.run([one.task for one in prospects], args.output)
        ) as outcomes:
            for outcome in outcomes:
                finished.add(outcome.task.key)
                title = titles[outcome.task.key]
                if outcome.row is None:
                    problems[title] = outcome.problem
                elif outcome.task.key not in there:
                    _say(f"{len(finished)}/{len(prospects)} {title}", outcome.row)
                write_complete()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("continue with the same command") from None
    finally:
        progress.close()
    for title, problem in problems.items():
        print(f"failed: {title}: {problem}")
    print("written:", *files)
    origins = _origins(plans)
    if made_up := origins["stand_in"]:
        print(f"stand-in, features made up, no figure means anything: {', '.join(made_up)}")
    if args.json:
        print_json(
            {
                "experiment": args.name,
                "protocol": ", ".join(budget.protocols),
                "budget": budget.name,
                "runs": len(prospects),
                "run_now": len(prospects) - len(there) - len(problems),
                "failed": problems,
                **origins,
                "seconds": round(time.perf_counter() - started, 3),
                "store": str(store_of(args.output).path),
                "files": list(map(str, files)),
            }
        )
    return 1 if problems else 0


def _engine(
    args: argparse.Namespace, budget: "Budget", progress: "Progress", cluster: "Cluster | None"
) -> "Engine":
    models_of = (min(budget.seeds),)
    if cluster is None:
        from mlis.experiments.engine import LocalEngine

        return LocalEngine(args.jobs, models_of, progress, stack_seeds=args.stack_seeds)
    from mlis.experiments.ray_engine import RayEngine

    return RayEngine(cluster, models_of)


def _origins(plans: "Mapping[str, list[Entry]]") -> dict[str, Any]:
    """Which datasets are stand-ins, and which are missing and why."""
    sources = {e.source.name: e.source for found in plans.values() for e in found}.values()
    return {
        "stand_in": [source.name for source in sources if source.stand_in],
        "missing": {source.name: source.problem for source in sources if source.dataset is None},
    }


def _say(title: str, row: "Row") -> None:
    from tqdm import tqdm

    found = f"H {number(row.test['H'])} ({row.protocol}), {row.cost['seconds']:.1f} s"
    tqdm.write(f"{title}: {found}", file=sys.stderr)


def _write(name: str, entries: "Sequence[Entry]", results: Path, budget: "Budget") -> list[Path]:
    """Print a table, and write it, or a figure, from what the store has."""
    from mlis.experiments import figures, tables
    from mlis.experiments.engine import store_of

    store = store_of(results)
    if name not in tables.TITLES:
        return figures.write(name, figures.curves(entries, store), budget, results / "figures")
    table = tables.table(name, entries, store, budget)
    print(table.title)
    print_table([table.header[:-1], *(line[:-1] for line in table.lines)])
    return tables.write(name, table, results / "tables")


def run_again(args: argparse.Namespace) -> int:
    """`mlis rerun`."""
    from mlis.cli.progress import Progress
    from mlis.experiments.engine import store_of
    from mlis.experiments.rerun import rerun

    row = store_of(args.output).find(args.row)
    progress = Progress()
    dataset = relocated(row.task["dataset"], args)
    try:
        found = rerun(row, dataset=dataset, device=args.device, listen=progress)
    finally:
        progress.close()
    rows = [["", "U", "S", "H"]]
    for label, one in (("row", row), ("again", found.row)):
        rows.append([label, *(number(one.test[name], 3) for name in ("U", "S", "H"))])
    print_table(rows)
    label = f"{row.task['name']}, {row.protocol}{', stand-in' if row.stand_in else ''}"
    print(f"{label}: {found}")
    if args.json:
        facts = {"row": row.key, "protocol": row.protocol, "stand_in": row.stand_in}
        verdict = {"agrees": found.agrees, "same_bits": found.same_bits}
        again = {name: found.row.test[name] for name in ("U", "S", "H")}
        print_json({**facts, **verdict, "difference": found.difference, "again": again})
    return 0 if found.agrees else 1
