"""Drawing synthetic features: one interface for every generator."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

Sampler = Callable[[Tensor, torch.Generator], Tensor]
"""Maps labels (B,) int64 and a random stream to features (B, Dx) of those classes."""


class FeatureGenerator(Protocol):
    """A trained feature generator."""

    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors."""
        ...


@torch.no_grad()
def synthesise(
    sampler: Sampler, classes: Tensor, per_class: int, rng: torch.Generator, chunk: int = 8192
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw `per_class` features of each of the `classes` (K,), class by class.

    Yields:
        features (B, Dx) and labels (B,), `chunk` rows at a time.
    """
    for labels in classes.repeat_interleave(per_class).split(chunk):
        if len(labels):
            yield sampler(labels, rng), labels
