"""The search: an Optuna study in `study.jsonl`, whose trials are measured on validation classes.

A trial is worth the mean over class splits of H at the best calibration constant. That constant is
legitimate here: these are validation classes, and it is one of the settings chosen on them.
"""

import functools
import json
import re
import statistics
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from mlis.compute.processes import call_many
from mlis.config import Config, hash_of
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.data.splits import add_validation
from mlis.errors import DataError, MlisError, SettingsError
from mlis.evaluation import evaluate
from mlis.experiments.tuning.space import Space, described, parameters, suggest, suggest_one
from mlis.pipeline import fit
from mlis.provenance import arithmetic_key
from mlis.storage.locks import held
from mlis.training.callbacks import Callback
from mlis.training.generator_cache import STAGE as GENERATION

PRESET, DEFAULTS = "preset", "defaults"  # roles of the first trials


@dataclass(frozen=True)
class Search:
    """What is searched and how it is measured; plain values, as other processes get it too.

    Attributes:
        folder: of `study.jsonl`.
        dataset: arguments of :func:`mlis.data.load_dataset`, as JSON.
        data_sha256: of the dataset.
        space: what is drawn.
        starts: settings to measure first, by role; those of the preset are the base of the others.
        splits: how many class splits; 0: the dataset's own.
        seeds: of trainings.
        device: "auto", "cpu", "cuda", …
        sampler_seed: of Optuna's sampler.
    """

    folder: Path
    dataset: str
    data_sha256: str
    space: Space
    starts: Mapping[str, Config]
    splits: int = 5
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    sampler_seed: int = 0

    def identity(self) -> dict[str, Any]:
        """Everything that trials must have in common to be compared, ready for JSON."""
        return {
            "format": 2,  # 1: the attributes of trials had other names
            "data": self.data_sha256,
            "class splits": self.splits,
            "seeds": list(self.seeds),
            "space": {key: described(one) for key, one in self.space.items()},
            "settings": self.starts[PRESET].to_dict(),
            "precision": arithmetic_key(self.starts[PRESET], self.device),
            "search seed": self.sampler_seed,
        }

    def study(self, index: int = 0) -> optuna.Study:
        """The study, with a sampler for trial `index`: one that was interrupted is drawn again."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seed = int(hash_of([self.sampler_seed, index])[:8], 16)
        experimental = optuna.exceptions.ExperimentalWarning  # `constant_liar`, up to Optuna 4
        with warnings.catch_warnings(action="ignore", category=experimental):
            return optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(self.folder / "study.jsonl"))),
                sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
                study_name="mlis",
                direction="maximize",
                load_if_exists=True,
            )


@contextmanager
def opened(search: Search) -> Generator[optuna.Study, None, None]:
    """Hold the folder and give its study, ready to continue.

    Raises:
        DataError: the file is not an Optuna journal.
        SettingsError: another process holds the folder, or it has another search.
    """
    path = search.folder / "study.jsonl"
    with held(search.folder):
        try:
            _repair(path)
            study = search.study()
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is not an Optuna journal, or damaged ({error}): move or delete it"
            ) from None
        identity = search.identity()
        before = study.user_attrs.get("identity", identity)
        if changed := [name for name in identity if identity[name] != before.get(name)]:
            raise SettingsError(
                f"{path} holds a search with another {changed[0]}: repeat the command that began "
                f"it, or choose another folder with -o"
            )
        study.set_user_attr("identity", identity)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a process that was killed
            study.tell(trial.number, state=TrialState.FAIL)
        roles = [t.user_attrs.get("role") for t in study.trials if status(t) != "stopped"]
        for role, config in search.starts.items():
            if role not in roles:
                study.enqueue_trial(parameters(search.space, config), user_attrs={"role": role})
        yield study


def _repair(path: Path) -> None:
    """Remove what a killed process leaves: half a line at the end, and the journal's own lock."""
    for leftover in path.parent.glob(f"{path.name}.lock*"):
        if re.fullmatch(r"\.lock([0-9a-f-]{36}\.rename)?", leftover.name.removeprefix(path.name)):
            leftover.unlink()
    if path.exists():
        with path.open("rb+") as handle:
            content, begin = handle.read(), b'{"op_code":'
            lines, last = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
            if not (last.startswith(begin) or begin.startswith(last)):
                raise ValueError(f"its last line begins with {last[:20]!r}")
            handle.truncate(len(lines))


