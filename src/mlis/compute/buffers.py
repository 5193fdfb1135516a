"""Memory that a training step reuses."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Buffers:
    """Memory for the large temporaries of a training step, allocated once and reused every step.

    On a CPU, fresh memory costs more than what is computed in it: the operating system hands out
    and clears every page again (measured: 17 ms to fill a fresh 4096 × 2048 tensor, 5 ms to fill
    one that is there). A tensor is valid until its name is requested again; a backward pass whose
    saved tensors were overwritten in the meantime raises PyTorch's error about in-place changes.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Return the tensor of this name, holding the values of its last use."""
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != dtype:
            held = self._held[name] = torch.empty(shape, dtype=dtype, device=device)
        return held

    def cast(self, name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `weight` in `dtype`: itself, or a differentiable copy in reused memory."""
        if weight.dtype == dtype:
            return weight
        return cast(Tensor, _Cast.apply(weight, dtype, name, self))

    def gradient(self, name: str, weight: Tensor) -> Tensor:
        """Return memory to compute the gradient of `weight` in.

        It is reused once the gradient has been dropped (`zero_grad`), and fresh where backward adds
        to a gradient that is still there.
        """
        if weight.grad is not None:
            return torch.empty_like(weight)
        held = self(f"gradient of {name}", tuple(weight.shape), weight.dtype, weight.device)
        return held.detach()  # a tensor of its own: autograd keeps it as `.grad` without a copy


class _Cast(torch.autograd.Function):
    """`weight` in another dtype. Autograd's own cast would allocate both copy and gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype, name: str, buffers: Buffers):
        ctx.save_for_backward(weight)
        ctx.name, ctx.buffers = name, buffers
        return buffers(name, tuple(weight.shape), dtype, weight.device).copy_(weight).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore
        (weight,) = ctx.saved_tensors
        return ctx.buffers.gradient(ctx.name, weight).copy_(gradient), None, None, None
