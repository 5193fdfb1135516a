"""What every refiner is: a module from scaled features (B, Dx) to refined ones (B, Dh)."""

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mlis.model.parts import Part


class Refiner(Part):
    """A module from scaled features (B, Dx) to refined features (B, Dh)."""

    @abstractmethod
    def width(self, inputs: int) -> int:
        """Dh, where Dx is `inputs`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, Dx) features."""


class LinearReLU(Refiner):
    """`max(z, slope · z)` with `z = W x + b`: the paper's encoder where the slope is 0.

    Args:
        weight: (Dh, Dx).
        bias: (Dh,).
        slope: of negative values: 0 is ReLU, 1 leaves a linear layer.
    """

    kind = "linear"

    def __init__(self, weight: Tensor, bias: Tensor, slope: float = 0.0):
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter = nn.Parameter(bias, requires_grad=False)
        self.slope: float = float(slope)

    def width(self, inputs: int) -> int:
        """Dh."""
        return len(self.bias)

    def sizes(self) -> dict[str, Any]:
        """Of the weight, and the slope."""
        outputs, inputs = self.weight.shape
        return {"inputs": inputs, "outputs": outputs, "slope": self.slope}

    @classmethod
    def empty(cls, inputs: int, outputs: int, slope: float = 0.0) -> Self:
        """A layer from `inputs` to `outputs` numbers."""
        return cls(
            torch.empty(outputs, inputs, device="meta"), torch.empty(outputs, device="meta"), slope
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, Dx) features."""
        z = torch.addmm(self.bias, x, self.weight.T)
        return leaky_relu(z, self.slope) if self.slope else torch.relu(z)
