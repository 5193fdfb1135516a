"""How a task is done, alone or with those of other seeds.

Stages that several runs share are trained once: the generator is in the user's cache folder
(:mod:`mlis.generators`), and the encoder in the work folder, for runs that differ in stage 2 alone.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.baselines.protocol import choose_and_test
from mlis.checkpoint import save_model
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.experiments.loading import Loaded, loaded
from mlis.experiments.new_row import row_of_baseline, row_of_method, row_of_test_best
from mlis.experiments.retrieval import UnseenImages
from mlis.experiments.store import TEST_BEST, Row
from mlis.experiments.tasks import BASELINES, METHOD, Task, stage_one
from mlis.experiments.testbest import measure_test_best
from mlis.protocol import fit_and_calibrate, fit_and_calibrate_seeds
from mlis.provenance import training_key
from mlis.snapshots import FolderMonitor
from mlis.training import Monitor

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
        (row,) = _run_method((task,), dataset, unseen, work, (how,))
        return row
    measured = choose_and_test(
        BASELINES[task.method](config=task.config, **_tuples(task.options)),
        dataset,
        seed=task.seed,
        device=task.device,
        monitor=how.listen(task.title),
        reuse=how.reuse,
    )
    return row_of_baseline(task, dataset, measured, unseen)


def run_stacked(tasks: Sequence[Task], work: Path, hows: Sequence[How]) -> list[Row]:
    """Train tasks that differ in their seed alone as one (:func:`mlis.pipeline.fit_seeds`).

    Each row is the one of its task, but for rounding: its provenance says under "stacked" which
    seeds were trained together, so that nobody expects the bits of one trained alone.

    Args:
        tasks: two or more of the method, of the same `seedless` key.
        work: folder of snapshots, held by the caller, and of these seeds only.
        hows: one a task; the first one's says who listens and how often snapshots are taken.

    Raises:
        DataError: the data are not there, or are not those of the tasks.
        DivergenceError: the training of one of the seeds diverged.
    """
    assert len(tasks) > 1
    assert len({task.seedless for task in tasks}) == 1
    return _run_method(tasks, *hows[0].load(tasks[0]), work, hows)


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}


def _run_method(
    tasks: Sequence[Task],
    dataset: GZSLDataset,
    unseen: UnseenImages,
    work: Path,
    hows: Sequence[How],
) -> list[Row]:
    """Of one task, or of several seeds trained together."""
    config = tasks[0].config
    monitors = {"training": _monitor(tasks, "training", dataset.for_training(), work, hows[0])}
    if config.classification.calibration == "validation":
        split = dataset.for_validation()[0]
        monitors["validation"] = _monitor(tasks, "validation", split, work, hows[0])
    common: dict[str, Any] = {
        "device": tasks[0].device,
        "monitor": monitors["training"],
        "validation_monitor": monitors.get("validation"),
        "reuse": hows[0].reuse,
        "growable": False,
    }
    if len(tasks) == 1:
        trained = [fit_and_calibrate(dataset, config, seed=tasks[0].seed, **common)]
    else:
        seeds = [task.seed for task in tasks]
        trained = fit_and_calibrate_seeds(dataset, config, seeds=seeds, **common)
    rows: list[Row] = []
    for task, own, how in zip(tasks, trained, hows, strict=True):
        row = row_of_method(task, dataset, own, unseen, monitors)
        if how.record is not None:
            _keep_losses(work, how.record, monitors)
            if how.keep_model:
                save_model(own.recognizer, how.record / "model", dataclasses.asdict(row))
        rows.append(row)
    return rows


def _monitor(
    tasks: Sequence[Task], part: str, split: TrainingSplit, work: Path, how: How
) -> FolderMonitor:
    one, several = tasks[0], len(tasks) > 1
    seed = tuple(task.seed for task in tasks) if several else one.seed
    title = f"{one.name}, {one.kind}, seeds {str(seed)[1:-1]}" if several else one.title
    return FolderMonitor(
        work / part,
        training_key(split, stage_one(one.config), seed, one.device),
        every=how.snapshot_every,
        listener=how.listen(title if part == "training" else f"{title}, {part}"),
        owner="+".join(task.key for task in tasks),
    )


def _run_method_test_best(
    task: Task, dataset: GZSLDataset, unseen: UnseenImages, work: Path, how: How
) -> Row:
    """Keep no model: one that was chosen on test data is nobody's to use."""
    found, monitor = measure_test_best(
        dataset,
        task.config,
        seed=task.seed,
        device=task.device,
        folder=work / "training",
        every=how.snapshot_every,
        listener=how.listen(task.title),
        owner=task.key,
        reuse=how.reuse,
    )
    row = row_of_test_best(task, dataset, found, monitor, unseen)
    if how.record is not None:
        _keep_losses(work, how.record, {"training": monitor})
    return row


def _keep_losses(work: Path, record: Path, parts: Mapping[str, object]) -> None:
    for part in parts:
        for path in (work / part).glob("*.jsonl"):
            (record / part).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, record / part / path.name)
