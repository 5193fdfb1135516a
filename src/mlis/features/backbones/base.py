"""Pretrained image models behind one small interface: RGB images in, one vector each out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mlis.compute.memory import is_shortage
from mlis.compute.precision import Precision, own_modes
from mlis.data.out_of_core.arrays import update_hash
from mlis.errors import OutOfMemoryError, SettingsError

DEFAULT = "efficientnet-lite2"
"""Its weights come as a package: no network is needed."""
BENCHMARK = "microsoft/resnet-101"
"""The CNN of the paper and of the published benchmarks: 2048 numbers, global average pool."""
CPU_BATCH = 8
"""Images a batch on a CPU. Larger batches are slower: their activations no longer fit what the
memory allocator keeps (32 MiB), so that every layer gets fresh pages from the system (measured:
EfficientNet-Lite2 at 260 px lost a third of its rate from 8 to 32 images)."""
_MOST = 256
_SHARE = 0.5


@dataclass(frozen=True)
class Identity:
    """What decides the features of an image, so that those of another model can be refused.

    Attributes:
        name: as the user named it.
        weights: SHA-256 over all tensors that are used.
        preprocessing: from the file's pixels to the model's input, JSON.
        pooling: which output is taken, and how it becomes one vector.
        size: Dx.
    """

    name: str
    weights: str
    preprocessing: str
    pooling: str
    size: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all but the name: a model is the same wherever it was read from."""
        parts = (self.weights, self.preprocessing, self.pooling, self.size)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.name} ({self.size} numbers, {self.pooling}, {self.fingerprint[:12]})"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"fingerprint": self.fingerprint}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Identity":
        """Read back what `to_dict` gave. Raises `KeyError` where something is missing."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


class Backbone(Protocol):
    """A pretrained image model; it may be called from several threads at once.

    Attributes:
        identity: what decides its features.
        precision: of its matrix products, "float32" or "bfloat16".
        on_cpu: whether it computes on processors, several batches at once, not on a GPU.
        batch: images to hand it at once.
        enough: pixels of an image's shorter side beyond which it sees no difference; None: all.
    """

    @property
    def identity(self) -> Identity: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def on_cpu(self) -> bool: ...  # noqa: D102

    @property
    def batch(self) -> int: ...  # noqa: D102

    @property
    def enough(self) -> int | None: ...  # noqa: D102

    def prepare(self, image: Image.Image) -> np.ndarray:
        """The model's input for one upright RGB image; safe to call from several threads."""
        ...

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Features (B, Dx) float32 of B prepared images of one shape."""
        ...


def load_backbone(
    name: str = DEFAULT, *, device: str = "auto", precision: str = "auto", download: bool = True
) -> Backbone:
    """Load a pretrained image model.

    Args:
        name: `efficientnet-lite0`, `-lite1` or `-lite2` (packaged weights, no network); or any
            vision or image-text model of `transformers`, by the name it has on the hub or as a
            local folder.
        device: auto, cpu or cuda.
        precision: auto (bfloat16 where that is faster, else float32), float32 or bfloat16.
        download: whether a model that is not on this machine is fetched from the hub. False where
            the name comes from a file and not from the user.

    Raises:
        SettingsError: no such model, an extra is not installed, or no such device.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise SettingsError(f"precision must be auto, float32 or bfloat16, but got {precision!r}")
    chosen = Precision.of(precision, device)
    if name.startswith("efficientnet-lite"):
        from mlis.features.backbones.efficientnet import EfficientNetLite

        return EfficientNetLite(name, chosen)
    from mlis.features.backbones.transformers_model import VisionModel

    return VisionModel(name, chosen, download=download)


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and numbers of a module's parameters and buffers."""
    hasher = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        update_hash(hasher, name, np.atleast_1d(value.detach().cpu().contiguous().numpy()))
    return hasher.hexdigest()


def precision_name(precision: Precision) -> str:
    """`float32` or `bfloat16`."""
    return str(precision.product).removeprefix("torch.")


def run(model: "SupportsBatch", batch: Tensor) -> np.ndarray:
    """Features (B, Dx) float32; a batch that does not fit the memory is halved.

    Raises:
        OutOfMemoryError: not even one image fits.
    """
    try:
        with own_modes(), torch.inference_mode():
            return model.features(batch).float().cpu().numpy()
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        if len(batch) == 1:
            raise OutOfMemoryError(
                "memory does not suffice for the features of one image: use a smaller --backbone, "
                "such as efficientnet-lite0, or --device cpu"
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(batch) // 2
    return np.concatenate([run(model, batch[:half]), run(model, batch[half:])])


class SupportsBatch(Protocol):
    """What `run` and `choose_batch` need of a model."""

    def features(self, batch: Tensor) -> Tensor:
        """(B, Dx) of what `prepare` gave, stacked, on the CPU."""
        ...


def choose_batch(model: SupportsBatch, example: Tensor, device: torch.device) -> int:
    """Images a batch: on a GPU as many as half of its free memory holds, up to 256.

    `example` is one prepared image, (1, …), to measure with.
    """
    if device.type != "cuda":
        return CPU_BATCH
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        with torch.inference_mode():
            model.features(example.expand(4, *example.shape[1:]))
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        return 1  # of which `run` says what to do, if it does not fit either
    an_image = max(1, (torch.cuda.max_memory_allocated(device) - before) // 4)
    fit = int(free * _SHARE) // an_image
    return max(1, min(_MOST, 1 << (fit.bit_length() - 1) if fit else 1))
