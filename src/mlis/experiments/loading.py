"""Loads the dataset of a task and verifies its hash."""

import functools
import json

from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError
from mlis.experiments.retrieval import UnseenImages
from mlis.experiments.tasks import Task

Loaded = tuple[GZSLDataset, UnseenImages]


def loaded(task: Task) -> Loaded:
    """The dataset from where the task says that it is.

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
def _loaded(arguments: str) -> Loaded:
    dataset = load_dataset(**json.loads(arguments))
    return dataset, UnseenImages(dataset)
