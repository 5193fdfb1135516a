"""Metric losses on a matrix of cosine similarities, and implicit semantics.

Each loss here maps a similarity matrix (B, B) and labels (B,) to a scalar. The circle,
contrastive and multi-similarity losses equal those of pytorch-metric-learning (the authors'
library) with cosine similarity; `circle_eq1` is the paper's eq. (1) as printed.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, normalize, relu, softplus

from mlis.config import Refinement
from mlis.errors import SettingsError

EmbeddingLoss = Callable[[Tensor, Tensor], Tensor]
"""A user's loss: embeddings (B, Dh + Da), not normalised, and labels (B,) to a scalar."""

EXACT = 40  # softplus(x) = x in float64 above this; PyTorch's default of 20 is off by 2e-9


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Boolean (B, B) masks of positive pairs (same class, not itself) and negative pairs."""
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return positive, ~same


def _log_sum_exp(values: Tensor, keep: Tensor) -> Tensor:
    """log Σ exp over the kept entries of each row; very negative for a row without any."""
    lowest = torch.finfo(values.dtype).min
    top = values.detach().masked_fill(~keep, lowest).amax(-1, keepdim=True)
    # exp is over ten times slower where it underflows, and e^-80 is negligible beside e^0 in every
    # dtype. Clamped values have no gradient; it would be negligible too.
    powers = (values - top).clamp(min=-80.0, max=0.0).exp() * keep
    return top[..., 0] + powers.sum(-1).clamp(min=torch.finfo(values.dtype).tiny).log()


def _mean_of_positive(losses: Tensor) -> Tensor:
    """Mean over the entries above zero; zero if there are none."""
    return losses.sum() / (losses > 0).sum().clamp(min=1)


def circle(similarity: Tensor, labels: Tensor, margin: float, gamma: float) -> Tensor:
    """Circle loss with self-paced weights, one term per anchor (Sun et al., 2020, eq. 6).

    `softplus(LSE_n[γ α_n (s_n − m)] + LSE_p[−γ α_p (s_p − (1 − m))])` with weights
    `α_n = [s_n + m]₊`, `α_p = [1 + m − s_p]₊` held constant; mean over anchors that have both
    kinds of pairs and a positive loss.
    """
    positive, negative = pair_masks(labels)
    fixed = similarity.detach()
    toward = -gamma * relu(1 + margin - fixed) * (similarity - (1 - margin))
    apart = gamma * relu(fixed + margin) * (similarity - margin)
    losses = softplus(_log_sum_exp(toward, positive) + _log_sum_exp(apart, negative))
    return _mean_of_positive(losses * (positive.any(-1) & negative.any(-1)))


def circle_eq1(similarity: Tensor, labels: Tensor, margin: float, gamma: float) -> Tensor:
    """Eq. (1) of the paper as printed: one logarithm over all pairs of the batch, no weights.

    `log[1 + Σ_n exp(γ(s_n + m)) Σ_p exp(−γ s_p)]`, each unordered pair once. Zero if the batch
    has no positive or no negative pair.
    """
    positive, negative = (mask.triu(1).flatten() for mask in pair_masks(labels))
    flat = similarity.flatten()
    apart = _log_sum_exp(gamma * (flat + margin), negative)
    toward = _log_sum_exp(-gamma * flat, positive)
    loss = softplus(apart + toward, threshold=EXACT)
    return loss * (positive.any() & negative.any())


def contrastive(similarity: Tensor, labels: Tensor) -> Tensor:
    """Contrastive loss (Hadsell et al., 2006) on cosines: margins 1 (positive), 0 (negative).

    Mean of the non-zero `[1 − s_p]₊` plus mean of the non-zero `[s_n]₊`.
    """
    positive, negative = pair_masks(labels)
    toward = relu(1 - similarity) * positive
    apart = relu(similarity) * negative
    return _mean_of_positive(toward) + _mean_of_positive(apart)


def multi_similarity(
    similarity: Tensor, labels: Tensor, alpha: float = 2, beta: float = 50, base: float = 0.5
) -> Tensor:
    """Multi-similarity loss (Wang et al., 2019, eq. 9), without mining; mean over anchors.

    `1/α log[1 + Σ_p exp(−α(s_p − λ))] + 1/β log[1 + Σ_n exp(β(s_n − λ))]`.
    """
    positive, negative = pair_masks(labels)
    toward = softplus(_log_sum_exp(-alpha * (similarity - base), positive), threshold=EXACT)
    apart = softplus(_log_sum_exp(beta * (similarity - base), negative), threshold=EXACT)
    return (toward / alpha + apart / beta).mean()


def concatenate(h: Tensor, descriptors: Tensor | None, settings: Refinement) -> Tensor:
    """Build the embeddings that the metric loss compares: `h`, or `[h ; scale · a_y]`.

    Args:
        h: (B, Dh) refined features.
        descriptors: (B, Da) of each sample's own class; None without IS.
    """
    if settings.visual_norm == "l2":
        h = normalize(h, dim=1)
    if descriptors is None:
        return h
    return torch.cat((h, settings.semantic_scale * descriptors), dim=1)


class _Gram(torch.autograd.Function):
    """`h hᵀ` in h's own dtype, since a loss exponentiates it; its gradient is one product.

    Autograd would take two, `g h` and `gᵀ h`.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, product: torch.dtype) -> Tensor:
        ctx.save_for_backward(h)
        ctx.product = product
        return h @ h.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        (h,) = ctx.saved_tensors
        both = (gradient + gradient.T).to(ctx.product)
        return (both @ h.to(ctx.product)).to(h.dtype), None


