"""Scores that are linear in the refined feature: the paper's softmax classifier."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from mlis.model.heads.base import Head


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
