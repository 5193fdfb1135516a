"""Batches of row indices: uniform, and P classes × K samples."""

import torch
from torch import Tensor


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
        rng: shuffles the rows of each class once.
    """

    def __init__(self, labels: Tensor, classes: int, samples: int, rng: torch.Generator):
        shuffled = torch.randperm(len(labels), generator=rng, device=labels.device)
        order = shuffled[torch.argsort(labels[shuffled], stable=True)]
        self._rows = order
        _, self._counts = torch.unique(labels, return_counts=True)
        self._starts = self._counts.cumsum(0) - self._counts
        self.classes = min(classes, len(self._counts))
        self.samples = samples
        self._cuts = torch.arange(samples + 1, device=labels.device)

    def draw(self, rng: torch.Generator) -> Tensor:
        """Return (P·K,) int64 row indices, the K rows of a class next to each other."""
        draws = torch.rand(
            (len(self._counts), self.samples + 2), generator=rng, device=self._rows.device
        )
        chosen = draws[:, 0].argsort()[: self.classes]
        count = self._counts[chosen, None]
        offset = (draws[chosen, 1, None] * count).long()
        cuts = self._cuts * count // self.samples
        within = (draws[chosen, 2:] * cuts.diff()).long()
        position = (offset + cuts[:, :-1] + within) % count
        return self._rows[self._starts[chosen, None] + position].flatten()


def uniform_rows(rows: int, size: int, rng: torch.Generator) -> Tensor:
    """Draw `size` of `rows` row indices with replacement, int64."""
    return torch.randint(rows, (size,), generator=rng, device=rng.device)
