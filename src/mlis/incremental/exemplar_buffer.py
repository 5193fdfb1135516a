"""State needed to add classes later: the generator and an 8-bit exemplar buffer.

The buffer holds some scaled features of every seen class, quantised to eight bits. The generator
makes features of a new class from its descriptor, the encoder refines both, and stage 2 alone is
solved again, starting from the present weights. Generator and encoder stay as they were trained.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlis.compute.random import stream
from mlis.config import Config
from mlis.data.out_of_core.streaming import CHUNK_ROWS
from mlis.errors import ModelFileError
from mlis.generators.base import FeatureGenerator
from mlis.generators.ridge import RidgeGenerator
from mlis.generators.wgan_gp.trainer import WGANGenerator
from mlis.incremental.stored_generator import pack
from mlis.model.preprocessing import TrainingTensors
from mlis.storage.atomic import strict_json

logger: logging.Logger = logging.getLogger(__name__)

PER_CLASS = 256
"""Most images kept per class."""
IN_ALL = 65_536
"""Most images kept in total, where that leaves `LEAST` per class."""
LEAST = 8
_OWN = ("rows", "low", "step", "labels", "sample_weight")
_PREVIOUS = ("previous_head.weight", "previous_head.bias")
_RENAMED = {  # since mlis 0.1.0
    "weights": "sample_weight",
    "before.weight": "previous_head.weight",
    "before.bias": "previous_head.bias",
}


@dataclass(frozen=True, eq=False)
class ExemplarBuffer:
    """What adding classes needs besides the recognizer. All tensors are on the CPU.

    Attributes:
        rows: (m, Dx) uint8; a scaled feature is `low + step * row`, at most half a step off.
        low, step: (Dx,) float32.
        labels: (m,) int64, the recognizer's classes: seen ones, and those that were given
            images later.
        sample_weight: (m,) float32, number of training images that a row represents.
        generator: the trained generator's tensors by name, networks in float16.
        config: settings of the training.
        seed: of the training.
        unseen: number of unseen classes in training.
        signed: whether scaled features may be negative.
        previous_head: weight (C, Dh) and bias (C,) of the head before the latest addition; removing
            the added classes again restores it. None where nothing was added.
    """

    rows: Tensor
    low: Tensor
    step: Tensor
    labels: Tensor
    sample_weight: Tensor
    generator: Mapping[str, Tensor]
    config: Config
    seed: int
    unseen: int = 0
    signed: bool = False
    previous_head: tuple[Tensor, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Size in memory, and within some hundred bytes in its file."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        own = {name: getattr(self, name) for name in _OWN}
        if self.previous_head is not None:
            own |= dict(zip(_PREVIOUS, self.previous_head, strict=True))
        return own | {f"generator.{name}": value for name, value in self.generator.items()}

    def metadata(self) -> str:
        """Everything that is not a tensor, as JSON."""
        values = {name: getattr(self, name) for name in ("seed", "unseen", "signed")}
        return json.dumps({"config": self.config.to_dict(), **values}, sort_keys=True)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], metadata: str, unseen: int = 0) -> "ExemplarBuffer":
        """Build a buffer from what `tensors` and `metadata` gave.

        Args:
            tensors, metadata: of the buffer.
            unseen: the number of unseen classes, for buffers of format 1, which do not record it.

        Raises:
            ModelFileError: something is missing.
        """
        try:
            values = strict_json(metadata)
            prefix = "generator."
            generator = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            tensors = {_RENAMED.get(name, name): value for name, value in tensors.items()}
            previous = tuple(tensors[name] for name in _PREVIOUS if name in tensors)
            return cls(
                **{name: tensors[name] for name in _OWN},
                generator=generator,
                config=Config.from_dict(values["config"]),
                seed=int(values["seed"]),
                unseen=int(values.get("unseen", unseen)),
                signed=bool(values.get("signed")),
                previous_head=(previous[0], previous[1]) if previous else None,
            )
        except (ValueError, LookupError, TypeError) as error:
            raise ModelFileError(f"the exemplar buffer is damaged: {error!r}") from None

    def with_images(self, x: Tensor, labels: Tensor) -> "ExemplarBuffer":
        """Keep these scaled features (n, Dx) of classes (n,) too, each as one training image.

        Where they leave the range of the rows, the range grows, and kept rows are rounded again.
        """
        x = x.float().cpu()
        ends = self.low, self.low + 255 * self.step
        low, high = torch.minimum(ends[0], x.amin(0)), torch.maximum(ends[1], x.amax(0))
        wider = (low < ends[0]) | (high > ends[1])
        step = torch.where(wider, (high - low) / 255, self.step)
        rows = self.rows.clone()
        kept = rows[:, wider] * self.step[wider] + ends[0][wider]
        rows[:, wider] = _quantised(kept, low[wider], step[wider])
        return dataclasses.replace(
            self,
            rows=torch.cat([rows, _quantised(x, low, step)]),
            low=low,
            step=step,
            labels=torch.cat([self.labels, labels.cpu()]),
            sample_weight=torch.cat([self.sample_weight, torch.ones(len(x))]),
            previous_head=None,
        )

    def scaled(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Scaled features (B, Dx) and labels (B,) of all rows, part by part."""
        step, low = self.step.to(device), self.low.to(device)
        for rows, labels in zip(
            self.rows.split(CHUNK_ROWS), self.labels.split(CHUNK_ROWS), strict=True
        ):
            yield rows.to(device, torch.float32).mul_(step).add_(low), labels.to(device)

    def chosen(self, classes: np.ndarray) -> "ExemplarBuffer | None":
        """Keep the rows of these classes (K,), which become 0 to K-1; None without any row.

        The generator is left as it was trained.
        """
        place = self.labels.new_full((int(max(classes.max(), self.labels.max())) + 1,), -1)
        place[torch.from_numpy(classes)] = torch.arange(len(classes), device=place.device)
        labels = place[self.labels]
        kept = labels >= 0
        if not bool(kept.any()):
            return None
        return dataclasses.replace(
            self,
            rows=self.rows[kept],
            labels=labels[kept],
            sample_weight=self.sample_weight[kept],
            previous_head=None,
        )


