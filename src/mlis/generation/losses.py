"""Conditional WGAN-GP (Gulrajani et al., 2017; Xian et al., 2018), eq. (2), in closed form.

D has one hidden layer, so everything that autograd would find by differentiating twice can be
written down. With `W` the feature weights (H, Dx), `w` the output weights (H,), `c_y` the class's
share, the pre-activation is `p(x) = W x + c_y`, the score is `D(x) = w · φ(p(x))`, and with
`s(x) = φ'(p(x)) ∈ {0.2, 1}`

    D(x) = w · (s(x) ⊙ p(x))          (LeakyReLU is homogeneous)
    ∇x D(x) = Wᵀ (w ⊙ s(x))           (no double backward: s is piecewise constant)
    p(αx + (1−α)x̃) = α p(x) + (1−α) p(x̃)     (p is affine: no third forward pass)

Every gradient of the loss follows from one product over the three kinds of rows,
`N = Sᵀ R` with slopes `S = [s(x); s(x̃); s(x̂)]` and rows `R = [−x/B; x̃/B; r]`, where r is the
gradient of the penalty with respect to ∇x̂ D; docs/method.md has the derivation.
"""

import torch
from torch import Tensor

from mlis.compute import sum_by_class
from mlis.generation.networks import Critic, slope_of


@torch.no_grad()
def critic_backward(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    descriptors: Tensor,
    alpha: Tensor,
    penalty_weight: float,
) -> dict[str, Tensor]:
    """Put the gradients of eq. (2) into the critic's parameters and return its two parts.

    Args:
        critic: D.
        real, fake: (B, Dx) features x and x̃ of the same classes.
        labels: (B,) int64 rows of `descriptors`.
        descriptors: (C, Da).
        alpha: (B, 1) uniform numbers that place x̂ = αx + (1−α)x̃.
        penalty_weight: λ.

    Returns:
        0-d tensors (no host synchronisation): `wasserstein`, E[D(x̃, a)] − E[D(x, a)], and
        `penalty`, λ E[(‖∇D(x̂, a)‖₂ − 1)²].

    Equal to autograd with `create_graph=True`, losses and all gradients.
    """
    mm, master = critic.arithmetic.mm, critic.arithmetic.master
    W = critic.from_features.to(critic.arithmetic.product)
    w = critic.to_score
    share = critic.share(descriptors)
    size = len(real)

    rows = torch.cat((real, fake))
    pre = mm(rows, W.T).to(master).view(2, size, -1) + share[labels]
    slopes = slope_of(torch.cat((pre[0], pre[1], torch.lerp(pre[1], pre[0], alpha))))

    gradient = mm(slopes[2 * size :] * w, W).to(master)  # ∇x̂ D, (B, Dx)
    norm = gradient.norm(dim=1, keepdim=True)
    excess = norm - 1
    toward = (2 * penalty_weight / size) * excess / norm.clamp(min=1e-12) * gradient

    N = mm(slopes.T, torch.cat((real / -size, fake / size, toward))).to(master)
    signed = (slopes[size : 2 * size] - slopes[:size]) / size  # of fake minus real, (B, H)
    by_class = sum_by_class(signed, labels, len(share))

    score_gradient = (critic.from_features * N).sum(1) + (by_class * share).sum(0)
    share_gradient = by_class * w
    critic.from_features.grad = N * w[:, None]
    critic.to_score.grad = score_gradient
    critic.from_descriptor.grad = share_gradient.T @ descriptors
    critic.hidden_bias.grad = share_gradient.sum(0)

    # D is linear in w, and the penalty's share of w·∂/∂w is Σ_b toward_b · ∇D(x̂_b).
    return {
        "wasserstein": w @ score_gradient - (toward * gradient).sum(),
        "penalty": penalty_weight * excess.square().mean(),
    }


def generator_loss(critic: Critic, fake: Tensor, share: Tensor, labels: Tensor) -> Tensor:
    """Return −E[D(x̃, a)], the generator's part of eq. (2), differentiable in `fake`.

    Args:
        critic: D; its parameters should not require gradients here.
        fake: (B, Dx) features from G.
        share: (C, hidden) of `critic.share(descriptors)`.
        labels: (B,) int64.
    """
    return -critic(fake, share, labels).mean()
