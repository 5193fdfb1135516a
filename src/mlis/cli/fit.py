"""Train a recognizer on DATASET and test it once.

  mlis fit DATASET -o RUN
  mlis fit FLO --data-root DIR -o runs/flo --budget 10m
  mlis fit FLO --data-root DIR -o runs/ablation --seeds 0-2 --components ml,ml+is,ml+is+sfr
  mlis fit --features F.mat --split S.mat -o runs/own --generator ridge
  mlis fit FLO --data-root DIR -o runs/eszsl --method eszsl
  mlis fit --resume runs/flo

The run folder contains all settings (run.json), losses (*.jsonl), snapshots, the saved model of
each seed and method (RUN/seed-0/auto/model) and results.json. Finished work is never repeated: a
run that was stopped at any moment continues with --resume and ends with the same weights (`auto`
begins again; with a budget of time its result depends on the machine's speed). Trained generators
are kept in the user's cache folder (MLIS_CACHE, or the system's default), where later runs with the
same data, generator settings and seed find them; they can be deleted at any time.
Settings: defaults < preset < settings file < flags; --dry-run prints the result.
"""

import argparse
import logging
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlis
from mlis.cli.arguments import (
    Commands,
    add_command,
    add_common,
    add_setting_flags,
    duration,
    given_settings,
    names,
    not_negative,
    refuse,
    resolve_settings,
    seeds,
)
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load, relocated
from mlis.cli.output import (
    MEASURES,
    check_folder,
    number,
    print_json,
    print_list,
    print_summaries,
    print_table,
    result_object,
    say,
    to_toml,
)
from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.config import Config, Refinement
    from mlis.data.dataset import GZSLDataset
    from mlis.io.run_plan import RunPlan

logger: logging.Logger = logging.getLogger(__name__)


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        *(commands, "fit", run, "train on a dataset, test once, save"),
        __doc__,
        usage="mlis fit DATASET [--data-root DIR] -o RUN [options]\n"
        "       mlis fit --features FILE --split FILE -o RUN [options]\n"
        "       mlis fit --resume RUN [--data-root DIR]",
    )
    add_dataset_arguments(parser)
    group = parser.add_argument_group("run")
    add_common(group, "--output", metavar="RUN", required=False, help="run folder to write")
    group.add_argument(
        "--resume",
        metavar="RUN",
        type=Path,
        help="continue a run with the settings in its run.json; name DATASET or --data-root only "
        "if the data have moved, --loss only if it is your own code",
    )
    group.add_argument(
        "--method",
        metavar="NAME",
        help="auto (default): try several methods on validation classes and average the best; or "
        "one system: cosine, prototype, eszsl, gaussian, ridge, raw, sje, vgse, vgse-patches, "
        "cngzsl, zicldm-reconstruction, zlap, dazle, dvbe, cegzsl, tcn, cada-vae, hsva, sdgzsl, "
        "lisgan, f-vaegan, tf-vaegan, free, gcm-cf, keshari-reconstruction, li-reconstruction, "
        "tdcss-reconstruction, icce-reconstruction, taco-reconstruction or mlis. With "
        "--components or settings of generation and refinement the default is mlis",
    )
    group.add_argument(
        "--budget",
        type=duration,
        metavar="TIME",
        help="auto: time for choice and training, such as 60s (default), 10m, or none",
    )
    group.add_argument(
        "--candidates",
        type=names,
        metavar="NAME,…",
        help="auto: further systems to try and average, with the settings of generation given here",
    )
    group.add_argument("--seeds", type=seeds, metavar="A-B|N,N…", help="default: 0")
    group.add_argument(
        "--snapshot-every",
        type=not_negative,
        default=30.0,
        metavar="SECONDS",
        help="time between snapshots (default: 30); does not change the result",
    )
    group.add_argument(
        "--no-reuse",
        action="store_true",
        help="train the generators in the run folder, even if the user's cache folder has them",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print all settings as TOML, ready for --settings; read no data, train nothing",
    )
    group.add_argument(
        "--no-growth",
        action="store_true",
        help="do not keep exemplars.safetensors beside each model: no classes can be added later",
    )
    add_common(group, "--device", default=None)
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.resume is not None:
        folder, plan, dataset = _resumed(args)
    else:
        config, components, preset = resolve_settings(args)
        if args.dry_run:
            print(f"# mlis {mlis.__version__}, preset {preset}\n{to_toml(config)}", end="")
            return
        logger.info("settings: preset %s, settings file %s", preset, args.settings or "none")
        folder, plan, dataset = _begun(args, config, components)
    results = _execute(args, folder, plan, dataset)
    _print(args, folder, dataset, results)


