"""What a search found: the winner, its settings file, and all trials as a table."""

import csv
import datetime
import io
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import mlis
from mlis.config import Config
from mlis.escape import csv_cell
from mlis.experiments.tuning.space import Space, is_used
from mlis.experiments.tuning.study import COMPLETE, DEFAULTS, PRESET, Trial
from mlis.provenance import PROTOCOL
from mlis.storage.atomic import atomic_write

MEASURE = "H on validation classes at the best calibration constant"


@dataclass(frozen=True)
class About:
    """What is said of a search wherever its numbers go.

    Attributes:
        command: that can be given again.
        dataset: its name.
        data_sha256, training_sha256: of the whole dataset, and of the rows that were used.
        class_splits: in words.
        seeds: of trainings.
        search_seed: of the sampler.
        within: points of H that may be given for speed.
        preset: name of the base's preset.
    """

    command: str
    dataset: str
    data_sha256: str
    training_sha256: str
    class_splits: str
    seeds: tuple[int, ...]
    search_seed: int
    within: float
    preset: str


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials, best first."""
    complete = [trial for trial in trials if trial.state == COMPLETE]
    return sorted(complete, key=lambda trial: (-trial.H, trial.number))


def winner(trials: Sequence[Trial], within: float) -> Trial | None:
    """The fastest complete trial whose H is at most `within` points below the best."""
    complete = ranked(trials)
    close = [trial for trial in complete if complete[0].H - within <= trial.H]
    return min(close, key=lambda trial: (trial.seconds, trial.number), default=None)


def spread(trial: Trial) -> float | None:
    """Standard deviation of H over class splits; None of a single one."""
    found = [one.H for one in trial.splits]
    return statistics.stdev(found) if len(found) > 1 else None


def differences(config: Config, base: Config) -> dict[str, Any]:
    """Settings that matter and are other than the base's, by `section.name`."""
    found = {}
    for section, values in config.to_dict().items():
        if not isinstance(values, Mapping):
            continue
        for name, value in values.items():
            if value != getattr(getattr(base, section), name) and is_used(section, name, config):
                found[f"{section}.{name}"] = value
    return found


def final(config: Config) -> Config:
    """Settings to train with: the constant of calibration is found on validation classes too."""
    return config.replace({"classification": {"calibration": "validation"}})


def preset_text(about: About, trials: Sequence[Trial], best: Trial, settings: str) -> str:
    """A settings file: where its numbers come from, and `settings` (TOML) below."""
    done = [trial for trial in trials if trial.state in ("complete", "pruned", "failed")]
    counts = {s: sum(t.state == s for t in done) for s in ("complete", "pruned", "failed")}
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    named = {PRESET: f"preset {about.preset}", DEFAULTS: "defaults"}
    compared = [f"trial {best.number}, these settings: {_measured(best)}"]
    for trial in trials:
        if trial.role in named and trial.state == COMPLETE:
            compared.append(f"trial {trial.number}, {named[trial.role]}: {_measured(trial)}")
    facts = [
        f"{about.dataset}: chosen on validation classes, never on test rows, by",
        f"  {about.command}",
        f"data SHA-256 {about.data_sha256}",
        f"training rows SHA-256 {about.training_sha256}",
        f"{len(done)} trials ({states}), {about.class_splits}, "
        f"seeds {', '.join(map(str, about.seeds))}, sampler seed {about.search_seed}",
        f"{PROTOCOL}. {MEASURE}, mean ± standard deviation over class splits; seconds of a",
        "training without its generator:",
        *(f"  {line}" for line in compared),
        f"the fastest trial whose H is at most {about.within:g} points below the best",
        f"mlis {mlis.__version__}, torch {torch.__version__}, python {platform.python_version()}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads",
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    ]
    return "".join(f"# {fact}\n" for fact in facts) + "\n" + settings


def _measured(trial: Trial) -> str:
    sd = spread(trial)
    return f"H {trial.H:.2f}{'' if sd is None else f' ± {sd:.2f}'}, {trial.seconds:.1f} s"


def csv_text(trials: Sequence[Trial], space: Space, rounds: int) -> str:
    """One line a trial: state, H of every class split, seconds, and every searched setting."""
    settings = list(dict.fromkeys((one.section, one.name) for one in space.dimensions))
    columns = ["trial", "state", "role", "protocol", "H_validation"]
    columns += [f"H_validation_split_{index + 1}" for index in range(rounds)]
    columns += ["seconds_without_generator", *(".".join(one) for one in settings), "problem"]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for trial in trials:
        found = [one.H for one in trial.splits]
        values = [
            getattr(getattr(trial.config, section), name)
            if is_used(section, name, trial.config)
            else ""
            for section, name in settings
        ]
        measured = [trial.H, *found, *[""] * (rounds - len(found)), round(trial.seconds, 3)]
        if not found:
            measured = [""] * (rounds + 2)
        row = [trial.number, trial.state, trial.role, PROTOCOL, *measured, *values, trial.problem]
        writer.writerow(map(csv_cell, row))
    return out.getvalue()


def write(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write texts by name, each whole or not at all."""
    paths = []
    for name, text in files.items():
        paths.append(folder / name)
        with atomic_write(paths[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths
