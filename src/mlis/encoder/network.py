"""The encoder E: one linear layer and ReLU, `h = E(x)`, the refined visual feature."""

import torch
from torch import Tensor, nn

from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision


class Linear(nn.Module):
    """A linear layer in mixed precision: factors in the product dtype, results in the master dtype.

    Args:
        inputs, outputs: sizes.
        std: standard deviation of the initial weights; biases start at zero.
        precision: device and dtypes.
        rng: CPU generator that draws the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        std: float,
        precision: Precision,
        rng: torch.Generator,
    ):
        super().__init__()
        self.precision = precision
        size = (outputs, inputs)
        weight = torch.randn(size, generator=rng, device=rng.device, dtype=torch.float32) * std
        self.weight: nn.Parameter = nn.Parameter(precision.tensor(weight))
        self.bias: nn.Parameter = nn.Parameter(self.weight.new_zeros(outputs))

    def forward(self, x: Tensor, buffers: Buffers | None = None) -> Tensor:
        """Map (B, inputs) to (B, outputs); with `buffers`, the weight is cast in reused memory."""
        weight = self.weight
        if buffers is not None:
            weight = buffers.cast("weight", weight, self.precision.product)
        return self.precision.mm(x, weight.T).add_(self.bias)


class Encoder(Linear):
    """E: `x → linear → ReLU` (the paper's section 4.2); (B, Dx) to refined (B, Dh)."""

    def forward(self, x: Tensor, buffers: Buffers | None = None) -> Tensor:
        """Refine (B, Dx) features to (B, Dh)."""
        return torch.relu_(super().forward(x, buffers))
