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
from mlis.experiments.store import Row, parse
from mlis.experiments.tasks import Task
from mlis.provenance import provenance


def new_row(
    task: Task,
    dataset: GZSLDataset,
    test: Mapping[str, Any],
    *,
    calibration: float,
    chosen: Mapping[str, Any],
    seconds: float,
    reused: bool,
    validation: Evaluation | None = None,
) -> Row:
    """The row of a run; arguments are attributes of :class:`~mlis.experiments.store.Row`."""
    row = Row(
        key=task.key,
        protocol=task.protocol,
        task=task.to_dict(),
        test=test,
        validation=None if validation is None else validation.to_dict(),
        calibration=calibration,
        chosen=chosen,
        cost={"seconds": round(seconds, 3), "reused": reused},
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
