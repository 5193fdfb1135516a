"""`mlis tune`: search settings on validation classes."""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.cli.fit import check_loss
from mlis.cli.flag_types import at_least, different, finite
from mlis.cli.output import add_output_flag, check_folder
from mlis.cli.settings import add_setting_flags, given_settings, resolve_settings
from mlis.cli.tune_output import print_found, print_plan, said, write_found

if TYPE_CHECKING:
    from mlis.config import Config
    from mlis.experiments.tuning.measure import Bench
    from mlis.experiments.tuning.report import About
    from mlis.experiments.tuning.space import Space
    from mlis.experiments.tuning.study import Study

_DESCRIPTION = """\
Search settings on validation classes of DATASET; test rows are not touched.

  mlis tune FLO --data-root DIR -o runs/tune-flo --trials 60
  mlis fit FLO --data-root DIR -o runs/flo --settings runs/tune-flo/preset.toml

A trial is worth the mean, over class splits of the training classes, of H at the best calibration
constant on the held-out classes. Trial 0 is the dataset's preset, trial 1 the defaults. Writes
OUT/preset.toml, the settings of the fastest trial that is within --within points of the best, and
OUT/trials.csv. A search that was stopped at any moment continues when the command is given again.
Settings given as flags are not searched."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tune",
        help="search settings on validation classes",
        description=_DESCRIPTION,
        usage="mlis tune DATASET [--data-root DIR] -o OUT [options]",
    )
    add_dataset_arguments(parser)
    group = parser.add_argument_group("search")
    add_output_flag(group, "OUT")
    group.add_argument(
        "--space", metavar="FILE.toml", type=Path, help="what is searched (default: --dry-run says)"
    )
    _add_budget(group)
    group.add_argument(
        "--dry-run", action="store_true", help="say what would be searched; read no data"
    )
    add_device_flag(group)
    add_common_flags(group, with_json=True)
    add_setting_flags(parser)
    parser.set_defaults(run=run)


def _add_budget(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--trials",
        type=at_least(1),
        default=50,
        metavar="N",
        help="all in all, those of earlier commands included (default: 50)",
    )
    group.add_argument(
        "--timeout", type=finite, metavar="SECONDS", help="of this command (default: none)"
    )
    group.add_argument(
        "--class-splits",
        type=at_least(0),
        default=5,
        metavar="N",
        help="splits of the training classes a trial is measured on; 0: the dataset's own "
        "validation split, which is noisy (default: 5)",
    )
    group.add_argument(
        "--seeds", type=different, default=(0,), metavar="N[,N…]", help="of trainings (default: 0)"
    )
    group.add_argument(
        "--search-seed",
        type=at_least(0),
        default=0,
        metavar="N",
        help="of the search (default: 0)",
    )
    group.add_argument(
        "--within",
        type=finite,
        default=0.0,
        metavar="POINTS",
        help="of H that may be given for a faster training (default: 0)",
    )
    group.add_argument(
        "--jobs", type=at_least(1), default=1, metavar="N", help="trainings at a time (default: 1)"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    from mlis.config import resolve
    from mlis.experiments.tuning.space import Space

    base, _, preset = resolve_settings(args)
    given = given_settings(args)
    fixed = [f"{s}.{n}" for s, values in given.items() if s != "precision" for n in values]
    space = Space.read(args.space).without(fixed)
    if "components" in given.get("refinement", {}):
        given["refinement"]["components"] = base.refinement.components
    starts = {"preset": base}
    if (defaults := resolve(given)) != base:
        starts["defaults"] = defaults
    if args.dry_run:
        return print_plan(args, space, starts, preset)
    check_folder(args.output)
    check_loss(base.refinement, given)
    return _tune(args, space, starts, preset)


def _tune(
    args: argparse.Namespace, space: "Space", starts: "dict[str, Config]", preset: str
) -> None:
    from mlis.experiments.tuning.study import Study, load_optuna
    from mlis.provenance import arithmetic_key
    from mlis.storage.locks import held

    load_optuna()
    base = starts["preset"]
    arithmetic = arithmetic_key(base, args.device)  # a device that is not there: say so now
    bench, about = _prepared(args, preset)
    identity = {
        **bench.identity(),
        "space": space.to_dict(),
        "settings": base.to_dict(),
        "arithmetic": arithmetic,
        "search_seed": args.search_seed,
    }
    with held(args.output):
        study = Study(args.output, identity, space, base, args.search_seed)
        for role, config in starts.items():
            study.line_up(role, config)
        _search(args, study, bench, space, about)
        print_found(args, study, base, about)


def _prepared(args: argparse.Namespace, preset: str) -> "tuple[Bench, About]":
    """Where trials are measured, and what is said of the search; loads the data."""
    from mlis.experiments.tuning.measure import Bench, class_splits, training_sha256
    from mlis.experiments.tuning.report import About

    arguments = dataset_arguments(args)
    dataset = load(arguments)
    class_splits(dataset, args.class_splits)
    bench = Bench(
        dataset=arguments,
        training=training_sha256(dataset),
        splits=args.class_splits,
        seeds=args.seeds,
        device=args.device,
        folder=args.output / "measured",
    )
    about = About(
        command=f"mlis {shlex.join(sys.argv[1:])}",
        dataset=dataset.provenance.name,
        data_sha256=dataset.sha256,
        training_sha256=bench.training,
        class_splits=f"{bench.rounds} class split{'s' if bench.rounds > 1 else ''}",
        seeds=args.seeds,
        search_seed=args.search_seed,
        within=args.within,
        preset=preset,
    )
    return bench, about


def _search(
    args: argparse.Namespace, study: "Study", bench: "Bench", space: "Space", about: "About"
) -> None:
    """Run trials, and write what is known after each."""
    from tqdm import tqdm

    from mlis.experiments.tuning.search import Budget, search

    write_found(args.output, study, space, about, bench.rounds)
    shown: dict[str, Any] = {"file": sys.stderr, "disable": not sys.stderr.isatty()}
    bar = tqdm(total=args.trials, initial=len(study.finished()), unit=" trials", **shown)
    budget = Budget(args.trials, args.timeout, args.jobs)
    try:
        with contextlib.closing(search(study, bench, budget)) as trials:
            for trial in trials:
                bar.set_postfix_str(f"trial {trial.number}: {said(trial)}")
                if trial.state != "running":
                    bar.update()
                    tqdm.write(f"trial {trial.number}: {said(trial)}", file=sys.stderr)
                    write_found(args.output, study, space, about, bench.rounds)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("continue with the same command") from None
    finally:
        bar.close()
