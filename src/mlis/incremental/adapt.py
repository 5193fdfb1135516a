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

from mlis.compute.memory import enough_memory
from mlis.compute.precision import own_modes
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError
from mlis.model.heads import EnsembleHead, GaussianHead, Head
from mlis.model.history import noted
from mlis.model.recognizer import ADAPTED, Recognizer, replace

ROUNDS = 10
"""Of expectation maximisation: on validation classes 3 to 10 gave the same accuracy."""
_ROWS = 8192  # processed at a time


@enough_memory("adapting to unlabelled images", "Give fewer of them")
@own_modes()
def adapt(recognizer: Recognizer, unlabelled: Any, *, note: str = "") -> Recognizer:
    """A transductive recognizer, whose unseen classes are where unlabelled images suggest.

    Results of the recognizer, and its trade-off on validation classes, are not those of the adapted
    one, and are not kept in it. Its temperature stays.

    Args:
        recognizer: with a Gaussian classifier, alone or in an ensemble; is not modified.
        unlabelled: (N, Dx) features of images of its classes, seen and unseen, as it takes them.
        note: kept in the history.

    Raises:
        DataError: no images, features of another length or not finite, no Gaussian classifier, no
            unseen class, or the recognizer is adapted already.
        OutOfMemoryError: memory does not suffice.
    """
    x = as_float32(unlabelled, "unlabelled features")
    gaussian = _gaussian(recognizer)
    if x.ndim != 2 or not len(x):
        raise DataError(
            f"unlabelled features: expected shape (N, {recognizer.num_features}) with N ≥ 1, got "
            f"{x.shape}. Give features of the model's backbone."
        )
    head, constant = _maximised(recognizer, gaussian, x)
    told = f"{len(x):,} unlabelled images: transductive"
    metadata = noted(recognizer, ADAPTED, [], to=told, note=note)
    record = {k: v for k, v in metadata.record.items() if k not in ("test", "validation")}
    metadata = dataclasses.replace(metadata, record=record, tradeoff=None)
    head = _with(recognizer.head, head)
    return replace(recognizer, head=head, calibration=constant, metadata=metadata)


def _maximised(
    recognizer: Recognizer, gaussian: GaussianHead, x: np.ndarray
) -> tuple[GaussianHead, float]:
    """The Gaussian head and the calibration constant, after `ROUNDS`."""
    seen, temperature = recognizer.seen_mask, recognizer.temperature
    constant, head = recognizer.calibration, gaussian
    others, z, weight = _parts(recognizer, gaussian, x)
    scores = others + weight * head.of_coordinates(z).double()
    share = float((_log_odds(scores / temperature, seen) + constant / temperature).sigmoid().mean())
    for _ in range(ROUNDS):
        likely = torch.softmax((scores - constant * seen) / temperature, dim=1) * ~seen
        head = gaussian.with_sums(likely.sum(0), likely.T @ z.double())
        scores = others + weight * head.of_coordinates(z).double()
        if 0 < share < 1:
            constant = temperature * _shift(_log_odds(scores / temperature, seen), share)
    return head, constant


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


def _parts(
    recognizer: Recognizer, gaussian: GaussianHead, x: np.ndarray
) -> tuple[Tensor, Tensor, float]:
    """Scores (N, C) of other members, float64, z (N, k), and the weight of the Gaussian's scores.

    The calibration constant is in none of them.
    """
    part, head, weight = recognizer.gaussian_part(), recognizer.head, 1.0
    assert part is not None
    if isinstance(head, EnsembleHead):
        weight = next(one.weight for one in head.members if one.head is gaussian)
    others, z = list[Tensor](), list[Tensor]()
    for start in range(0, len(x), _ROWS):
        rows = torch.tensor(x[start : start + _ROWS]).to(gaussian.weight)
        scores = recognizer.scores(rows).double() + recognizer.calibration * recognizer.seen_mask
        z.append(gaussian.coordinates(part[0](recognizer.preprocessing(rows))))
        others.append(scores - weight * gaussian.of_coordinates(z[-1]).double())
    return torch.cat(others), torch.cat(z), weight


def _log_odds(scores: Tensor, seen: Tensor) -> Tensor:
    """Log-odds (N,) of an unseen class, of (N, C) scores."""
    return scores[:, ~seen].logsumexp(1) - scores[:, seen].logsumexp(1)


def _shift(odds: Tensor, share: float) -> float:
    """What is to be added to log-odds (N,), so that `share` is the mean probability; bisection."""
    high = float(odds.abs().max()) + 800  # where the sigmoid is 0 or 1
    low = -high
    while (middle := (low + high) / 2) not in (low, high):
        less = float((odds + middle).sigmoid().mean()) < share
        low, high = (middle, high) if less else (low, middle)
    return low
