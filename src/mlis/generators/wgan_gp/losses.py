"""The losses of the conditional WGAN-GP, eq. (2) (Gulrajani et al., 2017; Xian et al., 2018).

D has one hidden layer, so the gradient penalty needs no differentiation of a gradient. With `W` the
feature weights (H, Dx), `w` the output weights (H,) and `c_y` the class term, the pre-activation is
`p(x) = W x + c_y`, the score is `D(x) = w · φ(p(x))`, and with `s(x) = φ'(p(x)) ∈ {0.2, 1}`

    D(x) = w · (s(x) ⊙ p(x))          (LeakyReLU is homogeneous)
    ∇x D(x) = Wᵀ (w ⊙ s(x))           (no double backward: s is piecewise constant)
    p(αx + (1−α)x̃) = α p(x) + (1−α) p(x̃)     (p is affine: no third forward pass)

All gradients of the loss follow from one product over three kinds of rows, `N = Sᵀ R` with slopes
`S = [s(x); s(x̃); s(x̂)]` and rows `R = [−x/B; x̃/B; r]`, where r is the gradient of the penalty
with respect to ∇x̂ D, and from `Q` (C, H), the sum of `(s(x̃) − s(x))/B` over each class's samples;
docs/method.md has the derivation.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import leaky_relu

from mlis.compute.buffers import Buffers
from mlis.compute.class_sums import sum_by_class
from mlis.generators.wgan_gp.networks import SLOPE, Critic


def critic_loss(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    descriptors: Tensor,
    alpha: Tensor,
    penalty_weight: float | Tensor,
    buffers: Buffers,
) -> tuple[Tensor, Tensor]:
    """Eq. (2): `E[D(x̃, a)] − E[D(x, a)]` and the gradient penalty `λ E[(‖∇x̂ D(x̂, a)‖₂ − 1)²]`.

    Equal to autograd with `create_graph=True`, values and gradients, but differentiable with
    respect to the critic's parameters only.

    Args:
        critic: D.
        real, fake: (B, Dx) features x and x̃ of the same classes.
        labels: (B,) int64 rows of `descriptors`.
        descriptors: (C, Da).
        alpha: (B, 1) uniform numbers that place x̂ = αx + (1−α)x̃.
        penalty_weight: λ, a number or 0-d.
        buffers: memory to reuse; in use until the losses' backward pass.

    Returns:
        The two terms, 0-d, without host synchronisation.
    """
    terms = _CriticLoss.apply(
        *(critic.from_features, critic.from_descriptor, critic.hidden_bias, critic.to_score),
        *(critic, (real, fake), labels, descriptors, alpha, penalty_weight, buffers),
    )
    return cast(tuple[Tensor, Tensor], terms)


def generator_loss(
    critic: Critic, fake: Tensor, labels: Tensor, descriptors: Tensor, buffers: Buffers
) -> Tensor:
    """Eq. (2), the generator's part: `−E[D(x̃, a)]`, 0-d, differentiable in x̃ = G(z, a) only.

    Args: see :func:`critic_loss`.
    """
    return cast(Tensor, _GeneratorLoss.apply(fake, critic, labels, descriptors, buffers))


class _CriticLoss(torch.autograd.Function):
    """Both terms of eq. (2) as a function of D's parameters W, W_a, b and w; see the module."""

    @staticmethod
    def forward(
        ctx: Any,
        W: Tensor,
        W_a: Tensor,
        b: Tensor,
        w: Tensor,
        critic: Critic,
        pair: tuple[Tensor, Tensor],
        labels: Tensor,
        descriptors: Tensor,
        alpha: Tensor,
        penalty_weight: float | Tensor,
        buffers: Buffers,
    ) -> tuple[Tensor, Tensor]:
        precision, B = critic.precision, len(labels)
        W_cast = buffers.cast("from_features", W, precision.product)
        c = critic.class_term(descriptors)
        rows, p = _pre_activations(critic, pair, c.index_select(0, labels), alpha, W_cast, buffers)
        s = _slopes(p, buffers("slopes", tuple(p.shape), precision.product, p.device))

        score = leaky_relu(p[:2], SLOPE, inplace=True) @ w  # D(x), D(x̃)
        wasserstein = (score[1] - score[0]).mean()
        gradient = precision.mm(s[2] * w.to(precision.product), W_cast)  # ∇x̂ D, (B, Dx)
        norm = gradient.norm(dim=1, keepdim=True)
        penalty = penalty_weight * (norm - 1).square().mean()

        rows[0] *= -1 / B
        rows[1] *= 1 / B
        rows[2] = (2 * penalty_weight / B) * (norm - 1) / norm.clamp(min=1e-12) * gradient
        ctx.save_for_backward(W, w, rows, s, c, labels, descriptors)
        ctx.precision, ctx.buffers = precision, buffers
        return wasserstein, penalty

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_wasserstein: Tensor, of_penalty: Tensor):  # pyright: ignore
        W, w, rows, s, c, labels, descriptors = ctx.saved_tensors
        precision, buffers = ctx.precision, ctx.buffers
        rows[:2] *= of_wasserstein
        rows[2] *= of_penalty
        N = buffers("N", tuple(W.shape), precision.product, W.device)
        torch.mm(s.flatten(0, 1).T, rows.flatten(0, 1), out=N)
        signed = (s[1] - s[0]).to(precision.master) / len(labels)
        Q = of_wasserstein * sum_by_class(signed, labels, len(c))  # (C, H)

        of_W = buffers.gradient("critic.from_features", W).copy_(N)
        W_N = torch.mul(W, of_W, out=buffers("W ⊙ N", tuple(W.shape), W.dtype, W.device))
        of_w = W_N.sum(1) + (Q * c).sum(0)
        of_W *= w[:, None]
        of_c = Q * w
        return of_W, precision.mm(of_c.T, descriptors), of_c.sum(0), of_w, *(None,) * 7


