"""One run, named by everything that its numbers depend on, and how it is done.

Stages that several runs share are trained once: the generator is in the user's cache folder
(:mod:`mlis.generators`), and the encoder in the work folder, for runs that differ in stage 2 alone.
"""

import dataclasses
import datetime
import functools
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlis.baselines.base import Baseline
from mlis.baselines.cegzsl import CEGZSL
from mlis.baselines.cosine import SharedSpaceCosine
from mlis.baselines.eszsl import ESZSL
from mlis.baselines.protocol import Measured, choose_and_test
from mlis.baselines.prototype import RidgePrototype
from mlis.baselines.raw import RawSoftmax
from mlis.checkpoint import save_model
from mlis.config import Classification, Config, hash_of
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.errors import DataError, SettingsError
from mlis.evaluation import Evaluation
from mlis.experiments.retrieval import UnseenImages
from mlis.experiments.store import Row
from mlis.inference import Recognizer
from mlis.protocol import fit_and_calibrate, test_once
from mlis.provenance import (
    GENERATION_VERSION,
    PROTOCOL,
    REFINEMENT_VERSION,
    arithmetic_key,
    loss_identity,
    provenance,
    training_key,
)
from mlis.snapshots import FolderMonitor
from mlis.training import Monitor

METHOD = "mlis"
Listen = Callable[[str], Monitor]


def _raw_ridge(config: Config, **options: Any) -> Baseline:
    return RawSoftmax(config.replace({"generation": {"generator": "ridge"}}), **options)


BASELINES: Mapping[str, Callable[..., Baseline]] = {  # cheapest first
    "cosine": SharedSpaceCosine,
    "prototype": RidgePrototype,
    "eszsl": ESZSL,
    "ridge": _raw_ridge,
    "raw": RawSoftmax,
    "cegzsl": CEGZSL,
}


