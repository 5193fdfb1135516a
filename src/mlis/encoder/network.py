"""The encoder E: one linear layer and ReLU, `h = E(x)`, the refined visual feature."""

import torch
from torch import Tensor, nn

from mlis.compute.precision import Arithmetic, Scratch, put_gradient


class Linear(nn.Module):
    """A linear layer in mixed precision: factors in the product dtype, the sum in the master's.

    Args:
        inputs, outputs: sizes.
        std: standard deviation of the initial weights; biases start at zero.
        arithmetic: device and precision.
        rng: CPU generator that draws the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        std: float,
        arithmetic: Arithmetic,
        rng: torch.Generator,
    ):
        super().__init__()
        self.arithmetic = arithmetic
        weight = (
            torch.randn((outputs, inputs), generator=rng, device=rng.device, dtype=torch.float32)
            * std
        )
        self.weight: nn.Parameter = nn.Parameter(arithmetic.tensor(weight))
        self.bias: nn.Parameter = nn.Parameter(self.weight.new_zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs)."""
        return self.arithmetic.mm(x, self.weight.T).to(self.arithmetic.master) + self.bias


class Encoder(Linear):
    """E: `x → linear → ReLU` (the paper's section 4.2); (B, Dx) to refined (B, Dh)."""

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, Dx) features to (B, Dh)."""
        return torch.relu(super().forward(x))

    @torch.no_grad()
    def refine(self, x: Tensor, scratch: Scratch) -> Tensor:
        """What `forward` gives, without a graph, in memory that the next call uses again.

        Args:
            x: (B, Dx).
            scratch: holds the returned (B, Dh).
        """
        weight = scratch.cast("weight", self.weight, self.arithmetic.product)
        product = x.to(weight.dtype) @ weight.T
        h = scratch("refined", tuple(product.shape), product, self.arithmetic.master)
        return h.copy_(product).add_(self.bias).relu_()

    @torch.no_grad()
    def backward(self, x: Tensor, h: Tensor, gradient: Tensor, scratch: Scratch) -> None:
        """Put the weights' gradients where a loss has the `gradient` (B, Dh) of h.

        Args:
            x: (B, Dx), of which h = E(x).
            h: (B, Dh).
            gradient: (B, Dh); becomes that of what the ReLU was given.
            scratch: memory to use again.
        """
        gradient *= h > 0
        product = scratch.cast("gradient", gradient, self.arithmetic.product)
        put_gradient(self.weight, product.T @ x.to(product.dtype))
        put_gradient(self.bias, gradient.sum(0))