def _pre_activations(
    critic: Critic,
    pair: tuple[Tensor, Tensor],
    own_class_term: Tensor,
    alpha: Tensor,
    W_cast: Tensor,
    buffers: Buffers,
) -> tuple[Tensor, Tensor]:
    """Rows (3, B, Dx) that hold x and x̃, and p(x), p(x̃) and p(x̂), (3, B, H)."""
    (B, width), hidden = pair[0].shape, len(W_cast)
    rows = buffers("rows", (3, B, width), W_cast.dtype, W_cast.device)
    rows[0], rows[1] = pair
    p = buffers("p", (3, B, hidden), critic.precision.master, W_cast.device)
    p[:2] = (rows[:2].flatten(0, 1) @ W_cast.T).unflatten(0, (2, B))
    p[:2] += own_class_term
    torch.lerp(p[1], p[0], alpha, out=p[2])
    return rows, p


class _GeneratorLoss(torch.autograd.Function):
    """`−E[D(x̃, a)]` and its gradient `−Wᵀ(w ⊙ s(x̃))/B`; D's parameters are constants here."""

    @staticmethod
    def forward(
        ctx: Any,
        fake: Tensor,
        critic: Critic,
        labels: Tensor,
        descriptors: Tensor,
        buffers: Buffers,
    ) -> Tensor:
        mm, product = critic.precision.mm, critic.precision.product
        W = buffers.cast("from_features", critic.from_features, product)
        p = mm(fake, W.T).add_(critic.class_term(descriptors).index_select(0, labels))
        through_w = _slopes(p, torch.empty_like(p)).mul_(critic.to_score)
        ctx.save_for_backward(mm(through_w, W) / -len(fake))
        return -(through_w * p).sum(1).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor):  # pyright: ignore
        return of_loss * ctx.saved_tensors[0], None, None, None, None


def _slopes(p: Tensor, out: Tensor) -> Tensor:
    """Derivative of LeakyReLU, 1 where p > 0 and 0.2 elsewhere, into `out` of the same shape."""
    low = out.new_full((), SLOPE)
    return torch.add(low, torch.gt(p, 0, out=out), alpha=1 - SLOPE, out=out)
