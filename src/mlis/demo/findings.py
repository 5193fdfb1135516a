"""What the demo found: everything that the page shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlis.config import Config
from mlis.data.letters.render import LetterData
from mlis.evaluation import Evaluation


@dataclass(frozen=True)
class Method:
    """One row of the table: U, S, H, T1 in per cent."""

    name: str
    measures: Mapping[str, float]


def chance(seen_mask: np.ndarray) -> dict[str, float]:
    """Expected measures, per cent, of drawing a class at random from all (T1: from the unseen).

    >>> chance(np.array([True, True, True, False]))
    {'U': 25.0, 'S': 25.0, 'H': 25.0, 'T1': 100.0}
    """
    one_of_all = 100 / len(seen_mask)
    one_of_unseen = 100 / int((~seen_mask).sum())
    return {"U": one_of_all, "S": one_of_all, "H": one_of_all, "T1": one_of_unseen}


@dataclass(frozen=True, eq=False)
class Findings:
    """The tested recognizer's answers, beside the data and the other methods' measures.

    Attributes:
        data: letters, images, split.
        rows: (n,) int64, row of each test image in `data`, as `for_testing` orders them.
        predicted: (n,) int64, class that each was taken for.
        refined: (n, Dh) refined features of the test images.
        evaluation: of the recognizer on them.
        methods: baselines first, the recognizer last.
        config: its settings.
        seconds: wall time of rendering, training and testing.
        provenance: data, versions, machine.
    """

    data: LetterData
    rows: np.ndarray
    predicted: np.ndarray
    refined: np.ndarray
    evaluation: Evaluation
    methods: tuple[Method, ...]
    config: Config
    seconds: float
    provenance: Mapping[str, Any]

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, the right class of each test image."""
        return self.data.dataset.labels[self.rows]

    @property
    def accuracy(self) -> np.ndarray:
        """(C,) per cent of each class's test images that were recognised."""
        return np.array([row.accuracy for row in self.evaluation.per_class], dtype=float)
