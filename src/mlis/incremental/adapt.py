"""Adapt a trained recognizer to unlabelled images of the classes: a transductive model.

What a Gaussian head predicts of the mean of an unseen class is uncertain. Unlabelled images that
probably show the class say where it is: by expectation maximisation (Dempster, Laird, Rubin, 1977),
each image counts for each unseen class with the probability that the recognizer, the whole ensemble
where it is one, gives it, and the mean is the posterior of the prediction and these counts
(:meth:`~mlis.model.heads.GaussianHead.with_sums`). Seen classes and other heads stay.

A class about which more is known has other densities, so that the calibration constant is adapted,
too: to where the probability of all unseen classes together, mean over the images, is what it was.
How to weigh seen against unseen classes was chosen on validation classes, which have labels.

A recognizer that has learnt from the images it is tested on is *transductive*. Its figures are not
comparable with those of other, inductive, ones, and the recognizer says so.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlis.compute.precision import own_modes
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError
from mlis.incremental.class_changes import noted
from mlis.model.heads import EnsembleHead, GaussianHead, Head
from mlis.model.recognizer import ADAPTED, Recognizer, probabilities_of, replace

ROUNDS = 10
"""Of expectation maximisation: on validation classes 3 to 10 gave the same accuracy."""
_ROWS = 8192  # processed at a time


@own_modes()
def adapt(recognizer: Recognizer, unlabelled: Any, *, note: str = "") -> Recognizer:
    """A transductive recognizer, whose unseen classes are where unlabelled images suggest.

    Results, the trade-off on validation classes and validation measures of the recognizer are not
    those of the adapted one, and are not kept in it.

    Args:
        recognizer: with a Gaussian classifier, alone or in an ensemble; stays as it is.
        unlabelled: (N, Dx) features of images of its classes, seen or unseen, as it takes them.
        note: kept in the history.

    Raises:
        DataError: no images, features of another length or not finite, no Gaussian classifier, no
            unseen class, or the recognizer is adapted already.
    """
    x = as_float32(unlabelled, "unlabelled features")
    gaussian = _gaussian(recognizer)
    if x.ndim != 2 or not len(x):
        raise DataError(
            f"unlabelled features: expected shape (N, {recognizer.num_features}) with N ≥ 1, got "
            f"{x.shape}. Give features of the model's backbone."
        )
    share, adapted = _unseen_share(recognizer, x), recognizer
    for _ in range(ROUNDS):
        head = gaussian.with_sums(*_responsibilities(adapted, gaussian, x))
        adapted = replace(adapted, head=_with(recognizer.head, head))
        adapted.calibration = _constant(adapted, x, share)
    told = f"{len(x):,} unlabelled images: transductive"
    metadata = noted(recognizer, ADAPTED, [], to=told, note=note)
    record = {k: v for k, v in metadata.record.items() if k not in ("test", "validation")}
    adapted.metadata = dataclasses.replace(metadata, record=record, tradeoff=None)
    return adapted


def _gaussian(recognizer: Recognizer) -> GaussianHead:
    """Its Gaussian head. Raises what `adapt` does of the recognizer."""
    if recognizer.transductive:
        raise DataError(
            "cannot adapt: the model is adapted to unlabelled images already, which would count "
            "twice. Adapt the model that it was made from."
        )
    if (found := recognizer.gaussian_part()) is None:
        raise DataError(
            f"cannot adapt: expected a Gaussian classifier, alone or in an ensemble, got a "
            f"{recognizer.head.kind} head. Train a model of the method auto or gaussian."
        )
    if bool(recognizer.seen_mask.all()):
        raise DataError("cannot adapt: expected a model with unseen classes, got none.")
    return found[1]


def _with(head: Head, gaussian: GaussianHead) -> Head:
    """The head with another Gaussian part."""
    if not isinstance(head, EnsembleHead):
        return gaussian
    first = next(one for one in head.members if isinstance(one.head, GaussianHead))
    return EnsembleHead([one.with_head(gaussian) if one is first else one for one in head.members])


def _responsibilities(
    recognizer: Recognizer, gaussian: GaussianHead, x: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Images (C,) that each unseen class has probably, and the sum (C, k) of their coordinates."""
    part = recognizer.gaussian_part()
    assert part is not None
    counts = torch.zeros(len(gaussian.bias), dtype=torch.float64, device=recognizer.device)
    sums = torch.zeros((), dtype=torch.float64, device=recognizer.device)
    for start in range(0, len(x), _ROWS):
        rows = torch.tensor(x[start : start + _ROWS]).to(gaussian.weight)
        likely = probabilities_of(recognizer.scores(rows), recognizer.temperature).double()
        likely = likely * ~recognizer.seen_mask
        z = gaussian.coordinates(part[0](recognizer.preprocessing(rows))).double()
        counts += likely.sum(0)
        sums = sums + likely.T @ z
    return counts, sums


def _log_odds(recognizer: Recognizer, x: np.ndarray) -> Tensor:
    """Log-odds (N,) of an unseen class, without the calibration constant, in float64."""
    seen = recognizer.seen_mask.cpu()
    found: list[Tensor] = []
    for start in range(0, len(x), _ROWS):
        scores = torch.tensor(recognizer.scores(x[start : start + _ROWS])).double()
        scores = (scores + recognizer.calibration * seen) / recognizer.temperature
        found.append(scores[:, ~seen].logsumexp(1) - scores[:, seen].logsumexp(1))
    return torch.cat(found)


def _unseen_share(recognizer: Recognizer, x: np.ndarray) -> float:
    """Mean probability of all unseen classes together."""
    shift = recognizer.calibration / recognizer.temperature
    return float((_log_odds(recognizer, x) + shift).sigmoid().mean())


def _constant(recognizer: Recognizer, x: np.ndarray, share: float) -> float:
    """The calibration constant with that mean probability of unseen classes, by bisection."""
    odds = _log_odds(recognizer, x)
    if not 0 < share < 1 or not bool(odds.isfinite().all()):  # as where no class is seen
        return recognizer.calibration
    high = float(odds.abs().max()) + 800  # where the sigmoid is 0 or 1
    low = -high
    while (middle := (low + high) / 2) not in (low, high):
        less = float((odds + middle).sigmoid().mean()) < share
        low, high = (middle, high) if less else (low, middle)
    return low * recognizer.temperature
