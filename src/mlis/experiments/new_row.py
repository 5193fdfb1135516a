"""Makes a row of the store from what a run measured and what it cost."""

import datetime
import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlis.data.dataset import GZSLDataset
from mlis.evaluation import Evaluation
from mlis.experiments.inputs import inputs_of
from mlis.experiments.retrieval import UnseenImages
from mlis.experiments.store import TEST_BEST, Row, parse
from mlis.experiments.tasks import Task
from mlis.experiments.testbest import TestBest, constant_test_best
from mlis.protocol import Chosen, evaluate_on_test
from mlis.provenance import provenance


def row_of(task: Task, dataset: GZSLDataset, chosen: Chosen, unseen: UnseenImages) -> Row:
    """Of a method that was trained and chosen under H@val; tested here under the task's protocol.

    Args:
        task, dataset: what was run.
        chosen: what came of it.
        unseen: retrieval among the images of unseen classes.
    """
    recognizer, constant = chosen.recognizer, chosen.recognizer.calibration
    test = evaluate_on_test(recognizer, dataset).to_dict()
    if recognizer.refiner.kind != "none":
        test |= unseen.retrieved(recognizer)
    if task.protocol == TEST_BEST:
        best = constant_test_best(recognizer, dataset)
        test, constant = {**test, **best.test.to_dict()}, best.calibration
    cost = _cost(chosen.seconds, chosen.reused)
    # the task has all settings of a method with components
    settings = {} if chosen.method.has_components else chosen.method.settings
    return _row(task, dataset, test, chosen.validation, constant, settings, cost)


def row_of_test_best(
    task: Task, dataset: GZSLDataset, found: TestBest, unseen: UnseenImages
) -> Row:
    """Of a method whose encoder's best step was taken, under H@test-best."""
    assert found.last is not None
    assert found.recognizer is not None
    test = found.test.to_dict() | unseen.retrieved(found.recognizer)
    cost = _cost(found.last.seconds + found.seconds, found.last.reused)
    return _row(task, dataset, test, None, found.calibration, found.chosen, cost)


def _cost(seconds: float, reused: bool) -> dict[str, Any]:
    return {"seconds": round(seconds, 3), "reused": reused}


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
            **{"protocol": task.protocol, "cpu": _cpu(), "inputs": inputs_of(dataset)},
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