def keep_exemplars(
    data: TrainingTensors, generator: FeatureGenerator | None, config: Config, seed: int
) -> ExemplarBuffer | None:
    """The exemplar buffer of a training; None where no generator was trained that can be kept.

    Of each class all images are kept, or `PER_CLASS` drawn at random.
    """
    if generator is None:
        return None
    if not isinstance(generator, RidgeGenerator | WGANGenerator):
        logger.warning(
            "no exemplar buffer: expected a generator of mlis, got %s. No class can be added to "
            "this model later.",
            type(generator).__name__,
        )
        return None
    chosen, sample_weight = _choose(data.y.cpu(), data.num_classes, len(data.seen), seed)
    low = torch.full((data.x.shape[1],), torch.inf, dtype=torch.float32, device="cpu")
    high = -low
    for part in chosen.split(CHUNK_ROWS):
        x = data.x[part.to(data.y.device)].float().cpu()
        low, high = torch.minimum(low, x.amin(0)), torch.maximum(high, x.amax(0))
    step = (high - low) / 255
    rows = torch.empty((len(chosen), len(low)), dtype=torch.uint8, device="cpu")
    for target, part in zip(rows.split(CHUNK_ROWS), chosen.split(CHUNK_ROWS), strict=True):
        x = data.x[part.to(data.y.device)].float().cpu()
        target.copy_(_quantised(x, low, step))
    return ExemplarBuffer(
        rows=rows,
        low=low,
        step=step,
        labels=data.y.cpu()[chosen],
        sample_weight=sample_weight,
        generator=pack(generator),
        config=_with_kernel_of(generator, config),
        seed=seed,
        unseen=len(data.unseen),
        signed=data.signed,
    )


def _quantised(x: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """(B, Dx) uint8 of (B, Dx) scaled features."""
    divisor = torch.where(step > 0, step, 1.0)
    return ((x - low) / divisor).round_().clamp_(0, 255).to(torch.uint8)


def _choose(y: Tensor, num_classes: int, num_seen: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to keep, in their order, and how many training rows each one represents."""
    most = min(PER_CLASS, max(LEAST, IN_ALL // max(num_seen, 1)))
    mixed = torch.randperm(len(y), generator=stream(seed, "exemplars"), device="cpu")
    order = mixed[torch.argsort(y[mixed], stable=True)]
    counts = torch.bincount(y, minlength=num_classes)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(y), device="cpu") - starts[y[order]]
    chosen = order[rank < most].sort().values
    sample_weight = counts.float() / counts.clamp(min=1, max=most)
    return chosen, sample_weight[y[chosen]].float()


def _with_kernel_of(generator: RidgeGenerator | WGANGenerator, config: Config) -> Config:
    """The settings with the kernel that was chosen, where it was left open."""
    if generator.predictor is None:
        return config
    return config.replace({"generation": {"ridge_kernel": generator.predictor.kernel}})
