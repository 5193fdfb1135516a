"""Measures of generalized zero-shot recognition, in per cent, from scores and labels alone.

U and S are means over classes of top-1 accuracy: of the test images of unseen (seen) classes
with **all** classes as candidates. H = 2US / (U + S) (Xian et al., "Zero-Shot Learning – A
Comprehensive Evaluation of the Good, the Bad and the Ugly", 2018, eq. 16 and 17). T1 is the
zero-shot accuracy: unseen classes' test images, only the unseen classes as candidates.

Subtracting a constant c from all seen scores trades S for U. Over all c the points (U, S) trace
the seen–unseen curve; the area under it is AUSUC (Chao et al., "An Empirical Study and Analysis
of Generalized Zero-Shot Learning for Object Recognition in the Wild", 2016, sections 3 and 4).
The curve changes only where c passes some image's margin (best seen minus best unseen score),
so sorting the margins gives all of it: no grid of constants, no approximation.

Recall@1 and MAP@R say how well the features retrieve, without any classifier.

A measure without a single image to stand on is None, never 0 and never NaN, and `notes` says why.
"""

from mlis.evaluation.curve import (
    SeenUnseenCurve,
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
from mlis.evaluation.retrieval import Retrieval, evaluate_retrieval
from mlis.evaluation.seeds import METRICS, summarise

__all__ = [
    "METRICS",
    "ClassAccuracy",
    "Confusion",
    "Evaluation",
    "Retrieval",
    "SeenUnseenCurve",
    "best_calibration",
    "common_constant",
    "confusion_counts",
    "evaluate",
    "evaluate_retrieval",
    "harmonic_mean",
    "per_class_accuracy",
    "seen_unseen_curve",
    "summarise",
]
