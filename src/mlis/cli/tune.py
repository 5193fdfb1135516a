"""Search settings on validation classes of DATASET; test rows are not touched.

  mlis tune FLO --data-root DIR -o runs/tune-flo --trials 60
  mlis fit FLO --data-root DIR -o runs/flo --settings runs/tune-flo/preset.toml

A trial is worth the mean, over class splits of the training classes, of H at the best calibration
constant on the held-out classes. Trial 0 is the dataset's preset, trial 1 the defaults. Writes
OUT/preset.toml, the settings of the fastest trial that is within --within points of the best,
OUT/trials.csv, and OUT/study.jsonl, an Optuna study. An interrupted search continues when the
command is repeated. Settings given as flags are not searched.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.arguments import (
    add_common,
    add_setting_flags,
    at_least,
    given_settings,
    not_negative,
    resolve_settings,
    seeds,
)
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments
from mlis.cli.fit import check_loss
from mlis.cli.output import check_folder, print_json, print_table, say, to_toml
from mlis.errors import SettingsError

if TYPE_CHECKING:
    import optuna

    from mlis.config import Config
    from mlis.experiments.tuning.search import Search
    from mlis.experiments.tuning.space import Space


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tune",
        help="search settings on validation classes",
        description=__doc__,
        usage="mlis tune DATASET [--data-root DIR] -o OUT [options]",
    )
    add_dataset_arguments(parser)
    group = parser.add_argument_group("search")
    add_common(group, "--output", metavar="OUT")
    positive, natural = at_least(1), at_least(0)
    flags: list[tuple[str, Any, str, Any, str]] = [
        ("--space", Path, "FILE.toml", None, "what is searched (default: see --dry-run)"),
        ("--trials", positive, "N", 50, "in total, with those of earlier commands (default: 50)"),
        (
            "--timeout",
            not_negative,
            "SECONDS",
            None,
            "begin no trial later than this (default: none)",
        ),
        (
            *("--class-splits", natural, "N", 5),
            "splits of the training classes on which a trial is measured; 0: the dataset's own "
            "validation split, which is noisy (default: 5)",
        ),
        ("--seeds", seeds, "N[,N…]", (0,), "of trainings (default: 0)"),
        ("--search-seed", natural, "N", 0, "of the sampler (default: 0)"),
        (
            "--within",
            not_negative,
            "POINTS",
            0.0,
            "of H to give up for a faster training (default: 0)",
        ),
        ("--jobs", positive, "N", 1, "trials at a time, each in a process (default: 1)"),
    ]
    for flag, kind, metavar, default, text in flags:
        group.add_argument(flag, type=kind, metavar=metavar, default=default, help=text)
    group.add_argument("--dry-run", action="store_true", help="print the space; read no data")
    add_common(group, "--device", "--json", "--verbose")
    add_setting_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    from mlis.config import resolve

    try:
        from mlis.experiments.tuning.search import DEFAULTS, PRESET
        from mlis.experiments.tuning.space import COLD, read_space
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"`mlis tune` needs {error.name}, which is not installed: pip install 'mlis[tune]'"
        ) from None
    base, _, preset = resolve_settings(args)
    given = given_settings(args)
    fixed = {f"{s}.{n}" for s, values in given.items() if s != "precision" for n in values}
    space = read_space(args.space)
    space = {key: one for key, one in space.items() if key.removeprefix(COLD) not in fixed}
    if not space:
        raise SettingsError("nothing to search: every setting of the space is given as a flag")
    if "components" in given.get("refinement", {}):
        given["refinement"]["components"] = base.refinement.components
    starts = {PRESET: base, DEFAULTS: resolve(given)}
    if starts[DEFAULTS] == base:
        del starts[DEFAULTS]
    if args.dry_run:
        return _print_plan(args, space, starts, preset)
    check_folder(args.output)
    check_loss(base.refinement, given)
    return _tune(args, space, starts)


def _print_plan(
    args: argparse.Namespace, space: "Space", starts: "dict[str, Config]", preset: str
) -> None:
    from mlis.experiments.tuning.space import described

    rows = {key: described(one) for key, one in space.items()}
    trainings = (args.class_splits or 1) * len(args.seeds)
    print_table([["setting", "searched"], *([*row] for row in rows.items())])
    say(f"base: preset {preset}{'' if args.settings is None else f', {args.settings}'}")
    say(f"{args.trials} trials of at most {trainings} trainings, first: {', '.join(starts)}")
    if args.json:
        plan = {"space": rows, "trials": args.trials, "trainings_a_trial": trainings}
        print_json({"dry_run": True, **plan, "first": list(starts)})


def _tune(args: argparse.Namespace, space: "Space", starts: "dict[str, Config]") -> None:
    from tqdm import tqdm

    from mlis.experiments.tuning import search as tuning
    from mlis.experiments.tuning.report import in_words

    dataset = json.dumps(dataset_arguments(args), sort_keys=True)
    data = tuning.class_splits(dataset, args.class_splits)[0]
    measuring = (args.class_splits, args.seeds, args.device, args.search_seed)
    search = tuning.Search(args.output, dataset, data.sha256, space, starts, *measuring)
    budget = (args.trials, args.timeout, args.jobs)
    with (
        tuning.opened(search) as study,
        tqdm(unit=" trials", total=args.trials, disable=not sys.stderr.isatty()) as bar,
    ):
        try:
            _write(args, search, study)
            for trial in tuning.run(search, study, *budget):
                _write(args, search, study)
                bar.update(len(tuning.finished(study)) - bar.n)
                bar.write(in_words(trial), file=sys.stderr)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("continue with the same command") from None
        _print_found(args, study, data.provenance.name)


def _write(args: argparse.Namespace, search: "Search", study: "optuna.Study") -> None:
    """Write trials.csv and, once a trial is complete, preset.toml."""
    from mlis.config import Config
    from mlis.experiments.tuning import report
    from mlis.storage.atomic import write_text

    trials = [one for one in study.trials if report.status(one) != "waiting"]
    files = {"trials.csv": report.trials_csv(search, trials)}
    if best := report.winner(trials, args.within):
        command = f"mlis {shlex.join(sys.argv[1:])}"
        head = report.settings_head(search, trials, best, args.within, command)
        config = Config.from_dict(best.user_attrs["settings"])
        calibrated = config.replace({"classification": {"calibration": "validation"}})
        files["preset.toml"] = f"{head}\n{to_toml(calibrated)}"
    for name, text in files.items():
        write_text(args.output / name, text)


def _print_found(args: argparse.Namespace, study: "optuna.Study", name: str) -> None:
    """The ten best trials, and what is left to do."""
    from mlis.experiments.tuning import report
    from mlis.experiments.tuning.search import finished

    trials = [one for one in study.trials if report.status(one) != "waiting"]
    best = report.winner(trials, args.within)
    say(f"{name}: {report.MEASURE}, per cent")
    for one in report.ranked(trials)[:10]:
        say(("* " if one == best else "  ") + report.in_words(one))
    if best is not None:
        say(f"written: {args.output / 'preset.toml'} (trial {best.number}, marked *)")
    done = len(finished(study))
    left = f", {args.trials - done} left: repeat the command" if args.trials > done else ""
    say(f"{done} trials{left}")
    if args.json:
        states = [report.status(one) for one in trials]
        chosen = {"trial": best.number, "settings": best.user_attrs["settings"]} if best else {}
        print_json(
            {
                **{"dataset": name, "protocol": report.PROTOCOL, "measure": report.MEASURE},
                "trials": {state: states.count(state) for state in sorted(set(states))},
                "best": best and report.figures(best) | chosen,
            }
        )
