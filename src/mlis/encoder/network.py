"""The encoder E: one linear layer and ReLU, `h = E(x)`, the refined visual feature."""

import torch
from torch import Tensor

from mlis.compute.buffers import Buffers
from mlis.training.layers import Linear


class Encoder(Linear):
    """E: `x → linear → ReLU` (the paper's section 4.2); (B, Dx) to refined (B, Dh)."""

    def forward(self, x: Tensor, buffers: Buffers | None = None) -> Tensor:
        """Refine (B, Dx) features to (B, Dh)."""
        return torch.relu_(super().forward(x, buffers))