def similarities(
    h: Tensor,
    labels: Tensor,
    class_gram: Tensor | None,
    settings: Refinement,
    product: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosine similarities of `[h ; scale · a_y]` without building the concatenation.

    `[h_i ; a_i]·[h_j ; a_j] = h_i·h_j + a_i·a_j`, and the second term depends on the two classes
    alone: it is looked up by `labels` in the (C, C) `class_gram` of the scaled descriptors (None
    without IS). `product` is the dtype of the factors in the gradient's products.

    Returns:
        The (B, B) similarities, and the semantic fraction of the squared length (mean, 0-d).
    """
    if settings.visual_norm == "l2":
        h = normalize(h, dim=1)
    dots = cast(Tensor, _Gram.apply(h, product or h.dtype))
    semantic_share = dots.new_zeros(())
    if class_gram is not None:
        own = class_gram.diagonal()[labels]
        semantic_share = (own / (own + dots.diagonal()).clamp(min=1e-12)).mean().detach()
        dots = dots + class_gram.index_select(0, labels).index_select(1, labels)
    length = dots.diagonal().clamp(min=1e-12).sqrt()
    return dots / (length[:, None] * length[None, :]), semantic_share


SimilarityLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps a similarity matrix (B, B) and labels (B,) to a scalar."""

LOSSES: dict[str, Callable[[Refinement], SimilarityLoss]] = {
    "circle": lambda s: functools.partial(circle, margin=s.margin, gamma=s.gamma),
    "circle_eq1": lambda s: functools.partial(circle_eq1, margin=s.margin, gamma=s.gamma),
    "contrastive": lambda _: contrastive,
    "multi_similarity": lambda _: multi_similarity,
}
"""Built-in losses by name, each from the settings. A new one is a function, a line here, a test."""


def similarity_loss(settings: Refinement) -> SimilarityLoss | None:
    """Return the built-in loss that the settings name, or None for a user's own."""
    build = LOSSES.get(settings.loss)
    return None if build is None else build(settings)


def load_loss(name: str) -> EmbeddingLoss:
    """Import a user's loss given as `module:function` (or `module:instance`).

    Raises:
        SettingsError: the name is neither a built-in loss nor something that can be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        if not attribute:  # before anything is imported
            raise ImportError("no module:function")
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"refinement.loss={name!r}: expected {', '.join(LOSSES)} or module:function, and "
            f"importing it failed: {error}"
        ) from None
    if not callable(found):
        raise SettingsError(f"refinement.loss={name!r} is not callable")
    return cast(EmbeddingLoss, found)


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (eq. 3) in which every class present in the batch weighs the same.

    Args:
        logits: (B, C).
        labels: (B,) int64.
    """
    ones = torch.ones_like(labels, dtype=logits.dtype)
    counts = ones.new_zeros(logits.shape[1]).scatter_add_(0, labels, ones)
    weights = 1.0 / counts[labels]
    losses = cross_entropy(logits, labels, reduction="none")
    return (losses * weights).sum() / weights.sum()
