"""Scores of pairs: a small network looks at a feature and a class together."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mlis.model.heads.base import Head


class RelationHead(Head):
    """Scores `w · ReLU(W (h ∘ p_c) + b) + d` of the feature times the prototype of each class.

    Args:
        prototypes: p, (C, Dh).
        weight: W, (K, Dh).
        bias: b, (K,).
        output: w, (K,).
        offset: d, 0-d; calibration apart, it changes no order of classes.
    """

    kind = "relation"

    def __init__(
        self, prototypes: Tensor, weight: Tensor, bias: Tensor, output: Tensor, offset: Tensor
    ):
        super().__init__()
        self.prototypes: nn.Parameter = nn.Parameter(prototypes, requires_grad=False)
        self.weight: nn.Parameter = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter = nn.Parameter(bias, requires_grad=False)
        self.output: nn.Parameter = nn.Parameter(output, requires_grad=False)
        self.offset: nn.Parameter = nn.Parameter(offset, requires_grad=False)

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        return type(self)(
            self.prototypes[classes], self.weight, self.bias, self.output, self.offset
        )

    def sizes(self) -> dict[str, Any]:
        """Of prototypes and weight."""
        classes, inputs = self.prototypes.shape
        return {"inputs": inputs, "classes": classes, "hidden": len(self.bias)}

    @classmethod
    def empty(cls, inputs: int, classes: int, hidden: int) -> Self:
        """A head of `classes` for `inputs` numbers."""
        shapes = (classes, inputs), (hidden, inputs), (hidden,), (hidden,), ()
        return cls(*(torch.empty(shape, device="meta") for shape in shapes))

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dh) refined features."""
        hidden = (torch.relu(torch.addmm(self.bias, h * p, self.weight.T)) for p in self.prototypes)
        return torch.stack([one @ self.output for one in hidden], dim=1) + self.offset


class PairHead(Head):
    """A network of one hidden layer on pairs of feature and class: `w · LeakyReLU(h + t_c)`.

    The first layer of such a network acts on a concatenation: h is what the feature adds to the
    hidden units, which the last refiner computes, and t_c what the class adds.

    Args:
        terms: (C, Dh), t of each class.
        weight: (Dh,), w.
        slope: of negative values: 0 is ReLU.
    """

    kind = "pair"

    def __init__(self, terms: Tensor, weight: Tensor, slope: float = 0.0):
        super().__init__()
        self.terms: nn.Parameter = nn.Parameter(terms, requires_grad=False)
        self.weight: nn.Parameter = nn.Parameter(weight, requires_grad=False)
        self.slope: float = float(slope)

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        return type(self)(self.terms[classes], self.weight, self.slope)

    def sizes(self) -> dict[str, Any]:
        """Of the terms, and the slope."""
        classes, inputs = self.terms.shape
        return {"inputs": inputs, "classes": classes, "slope": self.slope}

    @classmethod
    def empty(cls, inputs: int, classes: int, slope: float = 0.0) -> Self:
        """A head of `classes` for `inputs` numbers."""
        terms = torch.empty(classes, inputs, device="meta")
        return cls(terms, torch.empty(inputs, device="meta"), slope)

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dh) refined features; class by class, as (B, C, Dh) are too many."""
        hidden = (leaky_relu(h + term, self.slope) for term in self.terms)
        return torch.stack([units @ self.weight for units in hidden], dim=1)
