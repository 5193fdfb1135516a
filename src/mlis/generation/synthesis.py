"""Drawing synthetic features: one interface for every generator."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Sampler = Callable[[Tensor, torch.Generator], Tensor]
"""Maps labels (B,) int64 and a random stream to features (B, Dx) of those classes."""


class FeatureGenerator(Protocol):
    """A fitted stage 1a."""

    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors."""
        ...


@torch.no_grad()
def synthesise(
    sampler: Sampler, classes: Tensor, per_class: int, rng: torch.Generator, chunk: int = 8192
) -> tuple[Tensor, Tensor]:
    """Draw `per_class` ≥ 1 features of each of the `classes` (K ≥ 1,).

    Returns:
        features (K·per_class, Dx) and labels (K·per_class,), class by class.
    """
    labels = classes.repeat_interleave(per_class)
    return torch.cat([sampler(part, rng) for part in labels.split(chunk)]), labels
