"""How a task is done, alone or with those of other seeds.

Stages that several runs share are trained once: the generator is in the user's cache folder
(:mod:`mlis.generators`), and the encoder in the work folder, for runs that differ in stage 2 alone.
"""

import dataclasses
import datetime
import functools
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.baselines.protocol import Measured, choose_and_test
from mlis.checkpoint import save_model
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.evaluation import Evaluation
from mlis.experiments.loading import Loaded, loaded
from mlis.experiments.retrieval import UnseenImages
from mlis.experiments.store import TEST_BEST, Row, parse
from mlis.experiments.tasks import BASELINES, METHOD, Task, stage_one
from mlis.experiments.testbest import baseline_test_best, measure_test_best
from mlis.inference import Recognizer
from mlis.protocol import Trained, fit_and_calibrate, fit_and_calibrate_seeds, test_once
from mlis.provenance import provenance, training_key
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
    return _row_of_baseline(task, dataset, measured, unseen)


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
        row = _row_of_method(task, dataset, own, unseen, monitors)
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


def _row_of_method(
    task: Task,
    dataset: GZSLDataset,
    trained: Trained,
    unseen: UnseenImages,
    monitors: Mapping[str, FolderMonitor],
) -> Row:
    stages = [one.account(name) for one in monitors.values() for name in ("refinement", "joint")]
    accounts = [account for account in stages if account is not None]
    generators = trained.generators.values()
    share = 1 / max(1, len(trained.stacked))
    cost = {
        "seconds": round(trained.seconds, 3),
        "generation_seconds": round(sum(one.seconds for one in generators), 3),
        "refinement_seconds": round(share * sum(one.seconds for one in accounts), 3),
        "reused": any(one.reused for one in (*generators, *accounts)),
    }
    recognizer = trained.recognizer
    test = test_once(recognizer, dataset).to_dict() | unseen.retrieved(recognizer)
    row = _row(task, dataset, test, trained.validation, recognizer.calibration, {}, cost)
    if not trained.stacked:
        return row
    return dataclasses.replace(
        row, provenance={**row.provenance, "stacked": sorted(trained.stacked)}
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
    assert found.last is not None
    assert found.recognizer is not None
    stages = [monitor.account(name) for name in ("refinement", "joint")]
    accounts = [account for account in stages if account is not None]
    generator = found.last.generator
    cost = {
        "seconds": round(found.last.seconds + found.seconds, 3),
        "generation_seconds": 0.0 if generator is None else round(generator.seconds, 3),
        "refinement_seconds": round(sum(one.seconds for one in accounts), 3),
        "reused": any(one.reused for one in (*accounts, *([generator] if generator else []))),
    }
    test = found.test.to_dict() | unseen.retrieved(found.recognizer)
    if how.record is not None:
        _keep_losses(work, how.record, {"training": monitor})
    return _row(task, dataset, test, None, found.calibration, found.chosen, cost)


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
    settings, constant = found["settings"], measured.calibration
    if task.protocol == TEST_BEST:
        best = baseline_test_best(measured, dataset)
        test, constant = {**test, **best.test.to_dict()}, best.calibration
    return _row(task, dataset, test, measured.validation, constant, settings, cost)


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
        provenance={
            **provenance(dataset, task.config, task.device),
            **{"protocol": task.protocol, "cpu": _cpu()},
        },
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return parse(row.to_line())  # as it will be read back


@functools.cache
def _cpu() -> str:
    """The processor's name, on which the last bits may depend; empty where it is not told."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
