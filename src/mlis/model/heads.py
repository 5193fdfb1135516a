"""Heads: from refined features (B, Dh) to one score per class (B, C).

A head is a module that knows its `kind` in `HEADS` and the sizes that rebuild it, so that a model
with it can be saved. A new one is a class here, its line in `HEADS`, and a test.
"""

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlis.model.parts import Part


class Head(Part):
    """A module from refined features (B, Dh) to scores (B, C)."""

    @abstractmethod
    def chosen(self, classes: Tensor) -> Self:
        """A head of the classes with these indices (K,), in their order."""

    @abstractmethod
    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dh) refined features."""


class LinearHead(Head):
    """Scores `W h + b`: the paper's softmax classifier, whose logits they are.

    Args:
        weight: (C, Dh).
        bias: (C,).
    """

    kind = "linear"

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter = nn.Parameter(bias, requires_grad=False)

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        return type(self)(self.weight[classes], self.bias[classes])

    def sizes(self) -> dict[str, Any]:
        """Of the weight."""
        classes, inputs = self.weight.shape
        return {"inputs": inputs, "classes": classes}

    @classmethod
    def empty(cls, inputs: int, classes: int) -> Self:
        """A head of `classes` for `inputs` numbers."""
        weight = torch.empty(classes, inputs, device="meta")
        return cls(weight, torch.empty(classes, device="meta"))

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dh) refined features."""
        return torch.addmm(self.bias, h, self.weight.T)


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


HEADS: dict[str, type[Head]] = {one.kind: one for one in (LinearHead, CosineHead)}
