"""A model's answers on test rows, and every measure of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from mlis.data.dataset import TestSplit
from mlis.evaluation import (
    Confidence,
    Evaluation,
    Rejection,
    evaluate,
    evaluate_confidence,
    evaluate_rejection,
)
from mlis.model.recognizer import Recognizer
from mlis.model.rejection import turned_away


@dataclass(frozen=True, eq=False)
class Tested:
    """Answers of one model on n test rows.

    Attributes:
        recognizer: the model.
        test: the rows.
        predicted: (n,) int64.
        result: U, S, H and the other measures of its scores.
        confidence: calibration of its probabilities.
        rejection: risk by coverage, and AUROC of unknown images where there are any; None without
            a row.
        turned_away: shares that are answered "unknown" (`mlis.model.rejection.turned_away`).
    """

    recognizer: Recognizer
    test: TestSplit
    predicted: np.ndarray
    result: Evaluation
    confidence: Confidence
    rejection: Rejection | None
    turned_away: Mapping[str, float]

    @classmethod
    def of(cls, recognizer: Recognizer, test: TestSplit, unknown: np.ndarray | None = None) -> Self:
        """Let a model answer.

        Args:
            recognizer: the model.
            test: rows of its classes.
            unknown: (M, Dx) float32 features of things that are none of them.
        """
        scores, of = recognizer.scores(test.features), (test.labels, test.seen_mask)
        predicted, rejection, away = scores.argmax(axis=1), None, dict[str, float]()
        if len(scores):
            known = recognizer.known_scores(test.features)
            others = None if unknown is None else recognizer.known_scores(unknown)
            rejection = evaluate_rejection(known, predicted == test.labels, others)
            is_seen = test.seen_mask[test.labels]
            away = turned_away(recognizer.metadata.rejection, known, is_seen, others)
        return cls(
            *(recognizer, test, predicted),
            evaluate(scores, *of, test.class_names),
            evaluate_confidence(scores, *of, temperature=recognizer.temperature),
            *(rejection, away),
        )
