"""Runs one task: training, test, result row.

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
from mlis.experiments.new_row import new_row
from mlis.experiments.retrieval import retrieved
from mlis.experiments.store import TEST_BEST, Row
from mlis.experiments.tasks import Task, load_data, stage_one
from mlis.experiments.testbest import at_best_constant, best_alternative, measure_test_best
from mlis.io.checkpoint import save_model
from mlis.methods.base import Method
from mlis.methods.registry import build_method
from mlis.protocol import evaluate_on_test
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
        keep_model: whether `record` gets `model/` too; none under H@test-best.
        snapshot_every: seconds between snapshots.
        reuse: whether generators are taken from the user's cache folder or trained there.
        load: gives the dataset of a task.
    """

    listen: Listen = silent
    record: Path | None = None
    keep_model: bool = False
    snapshot_every: float = 30.0
    reuse: bool = True
    load: Callable[[Task], GZSLDataset] = load_data


def run(task: Task, work: Path, how: How) -> Row:
    """Train and test, or continue where a killed process stopped.

    A training continues from its last snapshot; only an automatic choice of methods starts again.

    Args:
        task: what to run.
        work: folder of snapshots, for tasks of the same `stem`; the caller holds it.
        how: progress, and what is kept.

    Raises:
        DataError: the data are not there, or are not those of the task.
        DivergenceError: a training diverged.
    """
    dataset = how.load(task)
    method = build_method(task.method, task.config, **_tuples(task.options))
    tried = method.has_components or len(method.alternatives()) > 1
    if task.protocol == TEST_BEST and tried:
        return _run_test_best(task, method, dataset, work, how)
    parts = {"training": _hooks(task, method, "training", dataset.for_training(), work, how)}
    if method.chooses:
        split = dataset.for_validation()[0]
        parts["validation"] = _hooks(task, method, "validation", split, work, how)
    validation = {f"validation_{name}": v for name, v in parts.get("validation", {}).items()}
    chosen = method.choose(
        dataset,
        seed=task.seed,
        device=task.device,
        reuse=how.reuse,
        exemplars=False,
        **parts["training"],
        **validation,
    )
    recognizer, constant = chosen.recognizer, chosen.recognizer.calibration
    test = evaluate_on_test(recognizer, dataset).to_dict()
    if recognizer.refiner.kind != "none":
        test |= retrieved(recognizer, dataset)
    if task.protocol == TEST_BEST:
        best, constant = at_best_constant(recognizer, dataset.for_testing())
        test |= best.to_dict()
    row = new_row(
        *(task, dataset, test),
        calibration=constant,
        # the task has all settings of a method with components
        chosen={} if method.has_components else chosen.method.settings,
        seconds=chosen.seconds,
        reused=chosen.reused,
        validation=chosen.validation,
    )
    if how.record is not None:
        _keep_losses(work, how.record, parts)
        if how.keep_model and task.protocol != TEST_BEST:
            save_model(chosen.recognizer, how.record / "model", record=dataclasses.asdict(row))
    return row


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}


def _hooks(
    task: Task, method: Method, part: str, split: TrainingSplit, work: Path, how: How
) -> dict[str, Any]:
    """Callbacks and snapshots of one training."""
    title = task.title if part == "training" else f"{task.title}, {part}"
    first = dataclasses.replace(method, config=stage_one(task.config))
    key = first.key(split, task.seed, task.device)
    return {
        "callbacks": [LossLog(work / part), how.listen(title)],
        "checkpoints": CheckpointFolder(work / part, key, every=how.snapshot_every),
    }


def _run_test_best(task: Task, method: Method, dataset: GZSLDataset, work: Path, how: How) -> Row:
    """Take the best step of MLIS, or the best setting; keep no model chosen on test data."""
    common = {"seed": task.seed, "device": task.device, "reuse": how.reuse}
    if method.has_components:
        found = measure_test_best(
            *(dataset, task.config),
            folder=work / "training",
            every=how.snapshot_every,
            callback=how.listen(task.title),
            **common,
        )
    else:
        hooks = _hooks(task, method, "training", dataset.for_training(), work, how)
        found = best_alternative(method, dataset, **hooks, **common)
    test = found.test.to_dict()
    if found.recognizer.refiner.kind != "none":
        test |= retrieved(found.recognizer, dataset)
    row = new_row(
        *(task, dataset, test),
        calibration=found.calibration,
        chosen=found.chosen,
        seconds=found.seconds,
        reused=found.reused,
    )
    if how.record is not None:
        _keep_losses(work, how.record, ["training"])
    return row


def _keep_losses(work: Path, record: Path, parts: Iterable[str]) -> None:
    for part in parts:
        for path in (work / part).glob("*.jsonl"):
            (record / part).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, record / part / path.name)
