"""How well the features of unseen classes' test images retrieve each other, raw and refined."""

from mlis.data.dataset import GZSLDataset, TestSplit
from mlis.evaluation import evaluate_retrieval
from mlis.model.recognizer import Recognizer


class UnseenImages:
    """Test images of unseen classes; what their raw features retrieve is measured once."""

    def __init__(self, data: GZSLDataset | TestSplit):
        test = data.for_testing() if isinstance(data, GZSLDataset) else data
        rows = (~test.seen_mask[test.labels]).nonzero()[0]
        self._features, self._labels = test.features[rows], test.labels[rows]
        self._raw = evaluate_retrieval(self._features, self._labels) if len(rows) else None

    def retrieved(self, recognizer: Recognizer) -> dict[str, float | None]:
        """Recall@1 and MAP@R, raw and refined; nothing without such images."""
        if self._raw is None:
            return {}
        refined = evaluate_retrieval(recognizer.refine(self._features), self._labels)
        return {
            "recall_at_1_raw": self._raw.recall_at_1,
            "recall_at_1_refined": refined.recall_at_1,
            "map_at_r_raw": self._raw.map_at_r,
            "map_at_r_refined": refined.map_at_r,
        }
