"""Any vision or image-text model of `transformers`, with its own preprocessing.

The features are:

- for image-text models (CLIP, SigLIP), the image embedding in the space shared with texts;
- for models with a pooled output, that output: for ResNet-101 the global average of the last stage
  (2048 numbers), for DINOv2 and DINOv3 the class token after the last normalisation;
- for models without trained weights of the pooling layer, the class token (vectors) or the global
  average (maps) of the last hidden state.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.errors import SettingsError
from mlis.features import decode
from mlis.features.backbones.base import (
    DEFAULT,
    BackboneSpec,
    choose_batch,
    crop_long,
    grid_means,
    precision_name,
    run,
    weights_hash,
)
from mlis.features.backbones.hub import loading, on_this_machine
from mlis.features.decode import ImageError

_EMBEDDING = "image embedding of an image-text model"
_POOLED = "pooled output"
_TOKEN = "class token of the last hidden state"
_AVERAGE = "global average of the last hidden state"
_MAX_ASPECT = 50  # ratio of the sides, for preprocessing without a crop


class VisionModel:
    """A :class:`~mlis.features.backbones.base.PictureModel`.

    Args:
        name: on the hub, or a local folder.
        precision: device and precision; weights remain float32, products use autocast.
        download: whether it may be downloaded from the hub.

    Raises:
        SettingsError: it cannot be loaded, is not a vision model, or needs an extra.
    """

    def __init__(self, name: str, precision: Precision, *, download: bool = True):
        with loading(name, "backbone", "images", DEFAULT):
            source = name if download else on_this_machine(name, "backbone")
            self._net, untrained = _load_model(source)
            self._processor = _load_processor(source)
        self._device, self._dtype = precision.device, precision.product
        self.on_cpu: bool = self._device.type == "cpu"
        self.precision: str = precision_name(precision)
        self._settings = _settings(self._processor)
        self.enough: int | None = _enough(self._settings)
        self.crops: bool = _crops(self._settings)
        # hashed before the memory layout changes
        weights = weights_hash(self._net)
        self._net.to(self._device, memory_format=torch.channels_last)
        example = torch.from_numpy(self.prepare(Image.new("RGB", (64, 48)))[None])
        self._input = example.shape[-2:]
        self._pooling = _EMBEDDING if hasattr(self._net, "get_image_features") else _POOLED
        if self._pooling == _POOLED:
            self._pooling = self._choose_pooling(example, untrained)
        with torch.inference_mode():
            size = self.features(example).shape[1]
        self.identity: BackboneSpec = BackboneSpec(
            name, weights, json.dumps(self._settings, sort_keys=True), self._pooling, size
        )
        self.batch: int = choose_batch(self, example, self._device)

    def _choose_pooling(self, example: Tensor, untrained: Sequence[str]) -> str:
        others = [key for key in untrained if "pool" not in key]
        if others:
            raise SettingsError(
                f"backbone: the weights of {', '.join(others[:3])} are missing from the model's "
                "file and would be random. Give a model that contains them"
            )
        with torch.inference_mode():
            output = self._output(example)
        if getattr(output, "pooler_output", None) is not None and not untrained:
            return _POOLED
        return _AVERAGE if output.last_hidden_state.ndim == 4 else _TOKEN

    def prepare(self, image: Image.Image) -> np.ndarray:
        """(3, P, P) float32, or the output of the model's processor."""
        return self._processed(self._bounded(image))

    def prepare_whole(self, image: Image.Image) -> np.ndarray:
        """(3, P, P) float32: the whole image resized to P × P pixels; only if `crops`."""
        height, width = self._input
        resample = Image.Resampling(self._settings.get("resample", Image.Resampling.BICUBIC))
        squashed = image.resize((width, height), resample)
        return self._processed(squashed, do_resize=False, do_center_crop=False)

    def _processed(self, image: Image.Image, **changes: bool) -> np.ndarray:
        given = self._processor(
            images=image, return_tensors="np", input_data_format="channels_last", **changes
        )
        return np.ascontiguousarray(given["pixel_values"][0], dtype=np.float32)

    def _bounded(self, image: Image.Image) -> Image.Image:
        """Crop or reject very long images, which would be resized to very large ones."""
        if "shortest_edge" not in (self._settings.get("size") or {}):
            return image
        if self._settings.get("do_center_crop") or "crop_pct" in self._settings:
            return crop_long(image)
        (width, height), short = image.size, min(image.size)
        if max(width, height) > _MAX_ASPECT * short:
            raise ImageError(f"{width} × {height} pixels: too long for this model's preprocessing")
        return image

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """(B, Dx) float32 of B prepared images of equal shape."""
        return run(self, torch.from_numpy(np.stack(inputs)))

    def features(self, batch: Tensor) -> Tensor:
        """(B, Dx) of (B, 3, P, P) float32."""
        output = self._output(batch)
        if self._pooling in (_EMBEDDING, _POOLED):
            pooled = getattr(output, "pooler_output", output)
            return pooled.flatten(1)
        hidden = output.last_hidden_state
        return hidden.mean((2, 3)) if self._pooling == _AVERAGE else hidden[:, 0]

    def regions(self, batch: Tensor, grid: int) -> Tensor:
        """(B, grid², D) of (B, 3, P, P) float32, from the last hidden state.

        Of image-text models that is before the projection into the space shared with texts.
        """
        hidden = self._output(batch, tower=True).last_hidden_state
        if hidden.ndim == 3:
            hidden = self._patches(hidden, batch.shape[-2:])
        return grid_means(hidden, grid)

    def _patches(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """(B, D, h, w) patch tokens of (B, T, D), without class and register tokens before them."""
        config = getattr(self._net.config, "vision_config", self._net.config)
        patch, count = getattr(config, "patch_size", 0), tokens.shape[1]
        height, width = (
            (side // patch for side in size) if isinstance(patch, int) and patch else (0, 0)
        )
        if not 0 < height * width <= count:  # patches are merged from layer to layer
            height = width = math.isqrt(count)
            if height * width != count:
                raise SettingsError(
                    f"regions: expected a model whose last hidden state is a map or one token for "
                    f"each patch, got {count} tokens. Choose another model"
                )
        return tokens[:, count - height * width :].transpose(1, 2).unflatten(2, (height, width))

    def _output(self, batch: Tensor, *, tower: bool = False) -> Any:
        pixels = batch.to(self._device)
        if pixels.ndim == 4:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        cast = self._dtype != torch.float32
        with torch.autocast(self._device.type, self._dtype if cast else None, enabled=cast):
            if hasattr(self._net, "get_image_features"):
                if tower:
                    return self._net.vision_model(pixel_values=pixels)
                return self._net.get_image_features(pixel_values=pixels)
            return self._net(pixel_values=pixels)


def _load_model(name: str) -> tuple[Any, list[str]]:
    """The model, and the names of the weights missing from its files."""
    from transformers import AutoModel

    net, info = AutoModel.from_pretrained(
        name,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=False,
    )
    main = getattr(net, "main_input_name", "")
    if main != "pixel_values" and not hasattr(net, "get_image_features"):
        raise SettingsError(
            f"backbone {name!r}: expected a vision model, got one that takes {main}"
        )
    if hasattr(net, "get_image_features") and hasattr(net, "text_model"):
        net.text_model = None  # not needed for images
    return net.eval().requires_grad_(False), sorted(info["missing_keys"])


def _load_processor(name: str) -> Any:
    """The model's image processor, based on Pillow instead of torchvision."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    except (ImportError, ValueError) as error:
        # that of DINOv3 exists only for torchvision; it is equivalent to that of ViT
        from transformers import ViTImageProcessorPil
        from transformers.image_processing_base import ImageProcessingMixin

        settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
        if "DINOv3" not in str(settings.get("image_processor_type")):
            raise SettingsError(f"backbone {name!r}: its preprocessing needs {error}") from error
        return ViTImageProcessorPil.from_dict(settings)


def _settings(processor: Any) -> dict[str, Any]:
    """The settings of the processor, as JSON values."""
    values = {
        key: value
        for key, value in processor.to_dict().items()
        if key in _SETTINGS or key.startswith(("do_", "crop", "image_"))
    }
    values |= {"decode": decode.VERSION, "processor": type(processor).__name__}
    return json.loads(json.dumps(values, default=str))


_SETTINGS = ("size", "resample", "rescale_factor", "offset", "pad_size", "patch_size")


def _crops(settings: dict[str, Any]) -> bool:
    """Whether the processor crops; those with `crop_pct` do so below 384 pixels, else they warp."""
    if "crop_pct" in settings:
        return bool(settings.get("do_resize")) and settings["size"]["shortest_edge"] < 384
    return bool(settings.get("do_center_crop"))


def _enough(settings: dict[str, Any]) -> int | None:
    """Twice the largest side that the processor resizes to."""
    size = settings.get("size")
    sides = list(size.values()) if isinstance(size, dict) else [size]
    numbers = [side for side in sides if isinstance(side, int)]
    if not settings.get("do_resize") or len(numbers) < len(sides):
        return None
    return 2 * max(numbers)
