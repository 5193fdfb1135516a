"""Stage 2: softmax regression on refined features, real and synthetic. Never sees a descriptor."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from mlis.config import Classification
from mlis.errors import DivergenceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Scores `features @ weight.T + bias`.

    Attributes:
        weight: (C, Dh).
        bias: (C,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Scores (logits) of (B, Dh) features: (B, C)."""
        return torch.addmm(self.bias, features, self.weight.T)


def class_weights(labels: Tensor, num_classes: int, balance: str) -> Tensor:
    """Weight of each sample, float64, summing to 1: equal, or equal sums per class present."""
    counts = torch.bincount(labels, minlength=num_classes).double()
    weights = torch.ones_like(counts) if balance == "samples" else 1.0 / counts
    weights = weights[labels]
    return weights / weights.sum()


def fit_classifier(
    features: Tensor, labels: Tensor, num_classes: int, settings: Classification
) -> LinearClassifier:
    """Minimise cross-entropy + weight_decay/2 · ‖W‖² with L-BFGS, to convergence.

    The refined features' length differs by orders of magnitude between runs (0.3 to 20 measured),
    so they are centred and rescaled to mean length 1 by the statistics of these training features
    first; shift and scale are folded into the returned weights. The problem is convex: the result
    depends on no seed and no learning rate.

    Args:
        features: (n, Dh), overwritten with the standardised features.
        labels: (n,) int64.
        num_classes: C; a class without samples gets the smallest bias and is never predicted.
        settings: penalty, balance, tolerance.

    Raises:
        DivergenceError: the features are not finite.
    """
    if not bool(torch.isfinite(features).all()):
        raise DivergenceError("classification: refined features hold NaN or infinity")
    centre = features.mean(0)
    features -= centre
    length = features.norm(dim=1).mean().clamp(min=1e-12)
    features /= length
    sample_weights = class_weights(labels, num_classes, settings.balance).to(features)[:, None]
    weight = features.new_zeros(num_classes, features.shape[1])
    bias = features.new_zeros(num_classes)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=settings.max_iterations,
        max_eval=2 * settings.max_iterations,
        tolerance_grad=settings.tolerance,
        tolerance_change=0,  # the gradient alone decides: a flat stretch is not the minimum
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def objective() -> Tensor:
        logits = torch.addmm(bias, features, weight.T)
        log_p = torch.log_softmax(logits, dim=1)
        # Summed in float64: the line search compares losses that differ in the eighth digit.
        loss = -(log_p.gather(1, labels[:, None]) * sample_weights).sum(dtype=torch.float64)
        residual = log_p.exp_()
        residual.scatter_add_(1, labels[:, None], torch.full_like(sample_weights, -1.0))
        residual *= sample_weights
        weight.grad = torch.addmm(settings.weight_decay * weight, residual.T, features)
        bias.grad = residual.sum(0)
        return loss + 0.5 * settings.weight_decay * weight.square().sum(dtype=torch.float64)

    optimiser.step(objective)
    state = optimiser.state[weight]
    logger.info("classifier: %d iterations, %d passes", state["n_iter"], state["func_evals"])
    most = settings.max_iterations
    if state["n_iter"] >= most or state["func_evals"] >= 2 * most:
        logger.warning(
            "classifier: stopped after %d iterations before the gradient was below %g; raise "
            "classification.max_iterations or weight_decay",
            state["n_iter"],
            settings.tolerance,
        )
    present = torch.bincount(labels, minlength=num_classes) > 0
    folded = weight / length
    bias = torch.where(present, bias - folded @ centre, torch.finfo(bias.dtype).min / 4)
    return LinearClassifier(folded, bias)
