"""Prototype head: scores by the cosine with a prototype of each class."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlis.model.heads.base import Head


class CosineHead(Head):
    """Scores are `scale` times the cosine between the feature and a prototype of the class.

    Args:
        prototypes: (C, Dh), of any length.
        scale: inverse temperature; calibration constants are in its units.
    """

    kind = "cosine"

    def __init__(self, prototypes: Tensor, scale: float = 1.0):
        super().__init__()
        self.prototypes: nn.Parameter = nn.Parameter(prototypes, requires_grad=False)
        self.scale: float = float(scale)

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        return type(self)(self.prototypes[classes], self.scale)

    def sizes(self) -> dict[str, Any]:
        """Of the prototypes, and the scale."""
        classes, inputs = self.prototypes.shape
        return {"inputs": inputs, "classes": classes, "scale": self.scale}

    @classmethod
    def empty(cls, inputs: int, classes: int, scale: float = 1.0) -> Self:
        """A head of `classes` for `inputs` numbers."""
        return cls(torch.empty(classes, inputs, device="meta"), scale)

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dh) refined features."""
        return self.scale * (normalize(h, dim=1) @ normalize(self.prototypes, dim=1).T)
