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
from mlis.training.callbacks import Callback, LossLog
from mlis.training.checkpoints import CheckpointFolder

Listen = Callable[[str], Callback]


def silent(title: str) -> Callback:
    """Show no progress."""
    return Callback()


@dataclass(frozen=True)
class How:
    """How a task is run; none of it changes a number.

    Attributes:
        listen: given the title of a training, returns its callback.
        record: gets the losses, as `.jsonl`; None: they are dropped.
        keep_model: whether `record` gets `model/` too; baselines save none.
        snapshot_every: seconds between snapshots.
        reuse: whether generators are taken from the user's cache folder or trained there.
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

    A baseline starts again, except for its generator.

    Args:
        task: what to run.
        work: folder of snapshots, for tasks of the same `stem`; the caller holds it.
        how: progress, and what is kept.

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
        callbacks=[how.listen(task.title)],
        reuse=how.reuse,
    )
    return row_of_baseline(task, dataset, measured, unseen)


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}


def _run_method(
    task: Task, dataset: GZSLDataset, unseen: UnseenImages, work: Path, how: How
) -> Row:
    parts = {"training": _hooks(task, "training", dataset.for_training(), work, how)}
    if task.config.classification.calibration == "validation":
        split = dataset.for_validation()[0]
        parts["validation"] = _hooks(task, "validation", split, work, how)
    validation = {f"validation_{name}": v for name, v in parts.get("validation", {}).items()}
    trained = fit_and_calibrate(
        dataset,
        task.config,
        seed=task.seed,
        device=task.device,
        reuse=how.reuse,
        exemplars=False,
        **parts["training"],
        **validation,
    )
    row = row_of_method(task, dataset, trained, unseen)
    if how.record is not None:
        _keep_losses(work, how.record, parts)
        if how.keep_model:
            save_model(trained.recognizer, how.record / "model", record=dataclasses.asdict(row))
    return row


def _hooks(task: Task, part: str, split: TrainingSplit, work: Path, how: How) -> dict[str, Any]:
    """Callbacks and snapshots of one training."""
    title = task.title if part == "training" else f"{task.title}, {part}"
    key = training_key(split, stage_one(task.config), task.seed, task.device)
    return {
        "callbacks": [LossLog(work / part), how.listen(title)],
        "checkpoints": CheckpointFolder(work / part, key, every=how.snapshot_every),
    }


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
        callback=how.listen(task.title),
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
