"""Refiners of features of several regions: (B, R · D) is read as (B, R, D), R being what fits."""

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, normalize

from mlis.model.refiners.base import LinearReLU, Refiner

ITERATIONS = 5  # of Newton and Schulz
_LEAST = 1e-6  # trace of a covariance: regions may be equal


def regions_of(x: Tensor, size: int) -> Tensor:
    """(B, R, D) of (B, R · D), D being `size`."""
    return x.unflatten(1, (x.shape[1] // size, size))


class RegionLinear(LinearReLU):
    """`LinearReLU` of each region: (B, R · D) to (B, R · K)."""

    kind = "region-linear"

    def width(self, inputs: int) -> int:
        """R · K, where R · D is `inputs`."""
        outputs, size = self.weight.shape
        return inputs // size * outputs

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, R · D) features."""
        z = linear(regions_of(x, self.weight.shape[1]), self.weight, self.bias).flatten(1)
        return leaky_relu(z, self.slope) if self.slope else torch.relu(z)


class RegionMean(Refiner):
    """The mean of all regions: (B, R · D) to (B, D).

    Args:
        size: D.
    """

    kind = "region-mean"

    def __init__(self, size: int):
        super().__init__()
        self.size: int = size

    def width(self, inputs: int) -> int:
        """D."""
        del inputs
        return self.size

    def sizes(self) -> dict[str, Any]:
        """D."""
        return {"size": self.size}

    @classmethod
    def empty(cls, size: int) -> Self:
        """A mean of regions of `size` numbers."""
        return cls(size)

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, R · D) features."""
        return regions_of(x, self.size).mean(1)


def attribute_scores(
    x: Tensor, queries: Tensor, product: Callable[[Tensor, Tensor], Tensor] = torch.matmul
) -> Tensor:
    """How strongly each attribute is seen, (B, Da); see :mod:`mlis.methods.dazle`.

    Args:
        x: (B, R · D).
        queries: (3, Da, D): where each attribute looks, what it sees there, how much it counts.
        product: of matrices.
    """
    count, size = queries.shape[1:]
    f = normalize(regions_of(x, size), dim=2)
    looks, sees, counts = product(f, queries.flatten(0, 1).T).split(count, dim=2)  # (B, R, Da)
    attention = looks.softmax(1)
    return (attention * counts).sum(1).sigmoid() * (attention * sees).sum(1)


class AttributeAttention(Refiner):
    """Attention over regions by each attribute: (B, R · D) to (B, Da), as in DAZLE.

    Args:
        queries: (3, Da, D), see `attribute_scores`.
    """

    kind = "attribute-attention"

    def __init__(self, queries: Tensor):
        super().__init__()
        self.queries: nn.Parameter = nn.Parameter(queries, requires_grad=False)

    def width(self, inputs: int) -> int:
        """Da."""
        del inputs
        return self.queries.shape[1]

    def sizes(self) -> dict[str, Any]:
        """Of the queries."""
        return {"inputs": self.queries.shape[2], "attributes": self.queries.shape[1]}

    @classmethod
    def empty(cls, inputs: int, attributes: int) -> Self:
        """Attention of so many attributes to regions of `inputs` numbers."""
        return cls(torch.empty(3, attributes, inputs, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, R · D) features."""
        return attribute_scores(x, self.queries)


def covariance_root(y1: Tensor, y2: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Square root (B, K, K) of the cross-covariance over regions of two (B, R, K) features.

    By Newton and Schulz (Li et al.: "Towards Faster Training of Global Covariance Pooling Networks
    by Iterative Matrix Square Root Normalization", CVPR 2018): of A over its trace,

        Y₀ = A, Z₀ = I;   Y ← ½ Y (3 I − Z Y),  Z ← ½ (3 I − Z Y) Z

    Y and Z are polynomials of A, and Y = A Z. Of A = P Q with P (K, R) and Q (R, K), A Z(A) is
    P Z(Q P) Q: the same result from matrices of R × R, which are far smaller than K × K.
    """
    regions = y1.shape[1]
    p = (y1 - y1.mean(1, keepdim=True)).transpose(1, 2) / regions
    q = y2 - y2.mean(1, keepdim=True)
    y = q @ p
    trace = y.diagonal(dim1=1, dim2=2).sum(1).clamp(min=_LEAST)[:, None, None]
    y = y / trace
    z = one = torch.eye(regions, dtype=y.dtype, device=y.device).expand_as(y)
    for _ in range(iterations):
        t = 1.5 * one - 0.5 * z @ y
        y, z = y @ t, t @ z
    return p @ z @ q / trace.sqrt()


class SecondOrder(Refiner):
    """Cross-attentive second-order pooling: (B, R · K) to (B, K (K + 1) / 2), as in DVBE.

    See :mod:`mlis.methods.dvbe`. The square root's upper triangle, with the diagonal.

    Args:
        spatial: from each region (K) to hidden units, and from these to its weight.
        channel: from the mean region (K) to hidden units, and from these to K weights.
    """

    kind = "second-order"

    def __init__(
        self, spatial: tuple[RegionLinear, RegionLinear], channel: tuple[LinearReLU, LinearReLU]
    ):
        super().__init__()
        self.spatial: nn.Sequential = nn.Sequential(*spatial)
        self.channel: nn.Sequential = nn.Sequential(*channel)

    @property
    def _sizes(self) -> tuple[int, int]:
        channels, hidden = cast(LinearReLU, self.channel[1]).weight.shape
        return channels, hidden

    def width(self, inputs: int) -> int:
        """K (K + 1) / 2."""
        del inputs
        return self._sizes[0] * (self._sizes[0] + 1) // 2

    def sizes(self) -> dict[str, Any]:
        """K, and the hidden units."""
        return {"channels": self._sizes[0], "hidden": self._sizes[1]}

    @classmethod
    def empty(cls, channels: int, hidden: int) -> Self:
        """Pooling of regions of `channels` numbers."""
        return cls(
            (RegionLinear.empty(channels, hidden), RegionLinear.empty(hidden, 1, 1.0)),
            (LinearReLU.empty(channels, hidden), LinearReLU.empty(hidden, channels, 1.0)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, R · K) features."""
        channels = self._sizes[0]
        y = regions_of(x, channels)
        of_channels = self.channel(y.mean(1)).sigmoid()[:, None]
        of_regions = self.spatial(x).sigmoid()[:, :, None]
        root = covariance_root(y + of_channels * y, y + of_regions * y)
        rows, columns = torch.triu_indices(channels, channels, device=x.device)
        return root[:, rows, columns]
