"""The conditional generator G and critic D of stage 1a (the paper's section 3.2).

The first layer of both acts on a concatenation, `W [x ; a_y] + b = W_x x + (W_a a_y + b)`. What is
in brackets depends on the class alone: this `class_term` is computed once per class, (C, hidden),
and gathered by label.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import leaky_relu

from mlis.compute.buffers import Buffers
from mlis.compute.class_sums import sum_by_class
from mlis.compute.precision import Precision
from mlis.compute.random import normal

SLOPE = 0.2  # of LeakyReLU on the negative side


class _Conditional(nn.Module):
    """The part of the first layer that G and D have in common."""

    precision: Precision
    from_descriptor: nn.Parameter
    hidden_bias: nn.Parameter

    def class_term(self, descriptors: Tensor) -> Tensor:
        """Return what each class adds to the hidden pre-activation, (C, Da) → (C, hidden)."""
        return self.precision.mm(descriptors, self.from_descriptor.T) + self.hidden_bias


class Generator(_Conditional):
    """G: `[z ; a] → linear → LeakyReLU(0.2) → linear → ReLU`.

    With `generator_init="ridge"` a class mean predicted by ridge regression is added before the
    ReLU, so that G only learns the residual.

    Args:
        noise, descriptor, hidden, features: sizes Dz, Da, hidden units, Dx.
        std: standard deviation of the initial weights.
        precision: device and dtypes.
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
        precision: Precision,
        rng: torch.Generator,
        signed: bool = False,
    ):
        super().__init__()
        self.noise = noise
        self.signed = signed
        self.precision = precision
        self.from_noise: nn.Parameter = _normal((hidden, noise), std, precision, rng)
        self.from_descriptor: nn.Parameter = _normal((hidden, descriptor), std, precision, rng)
        self.hidden_bias: nn.Parameter = _bias(self.from_descriptor)
        self.to_features: nn.Parameter = _normal((features, hidden), std, precision, rng)
        self.feature_bias: nn.Parameter = _bias(self.to_features)

    def own_class_term(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        """Return the class term of each sample, (B, hidden); labels (B,) are rows of (C, Da)."""
        found = _ClassTerm.apply(
            self.from_descriptor, self.hidden_bias, descriptors, labels, self.precision
        )
        return cast(Tensor, found)

    def weights(self, buffers: Buffers) -> tuple[Tensor, Tensor]:
        """Return the two large weight matrices in the product dtype."""
        product = self.precision.product
        return (
            buffers.cast("from_noise", self.from_noise, product),
            buffers.cast("to_features", self.to_features, product),
        )

    def forward(
        self,
        z: Tensor,
        class_term: Tensor,
        base: Tensor | None = None,
        weights: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Generate features x̃ = G(z, a), (B, Dx).

        Args:
            z: (B, Dz) noise.
            class_term: (B, hidden), each sample's own class's.
            base: (B, Dx) class means of a warm start, each sample's own class's, or None.
            weights: what `weights` returned, to cast them once for many calls.
        """
        from_noise, to_features = weights or (self.from_noise, self.to_features)
        return self.output(self.hidden(z, class_term, from_noise), base, to_features)

    def hidden(self, z: Tensor, class_term: Tensor, from_noise: Tensor) -> Tensor:
        """Hidden units (B, hidden) of noise z; arguments as of `forward`."""
        pre = self.precision.mm(z, from_noise.T).add_(class_term)
        return leaky_relu(pre, SLOPE, inplace=True)

    def output(self, hidden: Tensor, base: Tensor | None, to_features: Tensor) -> Tensor:
        """Features x̃ (B, Dx) of hidden units (B, hidden)."""
        out = self.precision.mm(hidden, to_features.T).add_(self.feature_bias)
        out = out if base is None else out.add_(base)
        return out if self.signed else torch.relu_(out)


def own_classes(labels: Tensor, descriptors: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels (B,) of a batch and the descriptors (K, Da) whose rows they are.

    All descriptors (C, Da) if there are no more of them than samples; else one per sample, so that
    a step's time does not grow with thousands of classes.
    """
    if len(descriptors) <= len(labels):
        return labels, descriptors
    return torch.arange(len(labels), device=labels.device), descriptors[labels]


class Critic(_Conditional):
    """D: `[x ; a] → linear → LeakyReLU(0.2) → linear`, an unbounded score.

    It is evaluated inside the losses only (:mod:`mlis.generators.wgan_gp.losses`). The last bias is
    left out: it cancels in `D(x̃) − D(x)` and does not enter the penalty.

    Args: see :class:`Generator`.
    """

    def __init__(
        self,
        features: int,
        descriptor: int,
        hidden: int,
        *,
        std: float,
        precision: Precision,
        rng: torch.Generator,
    ):
        super().__init__()
        self.precision = precision
        self.from_features: nn.Parameter = _normal((hidden, features), std, precision, rng)
        self.from_descriptor: nn.Parameter = _normal((hidden, descriptor), std, precision, rng)
        self.hidden_bias: nn.Parameter = _bias(self.from_descriptor)
        self.to_score: nn.Parameter = _normal((hidden,), std, precision, rng)


class _ClassTerm(torch.autograd.Function):
    """`(W_a a + b)[y]`; its gradient is first summed by class, reproducibly on every device."""

    @staticmethod
    def forward(
        ctx: Any, W: Tensor, b: Tensor, descriptors: Tensor, labels: Tensor, precision: Precision
    ) -> Tensor:
        ctx.save_for_backward(descriptors, labels)
        ctx.precision = precision
        # On a CPU index_select is seven times as fast as indexing by labels.
        return (precision.mm(descriptors, W.T) + b).index_select(0, labels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore
        descriptors, labels = ctx.saved_tensors
        by_class = sum_by_class(gradient, labels, len(descriptors))
        return ctx.precision.mm(by_class.T, descriptors), gradient.sum(0), None, None, None


def _normal(shape: tuple[int, ...], std: float, like: Precision, rng: torch.Generator):
    # Drawn in float32 on the CPU: the same start on every device and in every precision.
    return nn.Parameter((normal(rng, *shape) * std).to(like.device, like.master))


def _bias(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.new_zeros(len(weight)))