def _resumed(args: argparse.Namespace) -> "tuple[Path, RunPlan, GZSLDataset]":
    """A run continues with its own settings: none may be given again but the loss's name."""
    from mlis.io.run_plan import RunPlan

    own = ("output", "dry_run", "seeds", "method", "budget", "candidates", "device")
    own = (*own, "preset", "settings")
    settings = [name for name in vars(args) if "." in name and name != "refinement.loss"]
    where = args.resume / "run.json"
    refuse(args, [*own, "precision", *settings], f"with --resume, as {where} has all settings")
    plan = RunPlan.read(args.resume)
    check_loss(plan.config.refinement, given_settings(args))
    return args.resume, plan, load(relocated(plan.dataset, args))


def _begun(
    args: argparse.Namespace, config: "Config", components: tuple[str, ...]
) -> "tuple[Path, RunPlan, GZSLDataset]":
    if args.output is None:
        raise SettingsError("no run folder: name one with -o RUN.")
    check_folder(args.output)
    check_loss(config.refinement, given_settings(args))
    arguments = dataset_arguments(args)
    from mlis.compute.precision import Precision
    from mlis.methods.registry import METHODS, build_method, check_name
    from mlis.runs.run import RunPlan, begin

    method, device = args.method or _default_method(args), args.device or "auto"
    check_name(method)
    options = {name: getattr(args, name) for name in ("budget", "candidates")}
    options = {name: value for name, value in options.items() if value is not None}
    if options and method != "auto":
        raise SettingsError(
            f"--{next(iter(options))}: only --method auto has it, got --method {method}."
        )
    chosen = given_settings(args).get("refinement", {}).get("components")
    if chosen and not METHODS[method].has_components:
        known = ", ".join(name for name, one in METHODS.items() if one.has_components)
        raise SettingsError(
            f"--components: only {known} has them, got --method {method}. Leave it out."
        )
    build_method(method, config, **options)  # these refuse before data are read
    Precision.of(config.precision, device)
    dataset = load(arguments)
    plan = RunPlan(
        dataset=arguments,
        data_sha256=dataset.sha256,
        config=config,
        seeds=args.seeds or (0,),
        components=components,
        device=device,
        method=method,
        options=options,
    )
    begin(args.output, plan)
    return args.output, plan, dataset


def _default_method(args: argparse.Namespace) -> str:
    """ "auto"; the paper's method where settings that only it has are given, and no candidates."""
    own = given_settings(args).keys() & {"generation", "refinement"}
    return "mlis" if own and args.candidates is None else "auto"


def check_loss(settings: "Refinement", flags: Mapping[str, Any]) -> None:
    """Import a loss of the user's own before hours of generator training, not after.

    It may be in the current folder, where `python -m` would find it too. A loss that a file names
    (a run's record, a settings file) is imported only if the flags name it too.

    Raises:
        SettingsError: `--loss` names another loss or none, or it cannot be imported.
    """
    from mlis.encoder.metric_losses import load_loss, similarity_loss

    named = flags.get("refinement", {}).get("loss")
    if named not in (None, settings.loss):
        raise SettingsError(
            f"--loss: expected {settings.loss!r}, which the run was begun with, got {named!r}."
        )
    if similarity_loss(settings) is None:
        if named is None and ":" in settings.loss:
            raise SettingsError(
                f"refinement.loss: a file names {settings.loss!r}, which runs Python code. If you "
                f"trust that code, add --loss {shlex.quote(settings.loss)}"
            )
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        load_loss(settings.loss)


def _execute(
    args: argparse.Namespace, folder: Path, plan: "RunPlan", dataset: "GZSLDataset"
) -> dict[str, Any]:
    from mlis.cli.progress import Progress
    from mlis.runs.run import execute

    advice = f"continue with: mlis fit --resume {shlex.quote(str(folder))}"
    _print_outlook(folder, plan, dataset)
    with Progress(advice) as progress:
        return execute(
            *(folder, plan, dataset),
            listen=progress,
            snapshot_every=args.snapshot_every,
            reuse=not args.no_reuse,
            exemplars=not args.no_growth,
        )


