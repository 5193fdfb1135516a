"""How well the features of unseen classes' test images retrieve each other, raw and refined."""

import functools

import numpy as np

from mlis.data.dataset import GZSLDataset, TestSplit
from mlis.evaluation import Retrieval, evaluate_retrieval
from mlis.model.recognizer import Recognizer


def retrieved(recognizer: Recognizer, data: GZSLDataset | TestSplit) -> dict[str, float | None]:
    """Recall@1 and MAP@R of the test images of unseen classes; nothing without such images."""
    features, labels, raw = _unseen(data)
    if raw is None:
        return {}
    refined = evaluate_retrieval(recognizer.refine(features), labels)
    return {
        "recall_at_1_raw": raw.recall_at_1,
        "recall_at_1_refined": refined.recall_at_1,
        "map_at_r_raw": raw.map_at_r,
        "map_at_r_refined": refined.map_at_r,
    }


@functools.lru_cache(maxsize=1)  # of raw features, the same for all runs of a dataset
def _unseen(data: GZSLDataset | TestSplit) -> tuple[np.ndarray, np.ndarray, Retrieval | None]:
    test = data.for_testing() if isinstance(data, GZSLDataset) else data
    rows = (~test.seen_mask[test.labels]).nonzero()[0]
    features, labels = test.features[rows], test.labels[rows]
    return features, labels, evaluate_retrieval(features, labels) if len(rows) else None
