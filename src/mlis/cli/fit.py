"""`mlis fit`: train, test once, save; or continue a run that was stopped."""

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlis
from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load, relocated
from mlis.cli.flag_types import not_negative, whole_numbers
from mlis.cli.output import check_folder
from mlis.cli.printing import print_json, print_summaries, result_object, say
from mlis.cli.settings import add_setting_flags, given_settings, resolve_settings, to_toml
from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.config import Refinement
    from mlis.data.dataset import GZSLDataset
    from mlis.io.run_plan import RunPlan

logger: logging.Logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Train a recognizer on DATASET and test it once.

  mlis fit FLO --data-root DIR -o runs/flo
  mlis fit FLO --data-root DIR -o runs/ablation --seeds 0,1,2 --components ml,ml+is,ml+is+sfr
  mlis fit --features F.mat --split S.mat -o runs/own --generator ridge
  mlis fit --resume runs/flo

The run folder holds all settings (run.json), losses (*.jsonl), snapshots, the saved model of each
seed and components (RUN/seed-0/ml+is+sfr/model) and results.json. Whatever is finished is never
repeated; a run that was stopped at any moment continues with --resume and ends with the same
weights. Generators are kept in the user's cache folder (MLIS_CACHE, or the system's usual place),
where every later run with the same data, generator settings and seed finds them; they may be
deleted at any time. Settings: defaults < preset < settings file < flags; --dry-run shows what they
come to."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "fit",
        help="train on a dataset, test once, save",
        description=_DESCRIPTION,
        usage="mlis fit DATASET [--data-root DIR] -o RUN [options]\n"
        "       mlis fit --features FILE --split FILE -o RUN [options]\n"
        "       mlis fit --resume RUN [--data-root DIR]",
    )
    add_dataset_arguments(parser)
    group = parser.add_argument_group("run")
    _add_run_flags(group)
    add_device_flag(group, default=None)
    add_common_flags(group, with_json=True)
    add_setting_flags(parser)
    parser.set_defaults(run=run)


def _add_run_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-o", "--output", metavar="RUN", type=Path, help="run folder to write")
    group.add_argument(
        "--resume",
        metavar="RUN",
        type=Path,
        help="continue a run with the settings in its run.json; name DATASET or --data-root only "
        "if the data have moved, --loss only where it is your own code",
    )
    group.add_argument("--seeds", type=whole_numbers, metavar="N[,N…]", help="default: 0")
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
        help="do not keep growth.safetensors beside each model: no class can be added to it later",
    )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    if args.resume is not None:
        _check_resume(args)
        folder, plan, dataset = _continued(args)
    else:
        config, components, preset = resolve_settings(args)
        if args.dry_run:
            print(f"# mlis {mlis.__version__}, preset {preset}\n{to_toml(config)}", end="")
            return
        logger.info("settings: preset %s, settings file %s", preset, args.settings or "none")
        folder, plan, dataset = _begun(args, config, components)
    results = _execute(args, folder, plan, dataset)
    _print(args, folder, dataset.provenance.name, results)


def _check_resume(args: argparse.Namespace) -> None:
    """A run continues as it began: no setting may be given again."""
    settings = given_settings(args)
    settings.get("refinement", {}).pop("loss", None)  # the user's word for it: see `check_loss`
    given = {
        "-o": args.output,
        "--dry-run": args.dry_run,
        "--seeds": args.seeds,
        "--device": args.device,
        "--preset": args.preset,
        "--settings": args.settings,
        "the flags of settings": any(settings.values()),
    }
    if extra := [flag for flag, value in given.items() if value]:
        raise SettingsError(
            f"--resume takes everything from {args.resume / 'run.json'}: leave out "
            f"{', '.join(extra)}"
        )


def _continued(args: argparse.Namespace) -> "tuple[Path, RunPlan, GZSLDataset]":
    from mlis.io.run_plan import RunPlan

    plan = RunPlan.read(args.resume)
    check_loss(plan.config.refinement, given_settings(args))
    return args.resume, plan, load(relocated(plan.dataset, args))


def _begun(
    args: argparse.Namespace, config: Any, components: tuple[str, ...]
) -> "tuple[Path, RunPlan, GZSLDataset]":
    if args.output is None:
        raise SettingsError("no run folder: name one with -o RUN")
    check_folder(args.output)
    check_loss(config.refinement, given_settings(args))
    arguments = dataset_arguments(args)
    from mlis.compute.precision import Precision
    from mlis.runs.run import RunPlan, begin

    Precision.of(config.precision, args.device or "auto")  # a device that is not there: say so now
    dataset = load(arguments)
    plan = RunPlan(
        dataset=arguments,
        data_sha256=dataset.sha256,
        config=config,
        seeds=args.seeds or (0,),
        components=components,
        device=args.device or "auto",
    )
    begin(args.output, plan)
    return args.output, plan, dataset


def check_loss(settings: "Refinement", flags: Mapping[str, Any]) -> None:
    """Import a loss of the user's own before hours of generator training, not after.

    It may lie in the current folder, where `python -m` would find it too. What a file names (a
    run's record, a settings file) is imported only where the flags name it too.

    Raises:
        SettingsError: `--loss` names another loss or none, or it cannot be imported.
    """
    from mlis.encoder.metric_losses import load_loss, similarity_loss

    said = flags.get("refinement", {}).get("loss")
    if said not in (None, settings.loss):
        raise SettingsError(f"--loss {said}: the run was begun with {settings.loss!r}; name that")
    if similarity_loss(settings) is None:
        if said is None and ":" in settings.loss:
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

    progress = Progress()
    try:
        return execute(
            *(folder, plan, dataset),
            listen=progress,
            snapshot_every=args.snapshot_every,
            reuse=not args.no_reuse,
            growable=not args.no_growth,
        )
    except KeyboardInterrupt:
        resume = f"mlis fit --resume {shlex.quote(str(folder))}"
        raise KeyboardInterrupt(f"continue with: {resume}") from None
    finally:
        progress.close()


def _print(args: argparse.Namespace, folder: Path, name: str, results: Mapping[str, Any]) -> None:
    seeds, summaries = results["seeds"], results["components"]
    facts = {"dataset": name, "protocol": results["protocol"], "run": str(folder)}
    say(f"{name}, {results['protocol']}, seeds {', '.join(map(str, seeds))}, per cent")
    print_summaries(summaries)
    if any(any(summary["generator_reused"]) for summary in summaries.values()):
        say("some generators were reused from the cache (generator_reused)")
    if any(value is None for one in summaries.values() for name in "US" for value in one[name]):
        say("–: the dataset has no test image for it (U: unseen classes, S: seen classes)")
    models = folder / f"seed-{seeds[-1]}" / list(summaries)[-1] / "model"
    say(f"saved: {models}" + (" and beside it" if len(seeds) * len(summaries) > 1 else ""))
    if (growth := models / "growth.safetensors").exists():
        size = f"{growth.stat().st_size / 2**20:.1f} MiB a model"
        say(f"  growth.safetensors, for `mlis add-classes`: {size} (--no-growth: none)")
    if args.json:
        print_json(result_object(summaries, seeds, **facts))
