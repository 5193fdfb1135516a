"""What `mlis tune` prints and writes."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.printing import number, print_json, print_table, say
from mlis.cli.settings import to_toml

if TYPE_CHECKING:
    from mlis.config import Config
    from mlis.experiments.tuning.report import About
    from mlis.experiments.tuning.space import Space
    from mlis.experiments.tuning.study import Study, Trial

SHOWN = 10  # trials of the table


def print_plan(
    args: argparse.Namespace, space: "Space", starts: "dict[str, Config]", preset: str
) -> None:
    """What would be searched, from what, for how long."""
    from mlis.experiments.tuning.report import MEASURE

    print_table([["setting", "searched"], *(list(one) for one in space.to_dict().items())])
    rounds = (args.class_splits or 1) * len(args.seeds)
    say(f"base: preset {preset}{'' if args.settings is None else f', {args.settings}'}")
    budget = f"{args.trials} trials of at most {rounds} trainings"
    timeout = "" if args.timeout is None else f", at most {args.timeout:g} seconds"
    say(f"{budget}{timeout}, {args.jobs} at a time; first: {', '.join(starts)}")
    say(f"measured: {MEASURE}")
    if args.json:
        print_json(
            {
                **{"dry_run": True, "space": space.to_dict(), "trials": args.trials},
                **{"trainings_a_trial": rounds, "timeout": args.timeout, "first": list(starts)},
            }
        )


def said(trial: "Trial") -> str:
    """One trial in a line."""
    role = f" ({trial.role})" if trial.role else ""
    if not trial.splits:
        return f"{trial.state}{role}: {trial.problem}"
    splits = f"{len(trial.splits)} class splits"
    return f"{trial.state}{role}, H {trial.H:.2f} on validation, {splits}, {trial.seconds:.1f} s"


def write_found(
    folder: Path, study: "Study", space: "Space", about: "About", rounds: int
) -> list[Path]:
    """Write trials.csv and, once a trial is complete, preset.toml."""
    from mlis.experiments.tuning import report

    trials = study.trials()
    files = {"trials.csv": report.csv_text(trials, space, rounds)}
    if best := report.winner(trials, about.within):
        settings = to_toml(report.final(best.config))
        files["preset.toml"] = report.preset_text(about, trials, best, settings)
    return report.write(folder, files)


def print_found(args: argparse.Namespace, study: "Study", base: "Config", about: "About") -> None:
    """The best trials, what matters, and what is left to do."""
    from mlis.experiments.tuning import report

    trials = study.trials()
    best = report.winner(trials, about.within)
    importances = study.importances()
    say(f"{about.dataset}, {report.PROTOCOL}: {report.MEASURE}, per cent")
    print_table(_table(trials, best, base))
    if importances:
        print_table([["setting", "importance"], *([n, f"{v:.2f}"] for n, v in importances.items())])
    done = len(study.finished())
    left = max(0, args.trials - done)
    say(f"{done} trials" + (f", {left} left: give the same command" if left else ""))
    if best is not None:
        say(f"written: {args.output / 'preset.toml'} (trial {best.number}, marked *)")
    if args.json:
        print_json(_result(args, trials, best, importances, about))


def _table(trials: "Sequence[Trial]", best: "Trial | None", base: "Config") -> list[list[str]]:
    from mlis.experiments.tuning import report

    rows = [["trial", "H", "±", "seconds", "settings other than the preset's"]]
    for trial in report.ranked(trials)[:SHOWN]:
        changed = report.differences(trial.config, base)
        words = ", ".join(f"{name} {value}" for name, value in changed.items()) or trial.role
        mark = f"{trial.number}{' *' if trial is best else ''}"
        measured = [number(trial.H, 2), number(report.spread(trial), 2), number(trial.seconds)]
        rows.append([mark, *measured, words])
    return rows


def _result(
    args: argparse.Namespace,
    trials: "Sequence[Trial]",
    best: "Trial | None",
    importances: "dict[str, float]",
    about: "About",
) -> dict[str, Any]:
    from mlis.experiments.tuning import report

    base = next((t for t in report.ranked(trials) if t.role == "preset"), None)

    def shown(trial: "Trial | None") -> dict[str, Any] | None:
        if trial is None:
            return None
        return {
            **{"trial": trial.number, "H_validation": trial.H, "std": report.spread(trial)},
            **{"seconds": trial.seconds, "settings": trial.config.to_dict()},
        }

    states = [trial.state for trial in trials]
    return {
        **{"dataset": about.dataset, "protocol": report.PROTOCOL, "measure": report.MEASURE},
        **{"trials": {state: states.count(state) for state in sorted(set(states))}},
        **{"best": shown(best), "preset": shown(base), "importances": importances},
        "files": [str(args.output / name) for name in ("preset.toml", "trials.csv")],
    }
