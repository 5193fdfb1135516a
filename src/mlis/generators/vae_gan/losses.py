"""The losses of the VAE-GAN family; each a mean over the batch of sums over dimensions."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mlis.data.out_of_core.streaming import CHUNK_ROWS
from mlis.model.preprocessing import TrainingTensors

Range = Literal["unit", "positive", "signed"]
"""Where features lie: in [0, 1], above 0, or on both sides of it."""

_ROUNDING = 1e-6


def feature_range(data: TrainingTensors) -> Range:
    """Where the scaled training features lie; the papers scale them to [0, 1]."""
    if data.signed:
        return "signed"
    most = max(float(part.max()) for part in data.x.split(CHUNK_ROWS))
    return "unit" if most <= 1 + _ROUNDING else "positive"


def activate(output: Tensor, kind: Range) -> Tensor:
    """Features from the last linear layer: sigmoid (the papers'), ReLU, or the output itself."""
    if kind == "unit":
        return torch.sigmoid(output)
    return torch.relu(output) if kind == "positive" else output


def reconstruction(output: Tensor, x: Tensor, kind: Range) -> Tensor:
    """`−log p(x | z)`: Σ_j BCE(x̃_j, x_j) of features in [0, 1] (the papers'), else ½‖x̃ − x‖².

    Args:
        output: (B, Dx) before `activate`; the programs add 1e-12 inside the logarithms instead.
        x: (B, Dx).
        kind: where features lie.
    """
    if kind == "unit":
        return binary_cross_entropy_with_logits(output, x, reduction="sum") / len(x)
    return 0.5 * (activate(output, kind) - x).square().sum() / len(x)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """`KL(N(μ, σ²) ‖ N(0, I)) = −½ Σ (1 + log σ² − μ² − σ²)` of (B, Dz) each."""
    terms = 1 + log_variance - mean.square() - log_variance.exp()
    return -0.5 * terms.sum() / len(mean)


def weighted_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """`Σ_j w_j |d_j|` with `d = predicted − target` and `w = d² / ‖d‖₂`: large errors count more.

    The weights are not constants: the gradient flows through them, as in the programs of
    TF-VAEGAN and FREE. Both (B, Da).
    """
    d = predicted - target
    # clamped: at d = 0 the norm has no gradient
    norm = d.square().sum(1, keepdim=True).clamp(min=1e-24).sqrt()
    return (d.square() * d.abs() / norm).sum() / len(d)
