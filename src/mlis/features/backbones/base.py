"""The interface of backbones: `prepare` (crop, resize) and the network; their specification."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mlis.compute.memory import is_shortage
from mlis.compute.precision import Precision, own_modes
from mlis.data.out_of_core.arrays import update_hash
from mlis.errors import OutOfMemoryError, SettingsError

DEFAULT = "efficientnet-lite2"
"""Its weights are installed as a package, without network access."""
CENTRE = ("centre",)
"""The views of a picture that a model sees by itself, and of features from before there were more;
see :mod:`mlis.features.backbones.views`."""
CPU_BATCH = 8
"""Images per batch on a CPU. Activations of larger batches exceed the memory that the allocator
reuses (32 MiB): EfficientNet-Lite2 at 260 px was a third slower with 32 images."""
_MAX_BATCH = 256
_MEMORY_FRACTION = 0.5


@dataclass(frozen=True)
class BackboneSpec:
    """Everything that determines the features of an image; identifies a backbone.

    Attributes:
        name: as given by the user.
        weights: SHA-256 of all tensors.
        preprocessing: steps from decoded pixels to the input of the model, JSON.
        pooling: which output is used, and how it is reduced to a vector.
        size: Dx, of all views.
        views: of each picture, whose features are joined.
        regions: R, number of regions of all views, whose features are joined; 1 where features are
            of the whole view.
    """

    name: str
    weights: str
    preprocessing: str
    pooling: str
    size: int
    views: tuple[str, ...] = CENTRE
    regions: int = 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything except the name, which may be a hub name or a folder."""
        parts = (self.weights, self.preprocessing, self.pooling, self.size)
        parts += () if self.views == CENTRE else self.views  # as before there were views
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __str__(self) -> str:
        return show_spec(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON values, including the fingerprint; `views` and `regions` where there are several."""
        values = asdict(self) | {"fingerprint": self.fingerprint, "views": list(self.views)}
        usual = {"views": list(CENTRE), "regions": 1}
        return {k: v for k, v in values.items() if k not in usual or v != usual[k]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BackboneSpec":
        """Inverse of `to_dict`. Raises `KeyError` for a missing value."""
        optional = {"views": views_of(values), "regions": int(values.get("regions", 1))}
        names = (name for name in cls.__dataclass_fields__ if name not in optional)
        return cls(**{name: values[name] for name in names}, **optional)


def views_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The views in `BackboneSpec.to_dict`."""
    return tuple(spec.get("views") or CENTRE)


def grid_of(spec: Mapping[str, Any]) -> int:
    """The grid that the views in `BackboneSpec.to_dict` are divided into; 1 where they are not."""
    return math.isqrt(int(spec.get("regions", 1)) // len(views_of(spec))) or 1


def show_spec(spec: Mapping[str, Any]) -> str:
    """Name, size, pooling, views and the start of the fingerprint, of `BackboneSpec.to_dict`."""
    views = "" if views_of(spec) == CENTRE else f"views {','.join(views_of(spec))}, "
    fingerprint = str(spec.get("fingerprint", ""))[:12]
    pooling = f"{spec.get('size')} numbers, {spec.get('pooling')}"
    return f"{spec.get('name')} ({pooling}, {views}{fingerprint})"


class Backbone(Protocol):
    """A pretrained image model; thread-safe.

    Attributes:
        identity: determines its features.
        precision: of its matrix products, "float32" or "bfloat16".
        on_cpu: whether it computes on a CPU, where several batches are computed side by side.
        batch: number of images to pass at once.
        enough: size of an image's shorter side in pixels above which the features do not change;
            None if there is no such size.
    """

    @property
    def identity(self) -> BackboneSpec: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def on_cpu(self) -> bool: ...  # noqa: D102

    @property
    def batch(self) -> int: ...  # noqa: D102

    @property
    def enough(self) -> int | None: ...  # noqa: D102

    def prepare(self, image: Image.Image) -> np.ndarray:
        """The model's input for one upright RGB image."""
        ...

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Features (B, Dx) float32 of B prepared images of equal shape."""
        ...


class PictureModel(Backbone, Protocol):
    """A backbone that sees one view of a picture, and can prepare another one.

    Attributes:
        crops: whether `prepare` crops a picture, so that the whole is another view.
    """

    @property
    def crops(self) -> bool: ...  # noqa: D102

    def prepare_whole(self, image: Image.Image) -> np.ndarray:
        """The model's input for a whole upright RGB image, squashed to the size of that input."""
        ...

    def regions(self, batch: Tensor, grid: int) -> Tensor:
        """(B, grid², D) float32 of B stacked prepared images: means over the cells of a grid.

        Row by row from the top left. Of what is the last map or layer of the model, before it is
        reduced to a vector.

        Raises:
            SettingsError: the model has no such map, or the map is smaller than the grid.
        """
        ...


class HasFeatures(Protocol):
    """A model that `run` and `choose_batch` can call."""

    def features(self, batch: Tensor) -> Tensor:
        """(B, Dx) of B stacked prepared images on the CPU."""
        ...


def run(model: HasFeatures, batch: Tensor) -> np.ndarray:
    """Features (B, Dx) float32; a batch that does not fit into memory is halved.

    Raises:
        OutOfMemoryError: a single image does not fit.
    """
    try:
        with own_modes(), torch.inference_mode():
            return model.features(batch).float().cpu().numpy()
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        if len(batch) == 1:
            raise OutOfMemoryError(
                "out of memory for the features of one image: use a smaller --backbone, such as "
                "efficientnet-lite0, or --device cpu"
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(batch) // 2
    return np.concatenate([run(model, batch[:half]), run(model, batch[half:])])


def choose_batch(model: HasFeatures, example: Tensor, device: torch.device) -> int:
    """Images per batch: on a GPU the largest power of two that needs half of its free memory.

    `example` is one prepared image (1, …), used for measuring.
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
        return 1  # `run` reports if this does not fit either
    per_image = max(1, (torch.cuda.max_memory_allocated(device) - before) // 4)
    fit = int(free * _MEMORY_FRACTION) // per_image
    return max(1, min(_MAX_BATCH, 1 << (fit.bit_length() - 1) if fit else 1))


def grid_means(maps: Tensor, grid: int) -> Tensor:
    """(B, grid², D) float32 means over the cells of a grid, of (B, D, h, w) maps.

    Cells are of equal size where `grid` divides h and w, so that the mean of all regions is that of
    the map; else they overlap by a row or column.

    Raises:
        SettingsError: the map is smaller than the grid.
    """
    height, width = maps.shape[2:]
    if grid > min(height, width):
        raise SettingsError(
            f"regions: expected a grid of at most {min(height, width)}, as the model's last map is "
            f"{height} × {width}, got {grid}. Choose a smaller one"
        )
    return adaptive_avg_pool2d(maps.float(), grid).flatten(2).transpose(1, 2)


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and values of a module's parameters and buffers."""
    hasher = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        update_hash(hasher, name, np.atleast_1d(value.detach().cpu().contiguous().numpy()))
    return hasher.hexdigest()


def precision_name(arithmetic: Precision) -> str:
    """`float32` or `bfloat16`."""
    return str(arithmetic.product).removeprefix("torch.")


def crop_long(image: Image.Image) -> Image.Image:
    """Crop an image to an aspect ratio of at most 2, for a following centre crop to a square."""
    (width, height), short = image.size, min(image.size)
    if max(width, height) <= 2 * short:
        return image
    left, top = max(0, width - 2 * short) // 2, max(0, height - 2 * short) // 2
    return image.crop((left, top, width - left, height - top))
