"""The result of a search: the winner, the head of its settings file, and all trials as a table."""

import datetime
import platform
import statistics
from collections.abc import Sequence

import torch
from optuna.trial import FrozenTrial

import mlis
from mlis.config import Config
from mlis.data.io.csv_file import csv_text
from mlis.escape import terminal
from mlis.experiments.tuning.search import Search, mean_of, status
from mlis.experiments.tuning.space import COLD, is_used, value_of
from mlis.provenance import PROTOCOL

MEASURE = "H on validation classes at the best calibration constant"


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Complete trials, best first."""
    complete = [trial for trial in trials if status(trial) == "complete"]
    return sorted(complete, key=lambda trial: (-trial.values[0], trial.number))


def winner(trials: Sequence[FrozenTrial], within: float) -> FrozenTrial | None:
    """The fastest complete trial whose H is at most `within` points below the best."""
    best = ranked(trials)
    close = [trial for trial in best if best[0].values[0] - within <= trial.values[0]]
    return min(close, key=lambda trial: (figures(trial)["seconds"], trial.number), default=None)


def figures(trial: FrozenTrial) -> dict[str, float | None]:
    """Mean H over class splits, its standard deviation (None with one split), mean seconds."""
    splits = trial.user_attrs["splits"]
    std = statistics.stdev(one["H"] for one in splits) if len(splits) > 1 else None
    return {"H": mean_of(splits, "H"), "std": std, "seconds": mean_of(splits, "seconds")}


def in_words(trial: FrozenTrial) -> str:
    """A trial on one line, with its figures or why there are none."""
    role = f" ({trial.user_attrs['role']})" if "role" in trial.user_attrs else ""
    text = trial.user_attrs.get("problem", "")
    if splits := trial.user_attrs.get("splits"):
        found = figures(trial)
        std = f" ± {found['std']:.2f}" if len(splits) > 1 else ""
        count = f"{len(splits)} class split{'s' if len(splits) > 1 else ''}"
        text = f"H {found['H']:.2f}{std}, {count}, {found['seconds']:.1f} s"
    return f"trial {trial.number}{role}: {status(trial)}, {text}"


def settings_head(
    search: Search, trials: Sequence[FrozenTrial], best: FrozenTrial, within: float, command: str
) -> str:
    """Where the numbers of a settings file come from, as comments."""
    states = [status(trial) for trial in trials]
    counts = ", ".join(f"{states.count(name)} {name}" for name in ("complete", "pruned", "failed"))
    facts = [
        f"Chosen on validation classes ({PROTOCOL}), never on test rows, by",
        f"  {command}",
        f"data SHA-256 {search.data_sha256}",
        f"{counts}; training seeds {', '.join(map(str, search.seeds))};",
        f"the fastest trial whose H is at most {within:g} points below the best.",
        f"{MEASURE}, mean ± standard deviation over",
        "class splits, and seconds of a training without its generator:",
        f"  these settings: {in_words(best)}",
        *(f"  {in_words(one)}" for one in ranked(trials) if "role" in one.user_attrs),
        f"mlis {mlis.__version__}, torch {torch.__version__}, python {platform.python_version()}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads",
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    ]
    return "".join(f"# {terminal(fact)}\n" for fact in facts)


def trials_csv(search: Search, trials: Sequence[FrozenTrial]) -> str:
    """One line per trial: state, H of every class split, seconds, and every searched setting."""
    names = list(dict.fromkeys(key.removeprefix(COLD) for key in search.space))
    rounds = [f"H_validation_split_{index + 1}" for index in range(search.splits or 1)]
    columns = ["trial", "state", "role", "protocol", "H_validation", *rounds]
    columns += ["seconds_without_generator", *names, "problem"]
    rows = []
    for trial in trials:
        known = trial.user_attrs
        row = {"trial": trial.number, "state": status(trial), "protocol": PROTOCOL}
        row |= {name: known.get(name, "") for name in ("role", "problem")}
        if splits := known.get("splits"):
            row |= {name: one["H"] for name, one in zip(rounds, splits, strict=False)}
            row["H_validation"] = mean_of(splits, "H")
            row["seconds_without_generator"] = round(mean_of(splits, "seconds"), 3)
        if "settings" in known:
            config = Config.from_dict(known["settings"])
            row |= {name: value_of(name, config) for name in names if is_used(name, config)}
        rows.append([row.get(name, "") for name in columns])
    return csv_text(columns, rows)
