"""Heads: from refined features (B, Dh) to one score per class (B, C).

A head is a module that knows its `kind` in `HEADS` and the sizes that rebuild it, so that a model
with it can be saved. A new one is a class here, its line in `HEADS`, and a test.
"""

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from mlis.errors import DataError
from mlis.model.parts import Part, describe, empty_part
from mlis.model.refiners import REFINERS, Refiner
from mlis.model.regression import ClassRegression


class Head(Part):
    """A module from refined features (B, Dh) to scores (B, C)."""

    @property
    def knows_by_description(self) -> bool:
        """Whether `with_classes` can make a class from its descriptor, without any training."""
        return False

    def with_classes(self, descriptors: Tensor) -> Self:
        """A head that also knows classes of these (n, Da) raw descriptors; they come last.

        Raises:
            DataError: a head of this kind cannot.
        """
        raise DataError(
            f"cannot add {len(descriptors)} classes by their descriptors: expected a head that "
            f"predicts classes, such as 'gaussian', got {self.kind!r}. Train such a model."
        )

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


class GaussianHead(Head):
    """Scores are log-densities of normal distributions, less one that is the same for all classes.

    Class c is N(m_c, diag(s_c)) in the coordinates z = P (h − o), in which the covariance within
    classes is I. Its log-density, less that of N(0, I), which cancels in a softmax, is a product
    with [z² ; z]:

        ½ (1 − 1/s_c)·z² + (m_c/s_c)·z − ½ Σ (m_c²/s_c + log s_c)

    Seen classes have small coefficients of z², so that large numbers do not cancel.

    Args:
        offset: (Dh,) o.
        projection: (k, Dh) P.
        weight: (C, 2k), the coefficients of z² and of z.
        bias: (C,).
        regression: predicts m and s − 1 of a class that has a descriptor only.
    """

    kind = "gaussian"

    def __init__(
        self,
        offset: Tensor,
        projection: Tensor,
        weight: Tensor,
        bias: Tensor,
        regression: ClassRegression,
    ):
        super().__init__()
        self.offset: nn.Parameter = nn.Parameter(offset, requires_grad=False)
        self.projection: nn.Parameter = nn.Parameter(projection, requires_grad=False)
        self.weight: nn.Parameter = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter = nn.Parameter(bias, requires_grad=False)
        self.regression: ClassRegression = regression

    @staticmethod
    def terms(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """`weight` (C, 2k) and `bias` (C,) of classes with these (C, k) means and variances."""
        weight = torch.cat([0.5 * (1 - 1 / variances), means / variances], dim=1)
        return weight, -0.5 * (means.square() / variances + variances.log()).sum(1)

    @property
    def knows_by_description(self) -> bool:
        """True."""
        return True

    def with_classes(self, descriptors: Tensor) -> Self:
        """A head that also knows classes of these (n, Da) raw descriptors; other scores stay."""
        means, added = self.regression(descriptors.to(self.weight.device))
        weight, bias = self.terms(means, 1 + added)
        return self._with(
            torch.cat([self.weight, weight.to(self.weight.dtype)]),
            torch.cat([self.bias, bias.to(self.bias.dtype)]),
        )

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        return self._with(self.weight[classes], self.bias[classes])

    def _with(self, weight: Tensor, bias: Tensor) -> Self:
        other = copy.deepcopy(self)
        other.weight = nn.Parameter(weight, requires_grad=False)
        other.bias = nn.Parameter(bias, requires_grad=False)
        return other

    def sizes(self) -> dict[str, Any]:
        """Of the projection, the weight and the regression."""
        sizes = {"inputs": len(self.offset), "classes": len(self.bias)}
        return {**sizes, **self.regression.sizes()}

    @classmethod
    def empty(cls, inputs: int, classes: int, components: int, **regression: Any) -> Self:
        """A head of `classes` for `inputs` numbers, projected to `components`."""
        return cls(
            offset=torch.empty(inputs, device="meta"),
            projection=torch.empty(components, inputs, device="meta"),
            weight=torch.empty(classes, 2 * components, device="meta"),
            bias=torch.empty(classes, device="meta"),
            regression=ClassRegression.empty(components=components, **regression),
        )

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dh) refined features."""
        z = (h - self.offset) @ self.projection.T
        return torch.addmm(self.bias, torch.cat([z.square(), z], dim=1), self.weight.T)


class Member(nn.Module):
    """One recognizer of an ensemble, after the preprocessing that all share.

    Args:
        refiner, head: of the member.
        weight: its scores' factor.
    """

    def __init__(self, refiner: Refiner, head: Head, weight: float):
        super().__init__()
        if isinstance(head, EnsembleHead):
            raise ValueError("a member of an ensemble: expected a single head, got an ensemble")
        self.refiner: Refiner = refiner
        self.head: Head = head
        self.weight: float = float(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Weighted scores (B, C) of (B, Dx) scaled features."""
        return self.weight * self.head(self.refiner(x))

    def with_head(self, head: Head) -> "Member":
        """The same refiner and weight with another head."""
        return Member(self.refiner, head, self.weight)


class EnsembleHead(Head):
    """Scores are a weighted sum of the scores of several members, each with its own refiner.

    Scores are unnormalised log-probabilities, so that this is a product of experts (Hinton, 2002);
    normalising each member first would add the same number to all classes of a row.

    Args:
        members: at least one, of the same classes and inputs.
    """

    kind = "ensemble"

    def __init__(self, members: Sequence[Member]):
        super().__init__()
        self.parts: nn.ModuleList = nn.ModuleList(members)

    @property
    def members(self) -> list[Member]:
        """In order."""
        return [cast(Member, part) for part in self.parts]

    @property
    def knows_by_description(self) -> bool:
        """Whether every member does."""
        return all(one.head.knows_by_description for one in self.members)

    def with_classes(self, descriptors: Tensor) -> Self:
        """A head that also knows classes of these (n, Da) raw descriptors; they come last."""
        grown = [one.with_head(one.head.with_classes(descriptors)) for one in self.members]
        return type(self)(grown)

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        return type(self)([one.with_head(one.head.chosen(classes)) for one in self.members])

    def sizes(self) -> dict[str, Any]:
        """Of the members, with their weights."""
        return {
            "members": [
                {
                    "refiner": describe(one.refiner),
                    "head": describe(one.head),
                    "weight": one.weight,
                }
                for one in self.members
            ]
        }

    @classmethod
    def empty(cls, members: Sequence[Mapping[str, Any]]) -> Self:
        """An ensemble of empty members."""
        return cls(
            [
                Member(
                    empty_part(REFINERS, one["refiner"]),
                    empty_part(HEADS, one["head"]),
                    one["weight"],
                )
                for one in members
            ]
        )

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dx) scaled features."""
        first, *others = self.members
        scores = first(h)
        for one in others:
            scores = scores + one(h)
        return scores


HEADS: dict[str, type[Head]] = {
    one.kind: one
    for one in (LinearHead, CosineHead, PairHead, RelationHead, GaussianHead, EnsembleHead)
}
