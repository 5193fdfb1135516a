"""How a task is done.

Stages that several runs share are trained once: the generator is in the user's cache folder
(:mod:`mlis.training.generator_cache`), and the encoder in the work folder, for runs that differ in
stage 2 alone.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.experiments.loading import Loaded, loaded
from mlis.experiments.new_row import row_of_baseline, row_of_method, row_of_test_best
from mlis.experiments.retrieval import UnseenImages
from mlis.experiments.store import TEST_BEST, Row
from mlis.experiments.tasks import METHOD, Task, stage_one
from mlis.experiments.testbest import measure_test_best
from mlis.io.checkpoint import save_model
from mlis.methods.protocol import choose_and_test
from mlis.methods.registry import build_method
from mlis.protocol import fit_and_calibrate
from mlis.provenance import training_key
from mlis.training.checkpoints import FolderMonitor
from mlis.training.loop import Monitor

Listen = Callable[[str], Monitor]


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
        load: gives the dataset of a task.
    """

    listen: Listen = silent
    record: Path | None = None
    keep_model: bool = False
    snapshot_every: float = 30.0
    reuse: bool = True
    load: Callable[[Task], Loaded] = loaded


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
    dataset, unseen = how.load(task)
    if task.method == METHOD and task.protocol == TEST_BEST:
        return _run_method_test_best(task, dataset, unseen, work, how)
    if task.method == METHOD:
        return _run_method(task, dataset, unseen, work, how)
    measured = choose_and_test(
        build_method(task.method, task.config, **_tuples(task.options)),
        dataset,
        seed=task.seed,
        device=task.device,
        monitor=how.listen(task.title),
        reuse=how.reuse,
    )
    return row_of_baseline(task, dataset, measured, unseen)


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}


def _run_method(
    task: Task, dataset: GZSLDataset, unseen: UnseenImages, work: Path, how: How
) -> Row:
    monitors = {"training": _monitor(task, "training", dataset.for_training(), work, how)}
    if task.config.classification.calibration == "validation":
        split = dataset.for_validation()[0]
        monitors["validation"] = _monitor(task, "validation", split, work, how)
    trained = fit_and_calibrate(
        dataset,
        task.config,
        seed=task.seed,
        device=task.device,
        monitor=monitors["training"],
        validation_monitor=monitors.get("validation"),
        reuse=how.reuse,
        exemplars=False,
    )
    row = row_of_method(task, dataset, trained, unseen)
    if how.record is not None:
        _keep_losses(work, how.record, monitors)
        if how.keep_model:
            save_model(trained.recognizer, how.record / "model", record=dataclasses.asdict(row))
    return row


def _monitor(task: Task, part: str, split: TrainingSplit, work: Path, how: How) -> FolderMonitor:
    return FolderMonitor(
        work / part,
        training_key(split, stage_one(task.config), task.seed, task.device),
        every=how.snapshot_every,
        listener=how.listen(task.title if part == "training" else f"{task.title}, {part}"),
    )


def _run_method_test_best(
    task: Task, dataset: GZSLDataset, unseen: UnseenImages, work: Path, how: How
) -> Row:
    """Keep no model: one that was chosen on test data is nobody's to use."""
    found = measure_test_best(
        dataset,
        task.config,
        seed=task.seed,
        device=task.device,
        folder=work / "training",
        every=how.snapshot_every,
        listener=how.listen(task.title),
        reuse=how.reuse,
    )
    row = row_of_test_best(task, dataset, found, unseen)
    if how.record is not None:
        _keep_losses(work, how.record, ["training"])
    return row


def _keep_losses(work: Path, record: Path, parts: Iterable[str]) -> None:
    for part in parts:
        for path in (work / part).glob("*.jsonl"):
            (record / part).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, record / part / path.name)
