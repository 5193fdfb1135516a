"""Heads: from refined features (B, Dh) to one score per class (B, C).

A head is a module that knows its `kind` in `HEADS` and the sizes that rebuild it, so that a model
with it can be saved. A new one is a class here, its line in `HEADS`, and a test.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class Head(nn.Module, ABC):
    """A module from refined features (B, Dh) to scores (B, C)."""

    kind: ClassVar[str]

    @abstractmethod
    def chosen(self, classes: Tensor) -> Self:
        """A head of the classes with these indices (K,), in their order."""

    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """JSON-compatible arguments of `empty`; `classes` is one of them."""

    @classmethod
    @abstractmethod
    def empty(cls, *args: Any, **sizes: Any) -> Self:
        """A head of these sizes whose tensors are on the meta device, to load a state into."""

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


HEADS: dict[str, type[Head]] = {one.kind: one for one in (LinearHead, CosineHead, RelationHead)}


def describe(head: Head) -> dict[str, Any]:
    """Kind and sizes, for JSON; `empty_head` reads them."""
    return {"kind": head.kind, **head.sizes()}


def empty_head(description: Mapping[str, Any]) -> Head:
    """The head that `describe` described, without its weights.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: it is not such a description.
    """
    sizes = dict(description)
    return HEADS[sizes.pop("kind")].empty(**sizes)
