"""Metrics of generalized zero-shot recognition in per cent, computed from scores and labels.

U and S are per-class means of top-1 accuracy on test images of unseen (seen) classes, with **all**
classes as candidates. H = 2US / (U + S) (Xian et al., "Zero-Shot Learning – A
Comprehensive Evaluation of the Good, the Bad and the Ugly", 2018, eq. 16 and 17). T1 is the
zero-shot accuracy: test images of unseen classes, with only the unseen classes as candidates.

Subtracting a constant c from all seen-class scores trades S for U. Over all c the points (U, S)
form the seen–unseen curve; the area under it is AUSUC (Chao et al., "An Empirical Study and
Analysis of Generalized Zero-Shot Learning for Object Recognition in the Wild", 2016, sections 3 and
4). The curve changes only where c passes the margin of an image (best seen minus best unseen
score); it is computed exactly by sorting the margins.

Softmax probabilities are measured by their expected calibration error (ECE).

Images of unknown classes are to be answered "unknown": AUROC, risk and coverage.

Recall@1 and MAP@R measure retrieval with the features, without a classifier.

A metric without images is None, never 0 or NaN, and `notes` gives the reason.
"""

from mlis.evaluation.confidence import (
    Confidence,
    Reliability,
    best_temperature,
    evaluate_confidence,
)
from mlis.evaluation.curve import (
    SeenUnseenCurve,
    average_constant,
    best_calibration,
    common_constant,
    seen_unseen_curve,
)
from mlis.evaluation.measures import (
    ClassAccuracy,
    Confusion,
    Evaluation,
    confusion_counts,
    evaluate,
    harmonic_mean,
    per_class_accuracy,
)
from mlis.evaluation.rejection import Rejection, auroc, evaluate_rejection
from mlis.evaluation.retrieval import Retrieval, evaluate_retrieval
from mlis.evaluation.seeds import METRICS, summarise
from mlis.evaluation.tradeoff import OperatingPoint, TradeOff
from mlis.evaluation.words import in_words

__all__ = [
    "METRICS",
    "ClassAccuracy",
    "Confidence",
    "Confusion",
    "Evaluation",
    "OperatingPoint",
    "Rejection",
    "Reliability",
    "Retrieval",
    "SeenUnseenCurve",
    "TradeOff",
    "auroc",
    "average_constant",
    "best_calibration",
    "best_temperature",
    "common_constant",
    "confusion_counts",
    "evaluate",
    "evaluate_confidence",
    "evaluate_rejection",
    "evaluate_retrieval",
    "harmonic_mean",
    "in_words",
    "per_class_accuracy",
    "seen_unseen_curve",
    "summarise",
]
