"""What a worker of :mod:`mlis.experiments.ray_engine` does: runs of one job, from data to rows."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlis.compute.ray_cluster import fetch, node_name
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError, MlisError, SettingsError
from mlis.experiments.running import How, run
from mlis.experiments.tasks import Task, load_data
from mlis.storage.locks import lock_folder


@dataclass(frozen=True)
class Answer:
    """What a worker says of one task.

    Attributes:
        key: of the task.
        line: its row, as it stands in the store; None where there is none.
        problem: why not.
        files: losses, and perhaps a model, by path below `runs/KEY/`.
    """

    key: str
    line: bytes | None
    problem: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Absent:
    """A worker's answer where the data are not at their path: `why`."""

    why: str


def work(
    jobs: Sequence[tuple[dict[str, Any], str, bool]],
    data: Any | None,
    name: str,
    snapshot_every: float,
) -> list[Answer] | Absent:
    """Run tasks of one stem, one after the other.

    Args:
        jobs: of each task `Task.to_dict`, its key on the driver, and whether its model is kept.
        data: reference of the dataset; None where it was not sent.
        name: of the folder of snapshots.
        snapshot_every: seconds between snapshots.
    """
    if not jobs:  # another process has done them meanwhile
        return []
    tasks = [Task.from_dict(values) for values, _, _ in jobs]
    place = Path(tempfile.gettempdir()) / name / node_name() / tasks[0].stem[:16]
    answers: list[Answer] = []
    try:
        with lock_folder(place, waiting=lambda holder: None):  # of an attempt that still dies
            for task, (_, key, keep_model) in zip(tasks, jobs, strict=True):
                found = _data(task, data)
                how = How(
                    record=place / "records" / key[:16],
                    keep_model=keep_model,
                    snapshot_every=snapshot_every,
                    load=lambda _, found=found: found,
                )
                answers.append(_answer(task, key, place, how))
    except DataError as error:
        return Absent(str(error))
    finally:  # a process that is killed leaves it to the next attempt on its node
        shutil.rmtree(place, ignore_errors=True)
    return answers


def _answer(task: Task, key: str, place: Path, how: How) -> Answer:
    record = how.record
    assert record is not None
    try:
        if task.key != key:
            raise SettingsError(
                "this worker computes in another precision than the machine that asked, or has "
                "another version of mlis: name the precision in --settings"
            )
        row = run(task, place, how)
    except MlisError as error:
        return Answer(key, None, str(error))
    files = {
        path.relative_to(record).as_posix(): path.read_bytes()
        for path in record.rglob("*")
        if path.is_file()
    }
    return Answer(key, row.to_line(), "", files)


def _data(task: Task, reference: Any | None) -> GZSLDataset:
    """From the task's own path, else from the object store.

    Raises:
        DataError: it is not at its path, and was not sent.
    """
    if reference is not None and reference in _sent:
        return _sent[reference]
    try:
        return load_data(task)
    except DataError:
        if reference is None:
            raise
    _sent.clear()
    _sent[reference] = fetch(reference)
    return _sent[reference]


_sent: dict[Any, GZSLDataset] = {}  # the last dataset that this worker took from the object store
