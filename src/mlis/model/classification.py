"""Stage 2: softmax regression on refined features, real and synthetic. Never sees a descriptor."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mlis.config import Classification
from mlis.data.out_of_core.streaming import CHUNK_ROWS, Rows
from mlis.errors import DivergenceError
from mlis.model.heads import LinearHead

logger: logging.Logger = logging.getLogger(__name__)

_LEAST_DESCENT = 0.1  # the largest tolerance, as a share of the largest gradient entry at zero


def class_weights(
    labels: Tensor, num_classes: int, balance: str, sample_weight: Tensor | None = None
) -> Tensor:
    """Weight of each sample, float64, summing to 1: equal, or equal sums per class present.

    With `sample_weight` (n,) a sample counts as that many samples.
    """
    counts = torch.bincount(labels, sample_weight, minlength=num_classes).double()
    weights = torch.ones_like(counts) if balance == "samples" else 1.0 / counts
    weights = weights[labels] if sample_weight is None else weights[labels] * sample_weight
    return weights / weights.sum()


def fit_classifier(
    features: Tensor | Rows,
    labels: Tensor,
    num_classes: int,
    settings: Classification,
    *,
    sample_weight: Tensor | None = None,
    start: LinearHead | None = None,
) -> LinearHead:
    """Minimise cross-entropy + weight_decay/2 · ‖W‖² with L-BFGS, to convergence.

    The refined features' length differs by orders of magnitude between runs (0.3 to 20 measured),
    so they are centred and rescaled to mean length 1 by the statistics of these training features
    first; shift and scale are folded into the returned weights. The problem is convex: the result
    depends on no seed and no learning rate.

    Args:
        features: (n, Dh); a tensor is overwritten with the standardised features, rows on disk
            are read once for each pass of L-BFGS, and give the same up to the order of sums.
        labels: (n,) int64.
        num_classes: C; a class without samples gets the smallest bias and is never predicted.
        settings: penalty, balance, tolerance.
        sample_weight: (n,) number of samples that each one counts as; 1 where absent.
        start: a head of the first C' ≤ C classes whose weights L-BFGS starts from, which saves
            passes; zero where absent.

    Raises:
        DivergenceError: the features are not finite.
    """
    if isinstance(features, Tensor):
        rows = _standardise(features)
    else:
        rows = _standardise_chunks(features, num_classes)
    weights = class_weights(labels, num_classes, settings.balance, sample_weight)
    weights = weights.to(rows.centre)[:, None]
    decay = settings.penalty(num_classes)
    objective = _Objective(rows, labels, weights, num_classes, decay)
    present = torch.bincount(labels, minlength=num_classes) > 0
    _minimise(objective, settings, None if start is None else _begun(start, rows, present))
    folded = objective.weight / rows.length
    bias = objective.bias - folded @ rows.centre
    return LinearHead(folded, torch.where(present, bias, torch.finfo(bias.dtype).min / 4))


@dataclass(frozen=True, eq=False)
class _Standardised:
    """Features less `centre` (Dh,), by `length`: `chunks()` goes through them in their order."""

    centre: Tensor
    length: Tensor
    chunks: Callable[[], Iterable[Tensor]]


def _standardise(features: Tensor) -> _Standardised:
    """Standardise in place: one chunk, made once."""
    _check_finite(features)
    centre = features.mean(0)
    features -= centre
    length = features.norm(dim=1).mean().clamp(min=1e-12)
    features /= length
    return _Standardised(centre, length, lambda: [features])


def _standardise_chunks(features: Rows, num_classes: int) -> _Standardised:
    """Take the statistics in two passes; standardise each chunk when it is read."""
    # Of (B, Dh) features and (B, C) scores, the larger has some millions of entries.
    size = max(256, min(CHUNK_ROWS, (1 << 24) // max(features.shape[1], num_classes)))
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for part in features.split(size):
        _check_finite(part)
        total += part.sum(0, dtype=torch.float64)
    centre = (total / features.shape[0]).to(features.dtype)
    lengths = torch.zeros((), dtype=torch.float64, device=features.device)
    for part in features.split(size):
        lengths += part.sub_(centre).norm(dim=1).sum(dtype=torch.float64)
    length = (lengths / features.shape[0]).to(features.dtype).clamp(min=1e-12)

    def chunks() -> Iterator[Tensor]:
        for part in features.split(size):
            yield part.sub_(centre).div_(length)

    return _Standardised(centre, length, chunks)


def _check_finite(features: Tensor) -> None:
    if not bool(torch.isfinite(features).all()):
        raise DivergenceError("classification: refined features hold NaN or infinity")


class _Objective:
    """The loss at `weight` (C, Dh) and `bias` (C,), which begin at zero; a call sets their grad."""

    def __init__(
        self,
        rows: _Standardised,
        labels: Tensor,
        sample_weights: Tensor,
        num_classes: int,
        weight_decay: float,
    ):
        self.weight = rows.centre.new_zeros(num_classes, len(rows.centre))
        self.bias = rows.centre.new_zeros(num_classes)
        self._rows, self._labels, self._sample_weights = rows, labels[:, None], sample_weights
        self._weight_decay = weight_decay

    @torch.no_grad()
    def __call__(self) -> Tensor:
        weight, bias = self.weight, self.bias
        # Summed in float64: the line search compares losses that differ in the eighth digit.
        loss = 0.5 * self._weight_decay * weight.square().sum(dtype=torch.float64)
        weight.grad, bias.grad = self._weight_decay * weight, torch.zeros_like(bias)
        start = 0
        for part in self._rows.chunks():
            chunk = slice(start, start + len(part))
            labels, sample_weights = self._labels[chunk], self._sample_weights[chunk]
            log_p = torch.log_softmax(torch.addmm(bias, part, weight.T), dim=1)
            loss -= (log_p.gather(1, labels) * sample_weights).sum(dtype=torch.float64)
            residual = log_p.exp_()
            residual.scatter_add_(1, labels, torch.full_like(sample_weights, -1.0))
            residual *= sample_weights
            weight.grad.addmm_(residual.T, part)
            bias.grad += residual.sum(0)
            start += len(part)
        return loss


def _begun(start: LinearHead, rows: _Standardised, present: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (C, Dh) and biases (C,) of the standardised features; zero for classes it lacks."""
    weight = rows.centre.new_zeros(len(present), len(rows.centre))
    bias = rows.centre.new_zeros(len(present))
    own = start.weight.to(rows.centre)
    weight[: len(own)] = own * rows.length
    bias[: len(own)] = start.bias.to(rows.centre) + own @ rows.centre
    return weight, bias.where(present, 0.0)


