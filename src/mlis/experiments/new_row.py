"""A row of the store, made of what a run measured and what it cost."""

import dataclasses
import datetime
import functools
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlis.baselines.protocol import Measured
from mlis.data.dataset import GZSLDataset
from mlis.evaluation import Evaluation
from mlis.experiments.retrieval import UnseenImages
from mlis.experiments.store import TEST_BEST, Row, parse
from mlis.experiments.tasks import Task
from mlis.experiments.testbest import TestBest, baseline_test_best
from mlis.inference import Recognizer
from mlis.protocol import Trained, test_once
from mlis.provenance import provenance
from mlis.training import Account, Monitor


def row_of_method(
    task: Task,
    dataset: GZSLDataset,
    trained: Trained,
    unseen: UnseenImages,
    monitors: Mapping[str, Monitor],
) -> Row:
    """Of the method under H@val.

    Args:
        task, dataset: what was run.
        trained: what came of it; tested here.
        unseen: retrieval among the images of unseen classes.
        monitors: of this training and, if there was one, of its validation run.
    """
    accounts = _encoder_accounts(monitors.values())
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


def row_of_test_best(
    task: Task, dataset: GZSLDataset, found: TestBest, monitor: Monitor, unseen: UnseenImages
) -> Row:
    """Of the method under H@test-best; `monitor` heard of its training."""
    assert found.last is not None
    assert found.recognizer is not None
    accounts = _encoder_accounts([monitor])
    generator = found.last.generator
    cost = {
        "seconds": round(found.last.seconds + found.seconds, 3),
        "generation_seconds": 0.0 if generator is None else round(generator.seconds, 3),
        "refinement_seconds": round(sum(one.seconds for one in accounts), 3),
        "reused": any(one.reused for one in (*accounts, *([generator] if generator else []))),
    }
    test = found.test.to_dict() | unseen.retrieved(found.recognizer)
    return _row(task, dataset, test, None, found.calibration, found.chosen, cost)


def row_of_baseline(
    task: Task, dataset: GZSLDataset, measured: Measured, unseen: UnseenImages
) -> Row:
    """Of a baseline, under the task's protocol."""
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


def _encoder_accounts(monitors: Iterable[Monitor]) -> list[Account]:
    """What stage 1b has cost, where that is known."""
    accounts = [one.account(name) for one in monitors for name in ("refinement", "joint")]
    return [account for account in accounts if account is not None]


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