def _print_outlook(folder: Path, plan: "RunPlan", dataset: "GZSLDataset") -> None:
    """How long the whole run takes at most, where a budget limits it; else how much is trained."""
    from mlis.methods.auto import LONGEST
    from mlis.methods.registry import METHODS
    from mlis.protocol import folds

    places = [folder / f"seed-{seed}" / one for seed in plan.seeds for one in plan.variants]
    runs, text = sum(not (place / "result.json").exists() for place in places), ""
    if not runs:
        return
    if plan.method == "auto":
        budget = float(plan.options.get("budget", METHODS["auto"]().options["budget"]))
        if budget < LONGEST:
            seeds = f" for {runs} seeds" if runs > 1 else ""
            seconds = number(budget * runs, 0)
            text = f"choice and training: about {seconds} s at most{seeds} (--budget)"
        else:
            each = f"{runs} times " if runs > 1 else ""
            text = f"to train: {each}every method on several splits, then those kept on all rows"
    elif plan.method_of(plan.variants[0]).chooses:
        held_out = len(folds(dataset))
        each = f"{runs} times " if runs > 1 else ""
        splits = f"{held_out} split{'s' if held_out > 1 else ''}"
        text = f"to train: {each}on {splits} with validation classes held out, then on all rows"
    if text:
        print(text, file=sys.stderr)


def _print(
    args: argparse.Namespace,
    folder: Path,
    dataset: "GZSLDataset",
    results: Mapping[str, Any],
) -> None:
    from mlis.data.dataset import DISPLAYED
    from mlis.evaluation import in_words
    from mlis.evaluation.words import legend

    name, display = dataset.provenance.name, dataset.provenance.sources.get(DISPLAYED) or {}

    seeds, summaries = results["seeds"], results["components"]
    say(f"{name}, {results['protocol']}, seeds {', '.join(map(str, seeds))}, per cent")
    *_, last = summaries.values()
    if words := in_words(*(last[f"{name}_mean"] for name in "USH")):
        say(words)
    print_summaries(summaries)
    _print_choice(folder / f"seed-{seeds[0]}" / "auto" / "result.json", display)
    print_list("in words:", legend(MEASURES))
    if any(any(summary["generator_reused"]) for summary in summaries.values()):
        say("some generators were reused from the cache (generator_reused)")
    if any(value is None for one in summaries.values() for name in "US" for value in one[name]):
        say("–: the dataset has no test image for it (U: unseen classes, S: seen classes)")
    models = folder / f"seed-{seeds[-1]}" / list(summaries)[-1] / "model"
    say(f"saved: {models}" + (" and beside it" if len(seeds) * len(summaries) > 1 else ""))
    if (exemplars := models / "exemplars.safetensors").exists():
        size = f"{exemplars.stat().st_size / 2**20:.1f} MiB per model"
        say(f"  exemplars.safetensors, for `mlis add-classes`: {size} (--no-growth: none)")
    if args.json:
        metadata = {"dataset": name, "protocol": results["protocol"], "run": str(folder)}
        print_json(result_object(summaries, seeds, **metadata))


def _print_choice(path: Path, display: Mapping[str, str]) -> None:
    """What the automatic choice tried, kept and expected, with the first seed."""
    from mlis.evaluation.words import MEANING
    from mlis.io.run_plan import read_sealed

    if not path.exists() or not (choice := read_sealed(path).get("choice")):
        return
    kept, rows = choice["kept"], [["tried", "H on validation", "T1", "seconds", "share"]]
    for name, one in choice["tried"].items():
        measures = [_over_splits(one[measure]) for measure in ("H", "T1")]
        rows.append([name, *measures, number(one["seconds"]), number(kept.get(name), 2)])
    print_table(rows)
    say("expected of the test, from validation classes:")
    for name, (low, middle, high) in choice["expected"].items():
        say(f"  {name:<3}{middle:.0f} ({low:.0f} to {high:.0f})  {MEANING[name]}")
    risky = [[display.get(name, name) for name in one] for one in choice["at_risk"]]
    lines = [" → ".join(one) for one in risky]
    print_list("unseen classes that may fail, and what for:", lines)


def _over_splits(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"