def status(trial: FrozenTrial) -> str:
    """Waiting, running, complete, pruned, failed, or stopped: interrupted, and drawn again."""
    if trial.state != TrialState.FAIL:
        return trial.state.name.lower()
    return "failed" if "problem" in trial.user_attrs else "stopped"


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that are not tried again."""
    return [one for one in study.trials if status(one) in ("complete", "pruned", "failed")]


def run(
    search: Search, study: optuna.Study, trials: int, timeout: float | None = None, jobs: int = 1
) -> Generator[FrozenTrial, None, None]:
    """Give trials as they finish, until there are `trials`, or `timeout` seconds have passed.

    Raises:
        MlisError: the preset itself cannot be measured, so that there is nothing to compare with.
        SettingsError: a worker process died.
    """
    until = float("inf") if timeout is None else monotonic() + timeout
    indices = range(len(finished(study)), trials)
    return call_many(run_trial, ((search, one) for one in indices if monotonic() < until), jobs)


class _FailedError(Exception):
    """A trial cannot be measured; its attribute `problem` says why."""


def run_trial(search: Search, index: int) -> FrozenTrial:
    """Draw and measure one trial, in any process."""
    ended: list[FrozenTrial] = []
    objective = functools.partial(_objective, search)
    keep = [lambda study, trial: ended.append(trial)]
    search.study(index).optimize(objective, n_trials=1, catch=_FailedError, callbacks=keep)
    return ended[0]


def _objective(search: Search, trial: optuna.Trial) -> float:
    role, found = trial.user_attrs.get("role"), []
    try:
        config = _settings(search, trial, role)
        trial.set_user_attr("settings", config.to_dict())
        for index in range(search.splits or 1):
            if found and role != PRESET and trial.should_prune():
                raise optuna.TrialPruned
            found.append(_measure(search, config, index))
            trial.set_user_attr("splits", found)
            trial.report(mean_of(found, "H"), index)
    except MlisError as error:
        if role == PRESET:
            raise
        trial.set_user_attr("problem", str(error))
        raise _FailedError from error
    return mean_of(found, "H")


def mean_of(splits: list[dict[str, float]], name: str) -> float:
    """A trial's figure, from those of its class splits."""
    return sum(one[name] for one in splits) / len(splits)


def _settings(search: Search, trial: optuna.Trial, role: str | None) -> Config:
    if role is None:
        return suggest(trial, search.space, search.starts[PRESET])
    for key in parameters(search.space, search.starts[role]):  # fixed; the sampler learns of them
        suggest_one(trial, key, search.space[key])
    return search.starts[role]


def _measure(search: Search, config: Config, index: int) -> dict[str, float]:
    """H on a class split's held-out classes and seconds without generator, means over seeds."""
    data, *splits = class_splits(search.dataset, search.splits)
    if data.sha256 != search.data_sha256:
        raise DataError("the data have changed since this search began")
    training, held_out = (splits[index] if splits else data).for_validation()
    H, seconds = [], []
    for seed in search.seeds:
        clock = _Clock()
        where = {"seed": seed, "device": search.device, "callbacks": [clock]}
        fitted = fit(training, config, **where, reuse=True, exemplars=False)
        seconds.append(perf_counter() - clock.began)
        scores = fitted.recognizer.scores(held_out.features)
        found = evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
        if found.best_H is None:
            raise DataError(f"no H on the held-out classes: {'; '.join(found.notes)}")
        H.append(float(found.best_H))
    return {"H": statistics.fmean(H), "seconds": round(statistics.fmean(seconds), 3)}


@functools.lru_cache(maxsize=1)
def class_splits(dataset: str, count: int) -> list[GZSLDataset]:
    """A dataset, and `count` times its training classes split into seen and unseen by seed 1, 2, …

    Only what `for_validation` gives of them is used, which holds no test row.

    Raises:
        DataError: the data cannot be read, or have too few classes.
    """
    data = load_dataset(**json.loads(dataset))
    drawn = [add_validation(data.split, data.labels, seed=s + 1) for s in range(count)]
    datasets = [data, *(replace(data, split=split) for split, _ in drawn)]
    datasets[-1].for_validation()
    return datasets


class _Clock(Callback):
    """Notes when the generator is available, trained or from the cache."""

    def __init__(self) -> None:
        self.began = perf_counter()

    def on_end(self, stage: str) -> None:
        if stage == GENERATION:
            self.began = perf_counter()
