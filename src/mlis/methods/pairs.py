"""Scores of pairs: how well each sample fits each class, by a network on their concatenation."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import leaky_relu

from mlis.compute.precision import Precision
from mlis.compute.random import normal
from mlis.training.layers import Linear

_ENTRIES = {
    "cpu": 1 << 19,
    "cuda": 1 << 26,
}  # hidden units of pairs at a time: a CPU's cache, or few calls


class PairScores(torch.autograd.Function):
    """`w · LeakyReLU(p_b + c_s)` of each sample and class, some samples at a time; slope 0 is ReLU.

    The (B, S, K) hidden units of all pairs are gigabytes. LeakyReLU(u) = σ u with σ ∈ {slope, 1},
    so the gradients need but `A_b = Σ_s g_bs σ_bs` and `Q_s = Σ_b g_bs σ_bs`, both (K,): they are
    w ∘ A, w ∘ Q, and for w itself `Σ_b p_b ∘ A_b + Σ_s c_s ∘ Q_s`.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, c: Tensor, w: Tensor, slope: float) -> Tensor:
        """Scores (B, S) of p (B, K), c (S, K), w (K,)."""
        ctx.save_for_backward(p, c, w)
        ctx.slope = slope
        return torch.cat([leaky_relu(part[:, None] + c, slope) @ w for part in _parts(p, c)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        """Gradients of p, c and w."""
        p, c, w = ctx.saved_tensors
        A, Q = [], torch.zeros_like(c)
        for part, g in zip(_parts(p, c), gradient.split(_rows(c)), strict=True):
            # sign and clamp give σ, five times as fast as `torch.where` on a CPU
            weighted = (part[:, None] + c).sign_().clamp_(min=ctx.slope).mul_(g[..., None])
            A.append(weighted.sum(1))
            Q += weighted.sum(0)
        by_sample = torch.cat(A)
        return w * by_sample, w * Q, (p * by_sample).sum(0) + (c * Q).sum(0), None


def _rows(c: Tensor) -> int:
    return max(1, _ENTRIES.get(c.device.type, _ENTRIES["cuda"]) // c.numel())


def _parts(p: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    return p.split(_rows(c))


class PairScorer(nn.Module):
    """F(h, a) of one hidden layer: how well an embedding fits a descriptor.

    Its first layer acts on a concatenation, so the class term is computed once per class. There is
    no last bias: in a softmax over classes it cancels.

    Args:
        embedding, attributes, hidden: sizes of h, of a, and of the hidden layer.
        std: standard deviation of the initial weights.
        precision: device and dtypes.
        rng: CPU generator that draws the initial weights.
        slope: of the hidden units' negative values; 0 is ReLU.
    """

    def __init__(
        self,
        embedding: int,
        attributes: int,
        hidden: int,
        std: float,
        precision: Precision,
        rng: torch.Generator,
        slope: float = 0.2,
    ):
        super().__init__()
        self.slope: float = slope
        self.visual: Linear = Linear(embedding, hidden, std, precision, rng)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(precision.tensor(normal(rng, *shape) * std))

        self.semantic: nn.Parameter = draw(attributes, hidden)
        self.output: nn.Parameter = draw(hidden)

    def forward(self, h: Tensor, descriptors: Tensor) -> Tensor:
        """Scores (B, S) of (B, Dh) embeddings with (S, Da) descriptors."""
        classes = self.class_terms(descriptors)
        return cast(Tensor, PairScores.apply(self.visual(h), classes, self.output, self.slope))

    def class_terms(self, descriptors: Tensor) -> Tensor:
        """What (S, Da) descriptors add to the hidden layer, (S, K)."""
        return self.visual.precision.mm(descriptors, self.semantic)
