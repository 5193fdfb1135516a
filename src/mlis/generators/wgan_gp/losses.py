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
gradient of the penalty with respect to ∇x̂ D; docs/method.md has the derivation. The generator's
two layers are written down likewise. Large temporaries live in a `Scratch`: see there for why.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mlis.compute.precision import Scratch, put_gradient, sum_by_class
from mlis.generators.wgan_gp.networks import Critic, Generator, put_slopes

Feedback = Callable[[Tensor, Tensor], Tensor]
"""Maps synthetic features (B, Dx) and labels (B,) to a loss of the generator (joint schedule)."""


@torch.no_grad()
def critic_backward(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    descriptors: Tensor,
    alpha: Tensor,
    penalty_weight: float,
    scratch: Scratch | None = None,
) -> dict[str, Tensor]:
    """Put the gradients of eq. (2) into the critic's parameters and return its two parts.

    Args:
        critic: D.
        real, fake: (B, Dx) features x and x̃ of the same classes.
        labels: (B,) int64 rows of `descriptors`.
        descriptors: (C, Da).
        alpha: (B, 1) uniform numbers that place x̂ = αx + (1−α)x̃.
        penalty_weight: λ.
        scratch: memory to use again.

    Returns:
        0-d tensors (no host synchronisation): `wasserstein`, E[D(x̃, a)] − E[D(x, a)], and
        `penalty`, λ E[(‖∇D(x̂, a)‖₂ − 1)²].

    Equal to autograd with `create_graph=True`, losses and all gradients.
    """
    scratch = scratch or Scratch()
    arithmetic, shape, B = critic.arithmetic, critic.from_features.shape, len(real)
    master, product = arithmetic.master, arithmetic.product
    hidden, width = shape
    W = scratch.cast("W", critic.from_features, product)
    w = critic.to_score
    share = critic.share(descriptors, scratch)

    rows = scratch("rows", (3, B, width), W, product)
    rows[0], rows[1] = real, fake
    pre = scratch("pre", (3, B, hidden), W, master)
    both = pre[:2]
    both.copy_((rows[:2].flatten(0, 1) @ W.T).unflatten(0, (2, B)))
    both += share.index_select(0, labels)
    torch.lerp(pre[1], pre[0], alpha, out=pre[2])
    slopes = put_slopes(pre, scratch("slopes", (3, B, hidden), W, product))

    through_w = slopes[2] * w.to(product)
    gradient = (through_w @ W).to(master)  # ∇x̂ D, (B, Dx)
    norm = gradient.norm(dim=-1, keepdim=True)
    excess = norm - 1
    toward = (2 * penalty_weight / B) * excess / norm.clamp(min=1e-12) * gradient

    rows[0] *= -1 / B
    rows[1] *= 1 / B
    rows[2] = toward
    N = slopes.flatten(0, 1).T @ rows.flatten(0, 1)
    signed = (slopes[1] - slopes[0]).to(master) / B  # fake minus real
    by_class = sum_by_class(signed, labels, len(share))

    N = put_gradient(critic.from_features, N)
    products = torch.mul(critic.from_features, N, out=scratch("W*N", tuple(shape), W, master))
    score_gradient = products.sum(1) + (by_class * share).sum(0)
    N *= w[:, None]
    share_gradient = by_class * w
    put_gradient(critic.to_score, score_gradient)
    put_gradient(critic.from_descriptor, arithmetic.mm(share_gradient.T, descriptors))
    put_gradient(critic.hidden_bias, share_gradient.sum(0))

    # D is linear in w, and the penalty's share of w·∂/∂w is Σ_b toward_b · ∇D(x̂_b).
    return {
        "wasserstein": (w * score_gradient).sum() - (toward * gradient).sum(),
        "penalty": penalty_weight * excess.square().mean(),
    }


@torch.no_grad()
def generator_backward(
    generator: Generator,
    critic: Critic,
    z: Tensor,
    labels: Tensor,
    descriptors: Tensor,
    base: Tensor | None,
    scratch: Scratch | None = None,
    feedback: Feedback | None = None,
) -> Tensor:
    """Put the gradients of −E[D(G(z, a), a)] into the generator's parameters and return it (0-d).

    Args:
        generator, critic: G and D.
        z: (B, Dz) noise.
        labels: (B,) int64 rows of `descriptors`.
        descriptors: (C, Da).
        base: (C, Dx) class means of a warm start, or None.
        scratch: memory to use again.
        feedback: one more loss of the synthetic features; not in the returned value.
    """
    scratch = scratch or Scratch()
    mm, master = generator.arithmetic.mm, generator.arithmetic.master
    from_noise, to_features = generator.factors(scratch)
    share = generator.share(descriptors, scratch)
    pre = mm(z, from_noise.T).to(master) + share.index_select(0, labels)
    slopes = put_slopes(pre, torch.empty_like(pre))
    hidden = pre * slopes
    out = mm(hidden, to_features.T).to(master) + generator.feature_bias
    if base is not None:
        out += base[labels]
    fake = out if generator.signed else torch.relu(out)

    loss, wanted = _score_gradient(critic, fake, labels, descriptors, scratch)
    if feedback is not None:
        with torch.enable_grad():
            leaf = fake.requires_grad_()
            wanted += torch.autograd.grad(feedback(leaf, labels), leaf)[0]
    to_out = wanted if generator.signed else wanted * (out > 0)
    to_pre = mm(to_out, to_features).to(master) * slopes
    put_gradient(generator.to_features, mm(to_out.T, hidden))
    put_gradient(generator.feature_bias, to_out.sum(0))
    put_gradient(generator.from_noise, mm(to_pre.T, z))
    by_class = sum_by_class(to_pre, labels, len(share))
    put_gradient(generator.from_descriptor, mm(by_class.T, descriptors))
    put_gradient(generator.hidden_bias, to_pre.sum(0))
    return loss


def _score_gradient(
    critic: Critic, fake: Tensor, labels: Tensor, descriptors: Tensor, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """−E[D(x̃, a)] (0-d) and its gradient with respect to x̃, (B, Dx)."""
    mm, master = critic.arithmetic.mm, critic.arithmetic.master
    W = scratch.cast("W", critic.from_features, critic.arithmetic.product)
    share = critic.share(descriptors, scratch)
    pre = mm(fake, W.T).to(master) + share.index_select(0, labels)
    weighted = put_slopes(pre, torch.empty_like(pre)) * critic.to_score
    gradient = mm(weighted, W).to(master) / -len(fake)
    return -(weighted * pre).sum(1).mean(), gradient
