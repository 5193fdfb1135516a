"""Training images that explanations compare with, in the coordinates of explanations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlis.data.out_of_core.stored import StoredRows
from mlis.errors import DataError
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.model.recognizer import Recognizer

# PyTorch's types are partial
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

COMPARED = 20_000
"""Most training images that explanations compare with, to bound memory."""
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Examples:
    """Training images to compare with.

    Attributes:
        features: (m, Dx) as the recognizer takes them.
        labels: (m,) int64 indices of the recognizer's classes.
        names: m paths, or what else names a row; empty: "row 0", "row 1", …
    """

    features: np.ndarray | StoredRows
    labels: np.ndarray
    names: Sequence[str] = ()

    def without(self, removed: int) -> "Examples | None":
        """Those of the other classes, where the recognizer's class of this index was removed.

        None where there are none.
        """
        kept = np.flatnonzero(self.labels != removed)
        if not len(kept):
            return None
        labels = self.labels[kept] - (self.labels[kept] > removed)
        names = [self.names[i] for i in kept.tolist()] if self.names else ()
        return Examples(self.features[kept], labels, names)


def coordinates(recognizer: Recognizer, scaled: Tensor) -> Tensor:
    """(B, k), what explanations are computed in, of (B, Dx) scaled features."""
    scaled = scaled.to(next(recognizer.head.parameters()).dtype)
    if (part := recognizer.gaussian_part()) is None:
        return recognizer.refiner(scaled)
    refiner, head = part
    return head.coordinates(refiner(scaled))


def _parts(
    recognizer: Recognizer, exemplars: ExemplarBuffer | Examples
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scaled features and labels, some rows at a time."""
    if isinstance(exemplars, ExemplarBuffer):
        yield from exemplars.scaled(recognizer.device)
        return
    for start in range(0, len(exemplars.features), _ROWS):
        x = np.array(exemplars.features[start : start + _ROWS], dtype=np.float32)
        if not (finite := np.isfinite(x).all(axis=1)).all():
            raise DataError(
                f"training images: row {start + int(finite.argmin())} contains NaN or infinity. "
                "Leave that row out."
            )
        labels = torch.from_numpy(np.asarray(exemplars.labels[start : start + _ROWS], np.int64))
        scaled = recognizer.preprocessing(torch.from_numpy(x).to(recognizer.device))
        yield scaled, labels.to(recognizer.device)


def embedded(recognizer: Recognizer, exemplars: ExemplarBuffer | Examples) -> tuple[Tensor, Tensor]:
    """Coordinates (m, k) and labels (m,)."""
    if isinstance(exemplars, Examples):
        shape = tuple(exemplars.features.shape)
        if len(shape) != 2 or shape[1] != recognizer.num_features or not shape[0]:
            raise DataError(
                f"training images: expected features of shape (m, {recognizer.num_features}), got "
                f"{shape}. Use features of the image model of the training."
            )
    parts = [(coordinates(recognizer, x), y) for x, y in _parts(recognizer, exemplars)]
    return torch.cat([h for h, _ in parts]), torch.cat([y for _, y in parts])
