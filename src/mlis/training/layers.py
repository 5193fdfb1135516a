"""Layers as training uses them, in mixed precision."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision
from mlis.compute.random import normal


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
        weight = normal(rng, outputs, inputs) * std
        self.weight: nn.Parameter = nn.Parameter(precision.tensor(weight))
        self.bias: nn.Parameter = nn.Parameter(self.weight.new_zeros(outputs))

    def forward(self, x: Tensor, buffers: Buffers | None = None) -> Tensor:
        """Map (B, inputs) to (B, outputs); with `buffers`, the weight is cast in reused memory."""
        weight = self.weight
        if buffers is not None:
            weight = buffers.cast("weight", weight, self.precision.product)
        return self.precision.mm(x, weight.T).add_(self.bias)


def rectify(x: Tensor, slope: float) -> Tensor:
    """LeakyReLU of this slope, in place; ReLU where it is 0."""
    return leaky_relu(x, slope, inplace=True) if slope else torch.relu_(x)


class Perceptron(nn.Module):
    """One hidden layer: `x → linear → LeakyReLU(slope) = h → linear`.

    Args:
        inputs, hidden, outputs: sizes.
        slope: of negative hidden units.
        std, precision, rng: as of `Linear`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        slope: float,
        std: float,
        precision: Precision,
        rng: torch.Generator,
    ):
        super().__init__()
        self.slope = slope
        self.first: Linear = Linear(inputs, hidden, std, precision, rng)
        self.last: Linear = Linear(hidden, outputs, std, precision, rng)

    def hidden(self, x: Tensor) -> Tensor:
        """`h`, (B, hidden) of (B, inputs)."""
        return rectify(self.first(x), self.slope)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs) of (B, inputs)."""
        return self.last(self.hidden(x))


class GaussianEncoder(nn.Module):
    """Encoder of a VAE: `x → (linear → LeakyReLU) for each hidden size → linear μ, linear log σ²`.

    Args:
        sizes: of the input and of the hidden layers.
        latent: length of μ.
        slope: of negative hidden units.
        std, precision, rng: as of `Linear`.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        latent: int,
        slope: float,
        std: float,
        precision: Precision,
        rng: torch.Generator,
    ):
        super().__init__()
        self.slope = slope
        layers = [Linear(a, b, std, precision, rng) for a, b in pairwise(sizes)]
        self.layers: nn.ModuleList = nn.ModuleList(layers)
        self.mean: Linear = Linear(sizes[-1], latent, std, precision, rng)
        self.log_variance: Linear = Linear(sizes[-1], latent, std, precision, rng)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and log σ², (B, latent) each, of (B, inputs)."""
        for layer in self.layers:
            x = rectify(layer(x), self.slope)
        return self.mean(x), self.log_variance(x)


def xavier(module: nn.Module, gain: float, rng: torch.Generator) -> None:
    """Draw the weights of every `Linear` again, uniformly as of Glorot & Bengio (2010)."""
    for layer in module.modules():
        if isinstance(layer, Linear):
            weight = torch.empty(layer.weight.shape, device=rng.device, dtype=torch.float32)
            nn.init.xavier_uniform_(weight, gain, generator=rng)
            layer.weight.data.copy_(weight)
