"""Batches of row indices: uniform, and P classes × K samples."""

import torch
from torch import Tensor


class ClassBalancedSampler:
    """Draws P×K batches: `classes` distinct classes, `samples` rows of each.

    A metric loss needs positive pairs in the batch: in uniform batches of a dataset with many small
    classes, most anchors have none.

    Rows of one class are distinct in a batch if the class has at least K; smaller classes repeat
    rows. The rows of a class form a ring in a fixed random order. It is divided, at a random
    offset, into K arcs of nearly equal length, and one row is drawn from each arc: a batch costs
    one random draw, and all rows are equally likely.

    Args:
        labels: (n,) int64 class of each row.
        classes: P; at most the number of classes is used.
        samples: K.
        rng: used once, to shuffle the rows of each class.
    """

    def __init__(self, labels: Tensor, classes: int, samples: int, rng: torch.Generator):
        shuffled = torch.randperm(len(labels), generator=rng, device=labels.device)
        self._rows = shuffled[torch.argsort(labels[shuffled], stable=True)]
        _, self._counts = torch.unique(labels, return_counts=True)
        self._starts = self._counts.cumsum(0) - self._counts
        self.classes: int = min(classes, len(self._counts))
        self.samples = samples
        self._cuts = torch.arange(samples + 1, device=labels.device)

    def draw(self, rng: torch.Generator) -> Tensor:
        """Return (P·K,) int64 row indices, the K rows of a class next to each other."""
        size = (len(self._counts), self.samples + 2)
        draws = torch.rand(size, generator=rng, device=self._rows.device, dtype=torch.float32)
        chosen = draws[:, 0].argsort()[: self.classes]
        draws = draws[chosen]  # (P, K + 2)
        count = self._counts[chosen][:, None]
        offset = (draws[:, 1:2] * count).long()
        cuts = self._cuts * count // self.samples
        within = (draws[:, 2:] * cuts.diff()).long()
        position = self._starts[chosen][:, None] + (offset + cuts[:, :-1] + within) % count
        return self._rows[position.flatten()]


def some_classes(classes: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Draw a fraction of `classes` (K,) without replacement, at least one: (share · K,)."""
    count = max(1, int(share * len(classes)))
    return classes[torch.randperm(len(classes), generator=rng, device=classes.device)[:count]]


def uniform_rows(rows: int, size: int, rng: torch.Generator) -> Tensor:
    """Draw `size` of `rows` row indices with replacement, (size,) int64."""
    return torch.randint(rows, (size,), generator=rng, device=rng.device)
