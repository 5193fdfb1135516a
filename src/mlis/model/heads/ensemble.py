"""Several heads, each on its own refiner, whose scores are added."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

from torch import Tensor, nn

from mlis.model.heads.base import Head
from mlis.model.heads.single import SINGLE_HEADS
from mlis.model.parts import describe, empty_part
from mlis.model.refiners import REFINERS, Refiner


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

    def with_images(self, h: Tensor, labels: Tensor) -> Self:
        """A head that has also learnt from these (n, Dx) scaled features of its classes (n,)."""
        grown = [
            one.with_head(one.head.with_images(one.refiner(h), labels)) for one in self.members
        ]
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
                    empty_part(SINGLE_HEADS, one["head"]),
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
