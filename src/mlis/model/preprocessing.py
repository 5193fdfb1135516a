"""Features and descriptors as training sees them: scaled by training statistics only."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlis.compute.precision import Precision
from mlis.config import Preprocessing
from mlis.data.dataset import TrainingSplit
from mlis.data.out_of_core.stored import StoredRows
from mlis.data.out_of_core.streaming import CHUNK_ROWS, StreamedRows
from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)

_LEAST_SPREAD = 1e-37  # of which one over it is a float32 number


class FeatureScaler(nn.Module):
    """`x -> (transform(x) - shift) * factor`, fitted on training rows.

    Rows of several regions are averaged over them first, as a network's global average would.

    A feature that is constant in training has the factor 0, as nothing was learned from it: what it
    is elsewhere does not count. (Without scaling all factors are 1.)

    Args:
        transform: "none" or "sqrt".
        shift: (Dx,) minimum or mean of the transformed training features, or zeros.
        factor: (Dx,) one over their range or standard deviation, or ones.
        low, high: (Dx,) smallest and largest (averaged) training features before all that; None in
            models that an older mlis saved.
        regions: R, of a row; it has R · Dx numbers.
    """

    shift: Tensor
    factor: Tensor
    low: Tensor | None
    high: Tensor | None

    def __init__(
        self,
        transform: str,
        shift: Tensor,
        factor: Tensor,
        low: Tensor | None = None,
        high: Tensor | None = None,
        regions: int = 1,
    ):
        super().__init__()
        self.transform: str = transform
        self.regions: int = regions
        buffers = {"shift": shift, "factor": factor, "low": low, "high": high}
        for name, value in buffers.items():
            self.register_buffer(name, value)

    @classmethod
    def fit(
        cls, features: np.ndarray | StoredRows, settings: Preprocessing, regions: int = 1
    ) -> "FeatureScaler":
        """Take the statistics of `features` (n, R · Dx), training rows only, in chunks of rows.

        Raises:
            DataError: the square root is asked for and a feature is negative.
        """
        low, high = _column_range(features, regions)
        transform, bounds = settings.feature_transform, (low.copy(), high.copy())
        if transform == "auto":
            transform = "sqrt" if low.min() >= 0 else "none"
        if transform == "sqrt":
            if low.min() < 0:
                raise DataError(
                    "preprocessing.feature_transform='sqrt' needs features >= 0, but column "
                    f"{int(low.argmin())} has the value {low.min():.4g}: use 'none'"
                )
            low, high = np.sqrt(low), np.sqrt(high)
        shift, spread = low, high - low
        if settings.feature_scaling == "none":
            shift, spread = np.zeros_like(low), np.ones_like(low)
        elif settings.feature_scaling == "standard":
            shift, spread = _mean_and_deviation(features, transform, low, regions)
        varies = spread > _LEAST_SPREAD
        factor = np.where(varies, 1.0 / np.where(varies, spread, 1.0), 0.0)
        if not varies.all():
            logger.info("%d features are constant in training and ignored", (~varies).sum())
        parts = map(torch.from_numpy, (shift, factor, *bounds))
        return cls(transform, *parts, regions=regions)

    @classmethod
    def identity(cls, size: int) -> "FeatureScaler":
        """A scaler that leaves features of this length as they are."""
        return cls("none", torch.zeros(size), torch.ones(size))

    def sizes(self) -> dict[str, Any]:
        """JSON-compatible arguments of `empty`."""
        known = self.low is not None and self.high is not None
        sizes = {"transform": self.transform, "size": len(self.shift), "with_range": known}
        return sizes | ({"regions": self.regions} if self.regions > 1 else {})

    @classmethod
    def empty(
        cls, transform: str, size: int, with_range: bool, regions: int = 1
    ) -> "FeatureScaler":
        """A scaler whose tensors are on the meta device, to load a state into.

        Raises:
            ValueError: there is no such transform.
        """
        if transform not in ("none", "sqrt"):
            raise ValueError(f"transform: expected 'none' or 'sqrt', got {transform!r}")
        parts = [torch.empty(size, device="meta") for _ in range(4 if with_range else 2)]
        return cls(transform, *parts, regions=regions)

    @property
    def inputs(self) -> int:
        """R · Dx, the length of a row."""
        return self.regions * len(self.shift)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, Dx) mean of the regions of (B, R · Dx) features; themselves where R is 1."""
        return x if self.regions == 1 else x.unflatten(1, (self.regions, -1)).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, R · Dx) features; a new tensor (B, Dx) of the same dtype and device."""
        x = self.pooled(x)
        if self.transform == "sqrt":
            x = x.clamp(min=0).sqrt()
        return (x - self.shift.to(x)) * self.factor.to(x)

    @property
    def signed(self) -> bool:
        """Whether scaled training features are negative, beyond rounding."""
        if self.low is None:
            return False
        low = self(self.low.repeat(self.regions)[None])  # of which each is the mean
        return bool((low < -1e-6).any())


def _column_range(features: np.ndarray | StoredRows, regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum of each column, float64, reading some thousands of rows at a time."""
    low = np.full(features.shape[1] // regions, np.inf)
    high = np.full(features.shape[1] // regions, -np.inf)
    for block in _chunks(features, regions):
        np.minimum(low, block.min(axis=0), out=low)
        np.maximum(high, block.max(axis=0), out=high)
    return low, high


def _mean_and_deviation(
    features: np.ndarray | StoredRows, transform: str, low: np.ndarray, regions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each transformed column, float64; `low` is taken off first, so that nothing cancels."""
    total, squares = np.zeros_like(low), np.zeros_like(low)
    for block in _chunks(features, regions):
        rows = block.astype(np.float64)
        rows = (np.sqrt(rows) if transform == "sqrt" else rows) - low
        total += rows.sum(axis=0)
        squares += np.square(rows).sum(axis=0)
    mean = total / len(features)
    variance = np.maximum(squares / len(features) - np.square(mean), 0.0)
    return low + mean, np.sqrt(variance)


def _chunks(features: np.ndarray | StoredRows, regions: int) -> Iterator[np.ndarray]:
    """All rows by chunks, averaged over their regions."""
    size = max(1, CHUNK_ROWS // regions)
    if isinstance(features, StoredRows):
        blocks = (part.numpy() for part in StreamedRows(features, lambda x: x).split(size))
    else:
        blocks = (features[start : start + size] for start in range(0, len(features), size))
    for block in blocks:
        yield block if regions == 1 else block.reshape(len(block), regions, -1).mean(1)


@dataclass(frozen=True, eq=False)
class TrainingTensors:
    """A training split on the device, scaled: what the training loops read.

    Attributes:
        x: (n, Dx) scaled features of seen classes, master dtype; rows too many for memory stay
            in their file and are read by the batch.
        y: (n,) int64 labels into `descriptors`.
        descriptors: (C, Da) normalised descriptors of all classes, master dtype.
        seen, unseen: int64 class indices.
        signed: whether features may be negative; else synthetic ones must not be either.
    """

    x: Tensor | StreamedRows
    y: Tensor
    descriptors: Tensor
    seen: Tensor
    unseen: Tensor
    signed: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes, seen and unseen."""
        return len(self.descriptors)


def normalise_descriptors(descriptors: Tensor, settings: Preprocessing) -> Tensor:
    """Bring each of the (C, Da) descriptors to unit length where the settings say so."""
    if settings.descriptor_norm == "none":
        return descriptors
    return torch.nn.functional.normalize(descriptors, dim=1)


def prepare(
    training: TrainingSplit, settings: Preprocessing, precision: Precision, *, pool: bool = True
) -> tuple[FeatureScaler, TrainingTensors]:
    """Fit the scaler on the training rows and put the split on the device.

    Args:
        training: the split.
        settings: of scaler and descriptors.
        precision: device and dtype.
        pool: average rows of several regions over them; else `x` has the columns of all regions.
    """
    scaler = FeatureScaler.fit(training.features, settings, training.regions if pool else 1)
    seen = torch.from_numpy(np.ascontiguousarray(training.seen_mask))
    device = precision.device
    tensors = TrainingTensors(
        x=_on_device(training.features, scaler, precision),
        y=torch.from_numpy(np.ascontiguousarray(training.labels)).to(device),
        descriptors=normalise_descriptors(precision.tensor(training.descriptors), settings),
        seen=torch.nonzero(seen).flatten().to(device),
        unseen=torch.nonzero(~seen).flatten().to(device),
        signed=scaler.signed,
    )
    return scaler, tensors


def _on_device(
    features: np.ndarray | StoredRows, scaler: FeatureScaler, precision: Precision
) -> Tensor | StreamedRows:
    """Scaled features, whole where they fit; rows of a file stay there, or on a GPU with room."""
    if not isinstance(features, StoredRows):
        return scaler(precision.tensor(features))
    width = len(scaler.shift)
    streamed = StreamedRows(features, scaler, precision.master, precision.device, width)
    if not fits_device(streamed.shape, precision):
        return streamed
    x = torch.empty(streamed.shape, dtype=precision.master, device=precision.device)
    for start, part in enumerate(streamed.split(CHUNK_ROWS)):
        x[start * CHUNK_ROWS :][: len(part)] = part
    return x


def fits_device(shape: Sequence[int], precision: Precision) -> bool:
    """Whether a GPU has four times the memory free that (n, Dx) features take; never on a CPU.

    Stage 2 holds the refined features beside them, and a second time while they are put together.
    """
    if precision.device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(precision.device)
    return 4 * shape[0] * shape[1] * precision.master.itemsize <= free
