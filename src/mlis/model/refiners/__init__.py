"""Refiners: from scaled features (B, Dx) to refined ones (B, Dh).

A refiner is a module that knows its `kind` in `REFINERS` and the sizes that rebuild it, so that a
model with it can be saved. A new one is a class here, its line in `REFINERS`, and a test.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlis.model.parts import describe, empty_part
from mlis.model.preprocessing import FeatureScaler
from mlis.model.refiners.base import LinearReLU, Refiner
from mlis.model.refiners.regions import (
    AttributeAttention,
    RegionLinear,
    RegionMean,
    SecondOrder,
)


class Identity(Refiner):
    """The scaled features themselves."""

    kind = "none"

    def width(self, inputs: int) -> int:
        """Dx."""
        return inputs

    def sizes(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def empty(cls) -> Self:
        """A refiner without tensors."""
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        """`x`."""
        return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "unit": partial(normalize, dim=1),  # each row to unit length
}


class Activation(Refiner):
    """A function without weights, of the same width.

    Args:
        name: a key of `ACTIVATIONS`.
    """

    kind = "activation"

    def __init__(self, name: str):
        super().__init__()
        self.name: str = name
        self._function = ACTIVATIONS[name]

    def width(self, inputs: int) -> int:
        """Dx."""
        return inputs

    def sizes(self) -> dict[str, Any]:
        """The name."""
        return {"name": self.name}

    @classmethod
    def empty(cls, name: str) -> Self:
        """The function of that name."""
        return cls(name)

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, Dx) features."""
        return self._function(x)


class Rescaling(Refiner):
    """`factor * x + shift`: features as another scaler would have scaled them.

    Args:
        factor, shift: (Dx,).
    """

    kind = "rescaling"

    def __init__(self, factor: Tensor, shift: Tensor):
        super().__init__()
        self.factor: nn.Parameter = nn.Parameter(factor, requires_grad=False)
        self.shift: nn.Parameter = nn.Parameter(shift, requires_grad=False)

    @classmethod
    def between(cls, given: FeatureScaler, wanted: FeatureScaler, dtype: torch.dtype) -> Self:
        """From what the one scaler gives to what the other one gives of the same features.

        A feature that was constant in training, which the first maps to 0, stays at that value.
        """
        if (given.transform, given.inputs) != (wanted.transform, wanted.inputs):
            raise ValueError(f"expected scalers of one transform and size: {given}, {wanted}")
        (s, f), (own_s, own_f) = (
            (one.shift.double(), one.factor.double()) for one in (given, wanted)
        )
        factor = torch.where(f > 0, own_f / f.clamp(min=1e-300), 0.0)
        return cls(factor.to(dtype), ((s - own_s) * own_f).to(dtype))

    def width(self, inputs: int) -> int:
        """Dx."""
        return inputs

    def sizes(self) -> dict[str, Any]:
        """Dx."""
        return {"size": len(self.shift)}

    @classmethod
    def empty(cls, size: int) -> Self:
        """Of `size` numbers."""
        return cls(torch.empty(size, device="meta"), torch.empty(size, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """Rescale (B, Dx) features."""
        return torch.addcmul(self.shift, x, self.factor)


class _Composite(Refiner):
    """A refiner of other refiners.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Refiner]):
        super().__init__()
        self.parts: nn.ModuleList = nn.ModuleList(parts)

    def sizes(self) -> dict[str, Any]:
        """The parts, each with its kind."""
        return {"parts": [describe(part) for part in self._refiners()]}

    @classmethod
    def empty(cls, parts: Sequence[Mapping[str, Any]]) -> Self:
        """A composite of empty parts."""
        return cls([empty_part(REFINERS, part) for part in parts])

    def _refiners(self) -> list[Refiner]:
        return [cast(Refiner, part) for part in self.parts]


class Layers(_Composite):
    """One refiner after the other."""

    kind = "layers"

    def width(self, inputs: int) -> int:
        """Of the last."""
        for part in self._refiners():
            inputs = part.width(inputs)
        return inputs

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, Dx) features."""
        for part in self.parts:
            x = part(x)
        return x


class Concatenation(_Composite):
    """The outputs of several refiners side by side, e.g. `[x ; E(x)]`."""

    kind = "concatenation"

    def width(self, inputs: int) -> int:
        """The sum of the parts' widths."""
        return sum(part.width(inputs) for part in self._refiners())

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, Dx) features."""
        return torch.cat([part(x) for part in self.parts], dim=1)


REFINERS: dict[str, type[Refiner]] = {
    one.kind: one
    for one in (
        *(Identity, LinearReLU, Activation, Rescaling, Layers, Concatenation),
        *(RegionLinear, RegionMean, AttributeAttention, SecondOrder),
    )
}

__all__ = [
    "ACTIVATIONS",
    "REFINERS",
    "Activation",
    "AttributeAttention",
    "Concatenation",
    "Identity",
    "Layers",
    "LinearReLU",
    "Refiner",
    "RegionLinear",
    "RegionMean",
    "Rescaling",
    "SecondOrder",
]
