"""The conditional generator and critic, and the few operations that training them needs.

The descriptor's share of a first layer depends on the class alone, so both networks compute it
once per class, `descriptors @ W_aᵀ + b` (C, hidden), and gather it by label.
"""

import torch
from torch import Tensor, nn

from mlis.compute.precision import Arithmetic, Scratch

SLOPE = 0.2  # of LeakyReLU on the negative side


def put_slopes(pre: Tensor, out: Tensor) -> Tensor:
    """Derivative of LeakyReLU, 1 where `pre` > 0, else 0.2, into `out` of the same shape."""
    return torch.gt(pre, 0, out=out).mul_(1 - SLOPE).add_(SLOPE)


def _share(network: "Generator | Critic", descriptors: Tensor, scratch: Scratch | None) -> Tensor:
    arithmetic, weight = network.arithmetic, network.from_descriptor
    if scratch is not None:
        weight = scratch.cast(type(network).__name__, weight, arithmetic.product)
    return arithmetic.mm(descriptors, weight.T).to(arithmetic.master) + network.hidden_bias


def _normal(shape: tuple[int, ...], std: float, like: Arithmetic, rng: torch.Generator):
    # Drawn in float32 on the CPU: the same start on every device and in every precision.
    values = torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float32) * std
    return nn.Parameter(values.to(like.device, like.master))


def _bias(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.new_zeros(len(weight)))


class Generator(nn.Module):
    """G: `[z ; a] → linear → LeakyReLU(0.2) → linear → ReLU` (the paper's section 3.2).

    With `generator_init="ridge"` a class mean predicted by ridge regression is added before the
    ReLU, so that G only learns the residual.

    Args:
        noise, descriptor, hidden, features: sizes Dz, Da, hidden units, Dx.
        std: standard deviation of the initial weights.
        arithmetic: device and precision.
        rng: CPU generator that draws the initial weights.
        signed: whether features may be negative: then the last ReLU is left out.
    """

    def __init__(
        self,
        noise: int,
        descriptor: int,
        hidden: int,
        features: int,
        *,
        std: float,
        arithmetic: Arithmetic,
        rng: torch.Generator,
        signed: bool = False,
    ):
        super().__init__()
        self.noise = noise
        self.signed = signed
        self.arithmetic = arithmetic
        self.from_noise: nn.Parameter = _normal((hidden, noise), std, arithmetic, rng)
        self.from_descriptor: nn.Parameter = _normal((hidden, descriptor), std, arithmetic, rng)
        self.hidden_bias: nn.Parameter = _bias(self.from_descriptor)
        self.to_features: nn.Parameter = _normal((features, hidden), std, arithmetic, rng)
        self.feature_bias: nn.Parameter = _bias(self.to_features)

    def share(self, descriptors: Tensor, scratch: Scratch | None = None) -> Tensor:
        """Return each class's part of the hidden pre-activation, (C, Da) → (C, hidden)."""
        return _share(self, descriptors, scratch)

    def factors(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Return the two large weight matrices in the product dtype."""
        product = self.arithmetic.product
        return (
            scratch.cast("from_noise", self.from_noise, product),
            scratch.cast("to_features", self.to_features, product),
        )

    def forward(
        self,
        z: Tensor,
        share: Tensor,
        labels: Tensor,
        base: Tensor | None,
        factors: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Synthesise (B, Dx) features ≥ 0 from noise (B, Dz), `share` (C, hidden), labels (B,).

        `base` (C, Dx) is the ridge-predicted class mean of a warm start, or None.
        """
        from_noise, to_features = factors or (self.from_noise, self.to_features)
        mm, master = self.arithmetic.mm, self.arithmetic.master
        # On a CPU index_select is seven times as fast as share[labels].
        pre = mm(z, from_noise.T).to(master).add_(share.index_select(0, labels))
        hidden = nn.functional.leaky_relu_(pre, SLOPE)
        out = mm(hidden, to_features.T).to(master).add_(self.feature_bias)
        out = out if base is None else out.add_(base[labels])
        return out if self.signed else torch.relu_(out)


class Critic(nn.Module):
    """D: `[x ; a] → linear → LeakyReLU(0.2) → linear`, a score without bound.

    The last bias is left out: it cancels in `D(x̃) − D(x)` and does not enter the penalty.

    Args: as of :class:`Generator`.
    """

    def __init__(
        self,
        features: int,
        descriptor: int,
        hidden: int,
        *,
        std: float,
        arithmetic: Arithmetic,
        rng: torch.Generator,
    ):
        super().__init__()
        self.arithmetic = arithmetic
        self.from_features: nn.Parameter = _normal((hidden, features), std, arithmetic, rng)
        self.from_descriptor: nn.Parameter = _normal((hidden, descriptor), std, arithmetic, rng)
        self.hidden_bias: nn.Parameter = _bias(self.from_descriptor)
        self.to_score: nn.Parameter = _normal((hidden,), std, arithmetic, rng)

    def share(self, descriptors: Tensor, scratch: Scratch | None = None) -> Tensor:
        """Return each class's part of the hidden pre-activation, (C, Da) → (C, hidden)."""
        return _share(self, descriptors, scratch)

    def forward(self, x: Tensor, share: Tensor, labels: Tensor) -> Tensor:
        """Score (B, Dx) features with `share` (C, hidden) of their labels (B,): (B,)."""
        pre = self.arithmetic.mm(x, self.from_features.T).to(self.arithmetic.master)
        return nn.functional.leaky_relu(pre + share[labels], SLOPE) @ self.to_score
