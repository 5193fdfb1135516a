"""A softmax of seen classes whose certainty is the gate to prototypes of unseen classes."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlis.model.heads.base import Head
from mlis.model.heads.domains import check_order, choose_of, gated
from mlis.model.heads.linear import LinearHead


class GatedHead(Head):
    """Seen where a softmax of the seen classes is certain, else the unseen class that is nearest.

    The refined feature is [o ; v]: with p the softmax of the seen classes on o,

        t = max_s p_s;   score = t + ε p_s (seen),   ε (1 + cos(v, w_u)) / 2 (unseen)

    so that a calibration constant γ means "seen where t > γ".

    Args:
        seen: softmax of S classes on o.
        prototypes: (U, Dv), w.
        order: C numbers, where each class is among seen classes followed by unseen ones.
    """

    kind = "gated"

    def __init__(self, seen: LinearHead, prototypes: Tensor, order: Sequence[int]):
        super().__init__()
        check_order(order, len(seen.bias) + len(prototypes))
        self.seen: LinearHead = seen
        self.prototypes: nn.Parameter = nn.Parameter(prototypes, requires_grad=False)
        self.order: list[int] = list(order)

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        of_seen, of_unseen, order = choose_of(self.order, classes, len(self.seen.bias))
        return type(self)(self.seen.chosen(of_seen), self.prototypes[of_unseen], order)

    def sizes(self) -> dict[str, Any]:
        """Of both parts, and the order."""
        return {
            "seen": list(self.seen.weight.shape),
            "unseen": list(self.prototypes.shape),
            "order": self.order,
        }

    @classmethod
    def empty(cls, seen: list[int], unseen: list[int], order: list[int]) -> Self:
        """A head of these sizes."""
        known = LinearHead.empty(seen[1], seen[0])
        return cls(known, torch.empty(*unseen, device="meta"), order)

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Do + Dv) refined features."""
        o, v = h.split((self.seen.weight.shape[1], self.prototypes.shape[1]), dim=1)
        p = self.seen(o).softmax(1)
        cosine = normalize(v, dim=1) @ normalize(self.prototypes, dim=1).T
        gate = p.amax(1, keepdim=True) if p.shape[1] else 0.0
        return gated(gate, p, 0.5 * (1 + cosine), self.order)
