"""Scores of two domains, seen and unseen classes, with a gate between them."""

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-3  # of what ranks the classes of a domain, beside the gate


def gated(gate: Tensor | float, seen: Tensor, unseen: Tensor, order: Sequence[int]) -> Tensor:
    """Scores (B, C): `gate + ε seen` and `ε unseen`, so that a constant γ is a threshold of gates.

    Args:
        gate: (B, 1), large where an image looks like one of a seen class.
        seen, unseen: (B, S) and (B, U) from 0 to 1, ranks within each domain.
        order: C numbers, where each class is among seen classes followed by unseen ones.
    """
    return torch.cat((gate + EPSILON * seen, EPSILON * unseen), dim=1)[:, order]


def check_order(order: Sequence[int], classes: int) -> None:
    """Raise `ValueError` unless it is a permutation of the classes."""
    if sorted(order) != list(range(classes)):
        raise ValueError(f"order: expected a permutation of all classes, got {order}")


def choose_of(order: Sequence[int], classes: Tensor, seen: int) -> tuple[Tensor, Tensor, list[int]]:
    """For some classes (K,): which of the S seen, which of the unseen, and their order."""
    places = [order[i] for i in classes.tolist()]
    of_seen, of_unseen = (
        torch.tensor([p for p in places if (p < seen) == known], dtype=torch.int64)
        for known in (True, False)
    )
    counts = iter(range(len(of_seen))), iter(range(len(of_seen), len(places)))
    new = [next(counts[p >= seen]) for p in places]
    return of_seen.to(classes.device), of_unseen.to(classes.device) - seen, new
