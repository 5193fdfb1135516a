"""The trials of a search, kept by Optuna in `study.jsonl`.

Why Optuna's journal and not a database: it is only ever added to, a line each time, so that a
killed process spoils nothing but its last line, it is read by people and `grep`, and lies on any
disk. One process writes it, the one that holds the folder's lock; workers only measure.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.config import Config, hash_of
from mlis.errors import DataError, SettingsError
from mlis.experiments.tuning.measure import Measured
from mlis.experiments.tuning.space import Space

if TYPE_CHECKING:
    import optuna

logger: logging.Logger = logging.getLogger(__name__)

PRESET, DEFAULTS = "preset", "defaults"
COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"
STOPPED = "stopped"  # its process ended in the middle; what it tried is tried again
FREE_TRIALS = 5  # complete ones before any is pruned
_JOURNAL_LINE = b'{"op_code": '  # how its lines begin
_JOURNAL_LOCK = re.compile(r"\.lock([0-9a-f-]{36}\.rename)?")  # Optuna's, and how it removes it


@dataclass(frozen=True)
class Trial:
    """One setting and what was measured.

    Attributes:
        number: 0, 1, 2, …
        state: complete, pruned, failed, running or stopped.
        role: "preset", "defaults", or empty.
        config: all settings.
        splits: of the class splits that were measured, in their order.
        problem: why it failed.
    """

    number: int
    state: str
    role: str
    config: Config
    splits: tuple[Measured, ...]
    problem: str = ""

    @property
    def H(self) -> float:
        """Mean over the class splits measured; NaN of none."""
        found = [one.H for one in self.splits]
        return sum(found) / len(found) if found else float("nan")

    @property
    def seconds(self) -> float:
        """Mean seconds of a training without its generator; NaN of none."""
        found = [one.seconds for one in self.splits]
        return sum(found) / len(found) if found else float("nan")


class Study:
    """Asks for settings and keeps what they were worth.

    Args:
        folder: of `study.jsonl`; the caller holds its lock.
        identity: everything that trials must have in common to be compared.
        space: what is drawn.
        base: settings that are not drawn.
        seed: of the sampler.

    Raises:
        SettingsError: Optuna is not installed, or the folder holds another search.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], space: Space, base: Config, seed: int
    ):
        self._optuna = load_optuna()
        self._space, self._base, self._seed = space, base, seed
        self._open: dict[int, optuna.Trial] = {}
        path = folder / "study.jsonl"
        _mend(path)
        storages = self._optuna.storages
        backend = storages.journal.JournalFileBackend(str(path))
        pruner = self._optuna.pruners.MedianPruner(n_startup_trials=FREE_TRIALS)
        try:
            self.study: Any = self._optuna.create_study(
                storage=storages.JournalStorage(backend),
                study_name="mlis",
                direction="maximize",
                pruner=pruner,
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): delete it; what was measured is kept beside it"
            ) from None
        self._check(path, identity)
        self._put_back()

    def _check(self, path: Path, identity: Mapping[str, Any]) -> None:
        attributes = self.study.user_attrs
        if "identity" not in attributes:
            self.study.set_user_attr("identity", dict(identity))
            return
        before = attributes["identity"]
        changed = [n for n in identity.keys() | before.keys() if identity.get(n) != before.get(n)]
        if changed:
            raise SettingsError(
                f"{path} holds a search with another {', '.join(sorted(changed))}: give the same "
                f"command, or another folder with -o"
            )

    def _put_back(self) -> None:
        """Trials of a process that ended in the middle: fail them, and line them up again."""
        running = self._optuna.trial.TrialState.RUNNING
        for trial in self.study.get_trials(deepcopy=False, states=(running,)):
            self.study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
            attributes = trial.user_attrs
            if "config" in attributes:
                fixed = attributes.get("fixed", trial.params)
                self._enqueue(attributes["config"], fixed, attributes.get("role", ""))
                logger.info("trial %d was stopped in the middle: tried again", trial.number)

    def _enqueue(self, config: Mapping[str, Any], fixed: Mapping[str, Any], role: str) -> None:
        attributes = {"config": config, "fixed": dict(fixed), "role": role}
        self.study.enqueue_trial(dict(fixed), user_attrs=attributes)

    def line_up(self, role: str, config: Config) -> None:
        """Try these settings first, unless that has been done or lined up before."""
        there = [t.role for t in self.trials() if t.state != STOPPED]
        waiting = self._optuna.trial.TrialState.WAITING
        queued = self.study.get_trials(deepcopy=False, states=(waiting,))
        if role not in there and role not in [t.user_attrs.get("role") for t in queued]:
            self._enqueue(config.to_dict(), self._space.parameters(config), role)

    def begin(self) -> Trial:
        """The next trial: one that is lined up, else one that the sampler draws.

        Each trial's sampler begins from a seed of its own, so that a search that was stopped goes
        on as if it never had been.

        Raises:
            SettingsError: what was drawn does not suit one another; the trial is kept as failed.
        """
        index = len([t for t in self.trials() if t.state != STOPPED])
        sampler_seed = int(hash_of([self._seed, index])[:8], 16)
        self.study.sampler = self._optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=True)
        trial = self.study.ask()
        self._open[trial.number] = trial
        given = trial.user_attrs
        if "config" in given:
            self._space.register(trial, given["fixed"])
            config, role = Config.from_dict(given["config"]), given["role"]
            return Trial(trial.number, RUNNING, role, config, ())
        try:
            config = self._space.draw(trial, self._base)
        except SettingsError as error:
            trial.set_user_attr("config", self._base.to_dict())
            self.fail(trial.number, error)
            raise
        trial.set_user_attr("config", config.to_dict())
        return Trial(trial.number, RUNNING, "", config, ())

    def add(self, number: int, splits: Sequence[Measured], *, last: bool) -> str:
        """Keep what all splits so far have measured; return the trial's state."""
        trial, states = self._open[number], self._optuna.trial.TrialState
        mean = sum(one.H for one in splits) / len(splits)
        trial.set_user_attr("splits", [asdict(one) for one in splits])
        trial.report(mean, len(splits) - 1)
        if last:
            self.study.tell(trial, mean)
        elif trial.user_attrs.get("role") != PRESET and trial.should_prune():
            self.study.tell(trial, state=states.PRUNED)
        else:
            return RUNNING
        del self._open[number]
        return COMPLETE if last else PRUNED

    def fail(self, number: int, error: Exception) -> None:
        """Keep why a trial could not be measured."""
        trial = self._open.pop(number)
        trial.set_user_attr("problem", str(error))
        self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """All that were begun, oldest first."""
        states = self._optuna.trial.TrialState
        begun = [s for s in states if s is not states.WAITING]
        found = self.study.get_trials(deepcopy=False, states=begun)
        return [_trial(one) for one in found if "config" in one.user_attrs]

    def finished(self) -> list[Trial]:
        """Those that need not be tried again."""
        return [one for one in self.trials() if one.state in (COMPLETE, PRUNED, FAILED)]

    def importances(self) -> dict[str, float]:
        """Share of the spread of H that each setting explains, where enough trials drew it."""
        try:
            evaluator = self._optuna.importance.FanovaImportanceEvaluator(seed=0)
            found = self._optuna.importance.get_param_importances(self.study, evaluator=evaluator)
            return {name: float(value) for name, value in found.items()}
        except (ValueError, RuntimeError, ImportError) as error:  # too few, or all alike
            logger.info("no importances: %s", error)
            return {}


