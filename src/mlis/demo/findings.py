"""What the demo found: everything that the page shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlis.config import Config
from mlis.data.letters import LetterData
from mlis.evaluation import Evaluation


@dataclass(frozen=True)
class Method:
    """One row of the table: U, S, H, T1 in per cent."""

    name: str
    measures: Mapping[str, float]


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
