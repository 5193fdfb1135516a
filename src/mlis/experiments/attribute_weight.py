"""The weight of a class's attributes against its sentences, chosen on validation classes.

Each weight is tried with the Gaussian classifier, in closed form, on several splits that hold out
training classes. What it knows of the images (:class:`~mlis.methods.gaussian.Statistics`) is
computed once per split, so that a further weight costs a regression on descriptors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from mlis.compute.precision import Precision, own_modes
from mlis.data.dataset import GZSLDataset
from mlis.evaluation import SeenUnseenCurve, average_constant, seen_unseen_curve
from mlis.features.descriptors.describe import WEIGHT, Descriptors, reweighed
from mlis.methods.base import Job
from mlis.methods.gaussian import Gaussian
from mlis.model.preprocessing import normalise_descriptors
from mlis.protocol import folds

WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
SPLITS = 5


@own_modes()
def choose_attribute_weight(
    data: GZSLDataset,
    descriptors: Descriptors,
    *,
    weights: Sequence[float] = WEIGHTS,
    device: str | torch.device = "auto",
) -> Descriptors:
    """Descriptors with the weight of attributes that suits the training rows best.

    Weights whose mean H on validation classes is within one standard error of the best one's (of
    the difference, over splits) are equal; of equals the one nearest to 0.5 is chosen.

    Args:
        data: made of these descriptors (:func:`mlis.features.build.build`); no test row is used.
        descriptors: of sentences and attributes.
        weights: to try, each between 0 and 1.
        device: "auto", "cpu", "cuda", …

    Returns:
        `descriptors` with the chosen weight; a note and `attribute_weights_tried` of the record say
        what H each had.

    Raises:
        DataError: the training rows have too few classes to hold some out.
        SettingsError: the descriptors are not of both kinds, or a weight is out of range.
    """
    candidates = [reweighed(descriptors, weight) for weight in weights]
    place = {name: i for i, name in enumerate(descriptors.names)}
    rows = [place[name] for name in data.class_names]
    vectors = [one.vectors[rows] for one in candidates]
    splits = folds(data, SPLITS)
    curves = [list(_curves(fold, vectors, device)) for fold in splits]
    H = np.array([_at_common_constant(one) for one in zip(*curves, strict=True)])
    chosen = candidates[_choice(weights, H)]
    tried = {f"{weight:g}": round(one, 2) for weight, one in zip(weights, H.mean(1), strict=True)}
    shown = ", ".join(f"{weight}: {value:.1f}" for weight, value in tried.items())
    note = (
        f"weight of attributes {chosen.record['attribute_weight']:g}, chosen on {len(splits)} "
        f"splits of the training classes; H by weight {shown}"
    )
    record = {**chosen.record, "notes": [*chosen.notes, note], "attribute_weights_tried": tried}
    return replace(chosen, record=record)


def _curves(
    fold: GZSLDataset, vectors: Sequence[np.ndarray], device: str | torch.device
) -> Iterator[SeenUnseenCurve]:
    """U and S of a fold's held-out rows with each of these descriptors of all classes."""
    training, held_out = fold.for_validation()
    method, job = Gaussian(), Job(training, device=device)
    settings = method.config.preprocessing
    precision = Precision.of(method.config.precision, device)
    scaler, tensors = job.prepare(method.config)
    statistics = method.statistics(scaler, tensors)
    for one in vectors:
        described = normalise_descriptors(precision.tensor(one[training.class_ids]), settings)
        head = method.head(statistics, replace(tensors, descriptors=described))
        scores = job.recognizer(scaler, head).scores(held_out.features)
        yield seen_unseen_curve(scores, held_out.labels, held_out.seen_mask)


def _at_common_constant(curves: Sequence[SeenUnseenCurve]) -> list[float]:
    """H of each split at the calibration constant that is best on average."""
    constant = average_constant(curves)
    return [float(curve.H[np.searchsorted(curve.knots, constant)]) for curve in curves]


def _choice(weights: Sequence[float], H: np.ndarray) -> int:
    """Number of the chosen weight, of the (W, F) H of W weights on F splits."""
    best = int(H.mean(1).argmax())
    behind = H[best] - H
    noise = behind.std(1, ddof=1) / len(H[0]) ** 0.5 if len(H[0]) > 1 else np.zeros(len(H))
    equal = np.flatnonzero(behind.mean(1) <= noise)
    return min(equal.tolist(), key=lambda i: (round(abs(weights[i] - WEIGHT), 9), -H[i].mean()))