def load_optuna() -> Any:
    """The library, silent.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import optuna
        import optuna.storages.journal
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"`mlis tune` needs {error.name}, which is not installed: pip install 'mlis[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _trial(one: "optuna.trial.FrozenTrial") -> Trial:
    attributes = one.user_attrs
    state = one.state.name.lower()
    if state == "fail":
        state = FAILED if "problem" in attributes else STOPPED
    return Trial(
        number=one.number,
        state=state,
        role=attributes.get("role", ""),
        config=Config.from_dict(attributes["config"]),
        splits=tuple(Measured(**split) for split in attributes.get("splits", [])),
        problem=attributes.get("problem", ""),
    )


def _mend(path: Path) -> None:
    """Remove a last line that was cut short, and the journal's own lock of a killed process."""
    for leftover in path.parent.glob(f"{path.name}.lock*"):
        if _JOURNAL_LOCK.fullmatch(leftover.name.removeprefix(path.name)):
            leftover.unlink(missing_ok=True)
    if not path.exists():
        return
    with path.open("rb+") as handle:
        text = handle.read()
        whole = text.rfind(b"\n") + 1
        cut = text[whole:]
        if not _JOURNAL_LINE.startswith(cut[: len(_JOURNAL_LINE)]):
            raise DataError(
                f"{path}: expected the journal of a search, got {cut[:40]!r}. Choose another "
                "folder."
            )
        handle.truncate(whole)