@dataclass(frozen=True)
class Task:
    """One method on one dataset with one seed.

    Attributes:
        name: of the dataset, for people.
        dataset: keyword arguments of :func:`mlis.data.load_dataset`: where it is.
        data_sha256: what it must be.
        method: "mlis", or one of `BASELINES`.
        config: all settings; a baseline uses some of them.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        options: a baseline's own settings.
        protocol: H@val is the only one that is implemented.
    """

    name: str
    dataset: Mapping[str, Any]
    data_sha256: str
    method: str
    config: Config
    seed: int
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = PROTOCOL

    def __post_init__(self) -> None:
        if self.method != METHOD and self.method not in BASELINES:
            known = ", ".join((METHOD, *BASELINES))
            raise SettingsError(f"unknown method {self.method!r}: expected one of {known}")
        if self.protocol != PROTOCOL:
            raise SettingsError(f"protocol {self.protocol!r}: only {PROTOCOL} can be run")

    @functools.cached_property
    def key(self) -> str:
        """Hash of all that the numbers depend on: not of where data lie, nor of versions."""
        return hash_of(["row", self.protocol, *self._parts(self.config)])

    @functools.cached_property
    def stem(self) -> str:
        """Hash of what stage 1 depends on; runs that share it differ in stage 2 alone."""
        if self.method != METHOD:
            return self.key
        return hash_of(["stage 1", *self._parts(_stage_one(self.config))])

    def _parts(self, config: Config) -> list[Any]:
        settings = {**config.to_dict(), "precision": arithmetic_key(config, self.device)}
        own = loss_identity(config, None) if self.method == METHOD else None
        code = [GENERATION_VERSION, REFINEMENT_VERSION]
        options = dict(self.options)
        return [self.data_sha256, self.method, settings, options, own, self.seed, code]

    @property
    def title(self) -> str:
        """For progress and lists: "FLO, ml+is, seed 3"."""
        return f"{self.name}, {self.kind}, seed {self.seed}"

    @property
    def kind(self) -> str:
        """What is run, but for settings that are numbers: runs of one kind take alike long."""
        if self.method != METHOD:
            return self.method
        refinement = self.config.refinement
        loss = "" if refinement.loss == "circle" else f", {refinement.loss}"
        return refinement.components + loss

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON, which `from_dict` takes."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """Read what `to_dict` gave.

        Raises:
            DataError: it is not that.
        """
        try:
            return cls(**{**values, "config": Config.from_dict(values["config"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"a result row without the task that made it: {error}") from None


def _stage_one(config: Config) -> Config:
    """Settings with those of stage 2 set back, as far as stage 1 does not look at them."""
    kept = Classification(synthetic_per_seen=config.classification.synthetic_per_seen)
    return dataclasses.replace(config, classification=kept)


def silent(title: str) -> Monitor:
    """Nobody hears of a training."""
    return Monitor()


@dataclass(frozen=True)
class How:
    """How a task is run; none of it changes a number.

    Attributes:
        listen: given a title, returns who hears of that training.
        record: gets the losses, as `.jsonl`; None: they are dropped.
        keep_model: whether `record` gets `model/` too; baselines save none.
        snapshot_every: seconds between snapshots.
        reuse: whether generators come from the user's cache folder and are left there.
    """

    listen: Listen = silent
    record: Path | None = None
    keep_model: bool = False
    snapshot_every: float = 30.0
    reuse: bool = True


def run(task: Task, work: Path, how: How) -> Row:
    """Train and test, or continue where a killed process stopped.

    A baseline begins anew, but for its generator.

    Args:
        task: what to run.
        work: folder of snapshots, for tasks of the same `stem`; the caller holds it.
        how: who listens, and what is kept.

    Raises:
        DataError: the data are not there, or are not those of the task.
        DivergenceError: a training diverged.
    """
    dataset, unseen = loaded(task)
    if task.method == METHOD:
        return _run_method(task, dataset, unseen, work, how)
    measured = choose_and_test(
        BASELINES[task.method](config=task.config, **_tuples(task.options)),
        dataset,
        seed=task.seed,
        device=task.device,
        monitor=how.listen(task.title),
        reuse=how.reuse,
    )
    return _row_of_baseline(task, dataset, measured, unseen)


def loaded(task: Task) -> tuple[GZSLDataset, UnseenImages]:
    """The dataset of a task, checked against its hash.

    Raises:
        DataError: it is not there, or it is another one.
    """
    dataset, unseen = _loaded(json.dumps(dict(task.dataset), sort_keys=True))
    if dataset.sha256 != task.data_sha256:
        raise DataError(
            f"{task.name}: expected data with SHA-256 {task.data_sha256[:16]}…, but got "
            f"{dataset.sha256[:16]}…: another file, split or descriptors"
        )
    return dataset, unseen


@functools.lru_cache(maxsize=1)
def _loaded(arguments: str) -> tuple[GZSLDataset, UnseenImages]:
    dataset = load_dataset(**json.loads(arguments))
    return dataset, UnseenImages(dataset)


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}


def _run_method(
    task: Task, dataset: GZSLDataset, unseen: UnseenImages, work: Path, how: How
) -> Row:
    stage_one = _stage_one(task.config)

    def monitor(part: str, split: TrainingSplit) -> FolderMonitor:
        key = training_key(split, stage_one, task.seed, task.device)
        title = task.title if part == "training" else f"{task.title}, {part}"
        options = {"every": how.snapshot_every, "listener": how.listen(title), "owner": task.key}
        return FolderMonitor(work / part, key, **options)

    monitors = {"training": monitor("training", dataset.for_training())}
    if task.config.classification.calibration == "validation":
        monitors["validation"] = monitor("validation", dataset.for_validation()[0])
    trained = fit_and_calibrate(
        dataset,
        task.config,
        seed=task.seed,
        device=task.device,
        monitor=monitors["training"],
        validation_monitor=monitors.get("validation"),
        reuse=how.reuse,
    )
    stages = [one.account(name) for one in monitors.values() for name in ("refinement", "joint")]
    accounts = [account for account in stages if account is not None]
    generators = trained.generators.values()
    cost = {
        "seconds": round(trained.seconds, 3),
        "generation_seconds": round(sum(one.seconds for one in generators), 3),
        "refinement_seconds": round(sum(one.seconds for one in accounts), 3),
        "reused": any(one.reused for one in (*generators, *accounts)),
    }
    recognizer = trained.recognizer
    test = test_once(recognizer, dataset).to_dict() | unseen.retrieved(recognizer)
    row = _row(task, dataset, test, trained.validation, recognizer.calibration, {}, cost)
    if how.record is not None:
        _keep_losses(work, how.record, monitors)
        if how.keep_model:
            save_model(recognizer, how.record / "model", dataclasses.asdict(row))
    return row


def _keep_losses(work: Path, record: Path, parts: Mapping[str, object]) -> None:
    for part in parts:
        for path in (work / part).glob("*.jsonl"):
            (record / part).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, record / part / path.name)


def _row_of_baseline(
    task: Task, dataset: GZSLDataset, measured: Measured, unseen: UnseenImages
) -> Row:
    found = measured.to_dict()
    test = found["test"]
    scorer = measured.scorer
    if isinstance(scorer, Recognizer) and scorer.encoder_weight is not None:
        test = test | unseen.retrieved(scorer)
    cost = {
        "seconds": found["seconds"],
        "generation_seconds": found["generation_seconds"],
        "refinement_seconds": 0.0,
        "reused": None,  # nobody kept account
    }
    settings = found["settings"]
    return _row(task, dataset, test, measured.validation, measured.calibration, settings, cost)


def _row(
    task: Task,
    dataset: GZSLDataset,
    test: Mapping[str, Any],
    validation: Evaluation | None,
    calibration: float,
    chosen: Mapping[str, Any],
    cost: Mapping[str, Any],
) -> Row:
    row = Row(
        key=task.key,
        protocol=task.protocol,
        task=task.to_dict(),
        test=test,
        validation=None if validation is None else validation.to_dict(),
        calibration=calibration,
        chosen=chosen,
        cost=cost,
        provenance={**provenance(dataset, task.config, task.device), "cpu": _cpu()},
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return dataclasses.replace(row, **json.loads(row.to_line()))  # as it will be read back


@functools.cache
def _cpu() -> str:
    """The processor's name, on which the last bits may depend; empty where it is not told."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
