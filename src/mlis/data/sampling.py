"""Batches of row indices: uniform, and P classes × K samples."""

import torch
from torch import Tensor

from mlis.stacking import Rng, drawn, place_of


class ClassBalancedSampler:
    """Draws P×K batches: `classes` distinct classes, `samples` rows of each.

    A metric loss needs positives in the batch: with uniform batches on a data set of many small
    classes most anchors have none.

    Rows of one class are distinct in a batch as long as the class has K of them; smaller classes
    repeat rows. A class's rows are kept in a fixed random order on a ring that is cut between rows
    into K arcs as equal as can be, at a random offset, one row from each arc, so that a batch costs
    one random draw and every row is equally likely.

    Args:
        labels: (n,) int64 class of each row.
        classes: P; at most the number of classes is used.
        samples: K.
        rng: shuffles the rows of each class once; several, for as many batches in one call.
    """

    def __init__(self, labels: Tensor, classes: int, samples: int, rng: Rng):
        def shuffle(one: torch.Generator) -> Tensor:
            return torch.randperm(len(labels), generator=one, device=labels.device)

        shuffled = drawn(rng, shuffle)
        by_class = torch.argsort(labels[shuffled], dim=-1, stable=True)
        self._rows = torch.take_along_dim(shuffled, by_class, dim=-1)
        _, self._counts = torch.unique(labels, return_counts=True)
        self._starts = self._counts.cumsum(0) - self._counts
        self.classes: int = min(classes, len(self._counts))
        self.samples = samples
        self._cuts = torch.arange(samples + 1, device=labels.device)

    def draw(self, rng: Rng) -> Tensor:
        """Return (…, P·K) int64 row indices, the K rows of a class next to each other."""
        size = (len(self._counts), self.samples + 2)
        device = self._rows.device
        draws = drawn(rng, lambda one: torch.rand(size, generator=one, device=device))
        chosen = draws[..., 0].argsort()[..., : self.classes, None]
        draws = torch.take_along_dim(draws, chosen, dim=-2)  # (…, P, K + 2)
        count = self._counts[chosen]
        offset = (draws[..., 1:2] * count).long()
        cuts = self._cuts * count // self.samples
        within = (draws[..., 2:] * cuts.diff()).long()
        position = self._starts[chosen] + (offset + cuts[..., :-1] + within) % count
        return torch.take_along_dim(self._rows, position.flatten(-2), dim=-1)


def some_classes(classes: Tensor, share: float, rng: Rng) -> Tensor:
    """Draw a share of the `classes` (K,), at least one of them and none twice: (…, share · K)."""
    count, device = max(1, int(share * len(classes))), classes.device

    def draw(one: torch.Generator) -> Tensor:
        return classes[torch.randperm(len(classes), generator=one, device=device)[:count]]

    return drawn(rng, draw)


def uniform_rows(rows: int, size: int, rng: Rng) -> Tensor:
    """Draw `size` of `rows` row indices with replacement, (…, size) int64."""
    device = place_of(rng)
    return drawn(rng, lambda one: torch.randint(rows, (size,), generator=one, device=device))