def _minimise(
    objective: _Objective, settings: Classification, start: tuple[Tensor, Tensor] | None = None
) -> None:
    """Move the objective's weights to its minimum with L-BFGS."""
    first: list[Tensor] = [objective()]
    assert objective.weight.grad is not None
    assert objective.bias.grad is not None
    steepest = max(float(objective.weight.grad.abs().max()), float(objective.bias.grad.abs().max()))
    # The gradient shrinks with the number of classes: with hundreds of them it begins below a
    # tolerance that means convergence for ten, and not one step would be taken.
    tolerance = min(settings.tolerance, _LEAST_DESCENT * steepest)
    if tolerance < settings.tolerance:
        logger.info("classifier: tolerance %g, as the gradient begins at %g", tolerance, steepest)
    if start is not None:  # the tolerance is that of a fit from zero
        objective.weight.copy_(start[0])
        objective.bias.copy_(start[1])
        first.clear()
    most = settings.max_iterations
    optimiser = torch.optim.LBFGS(
        [objective.weight, objective.bias],
        max_iter=most,
        max_eval=2 * most,
        tolerance_grad=tolerance,
        tolerance_change=0,  # the gradient alone decides: a flat stretch is not the minimum
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    optimiser.step(lambda: first.pop() if first else objective())
    state = optimiser.state[objective.weight]
    logger.info("classifier: %d iterations, %d passes", state["n_iter"], state["func_evals"])
    if state["n_iter"] >= most or state["func_evals"] >= 2 * most:
        logger.warning(
            "classifier: stopped after %d iterations before the gradient was below %g; raise "
            "classification.max_iterations or weight_decay",
            state["n_iter"],
            tolerance,
        )
