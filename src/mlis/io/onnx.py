"""A recognizer as an ONNX file, for use without Python or PyTorch (extra `onnx`).

PyTorch's exporter writes the graph, of any composition. It takes a batch of any size, and the file
is compared with PyTorch before it is kept.
"""

import copy
import importlib
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import mlis
from mlis.compute.precision import own_modes
from mlis.errors import DataError, ModelFileError, SettingsError
from mlis.image_classifier import ImageClassifier, recorded_backbone
from mlis.model.recognizer import Recognizer
from mlis.storage.atomic import atomic_write

if TYPE_CHECKING:
    from mlis.features.backbones.base import Backbone
    from mlis.features.backbones.efficientnet import EfficientNetLite
    from mlis.features.backbones.views import Views

OPSET = 18
TOLERANCE = 1e-4
_ROWS = (1, 5)  # batches that are compared


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file.
        size: bytes.
        difference: the largest between its scores and PyTorch's, over the largest score there.
    """

    path: Path
    size: int
    difference: float


@own_modes()
def export_onnx(
    recognizer: Recognizer,
    path: str | Path,
    *,
    images: bool = False,
    backbone: "Backbone | str | None" = None,
) -> Exported:
    """Write a recognizer as ONNX, compared with PyTorch before the file appears.

    The input is `features` (N, Dx) float32, or with `images` `pixels` (N, P, P, 3) uint8: RGB,
    upright, the shorter side resized to P / 0.875 (bicubic), the middle P × P; normalisation is in
    the graph. With several views of each image `pixels` is (N, V, P, P, 3); the metadata say how
    each is made. Outputs are `scores` (N, C), calibrated as `Recognizer.scores` are, and
    `probabilities` (N, C), their softmax at the recognizer's temperature. A graph raises no errors:
    the scores of a row with NaN or infinity, or of one that overflows float32, are not finite. The
    file's metadata hold class names, seen flags, calibration, temperature, image model and
    preprocessing.

    Args:
        recognizer: what to write.
        path: of the file.
        images: whether the image model is part of it: EfficientNet-Lite alone.
        backbone: as `ImageClassifier` takes it.

    Raises:
        DataError: the image model is not one that can be written, or not known.
        ModelFileError: the file's scores are not PyTorch's.
        SettingsError: an extra is not installed.
    """
    path = Path(path)
    runtime = _extra("onnxruntime")
    _extra("onnxscript")
    plain = copy.deepcopy(recognizer).to("cpu").float()
    model = _image_model(recognizer, backbone) if images else None
    make, expected = _example(plain, model)
    content = _graph(_Graph(plain, model), make(2), _metadata(recognizer, model))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        difference = _compare(runtime, temporary, make, expected)
    return Exported(path, len(content), difference)


class _Graph(nn.Module):
    """From features, or from pixels, to scores and probabilities.

    A ReLU may turn NaN or -inf into a number. So the features are multiplied by zero, which leaves
    NaN of them, and added to the scores.
    """

    def __init__(self, recognizer: Recognizer, model: "_ImageModel | None"):
        super().__init__()
        self.recognizer: Recognizer = recognizer
        self.net: nn.Module | None = None if model is None else model.lite.net
        self._model: _ImageModel | None = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both (N, C)."""
        if self._model is not None:
            x = self._model.features(x)
        scores = self.recognizer(x) + (x * 0).sum(1, keepdim=True)
        return scores, torch.softmax(scores / self.recognizer.temperature, dim=1)


def _graph(module: nn.Module, example: np.ndarray, metadata: dict[str, str]) -> bytes:
    """The file's content."""
    onnx, log = _extra("onnx"), logging.getLogger("torch.onnx")
    level, names = log.level, ["features" if example.ndim == 2 else "pixels"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own libraries
        log.setLevel(logging.ERROR)
        try:
            program: Any = torch.onnx.export(
                module.eval(),
                (torch.from_numpy(example),),
                input_names=names,
                output_names=["scores", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        finally:
            log.setLevel(level)
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata)
    return proto.SerializeToString()


def _extra(name: str) -> Any:
    """A package of the extra `onnx`. Raises `SettingsError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError("export needs the extra `onnx`: pip install 'mlis[onnx]'") from error


@dataclass(frozen=True, eq=False)
class _ImageModel:
    """EfficientNet-Lite, with the views of each image if there are several."""

    backbone: "Backbone"
    lite: "EfficientNetLite"
    views: "Views | None"

    def features(self, pixels: Tensor) -> Tensor:
        """(N, Dx) of (N, P, P, 3), or (N, V, P, P, 3), uint8."""
        if self.views is None:
            return self.lite.features(pixels)
        return self.views.joined(self.lite.features(pixels.flatten(0, 1)))

    @property
    def preparation(self) -> str:
        """From an image to `pixels`."""
        size = self.lite.pixels
        centre = f"shorter side to {round(size / 0.875)} pixels, bicubic; centre crop {size}"
        if self.views is None:
            return f"upright RGB uint8; {centre}"
        return (
            f"upright RGB uint8; views {', '.join(self.backbone.identity.views)}, stacked; centre: "
            f"{centre}; whole: resized to {size} × {size}, bicubic; -flip: mirrored horizontally"
        )


def _image_model(recognizer: Recognizer, backbone: "Backbone | str | None") -> _ImageModel:
    from mlis.features.backbones.efficientnet import EfficientNetLite
    from mlis.features.backbones.views import Views

    classifier = ImageClassifier(recognizer, backbone, device="cpu", precision="float32")
    model = classifier.backbone
    views = model if isinstance(model, Views) else None
    lite = model if views is None else views.model
    if not isinstance(lite, EfficientNetLite):
        raise DataError(
            f"{model.identity} cannot be written together with the recognizer, which only a single "
            "EfficientNet-Lite can, without regions: export features → scores (without --images), "
            "and the image model by its own library"
        )
    return _ImageModel(model, lite, views)


def _metadata(recognizer: Recognizer, model: _ImageModel | None) -> dict[str, str]:
    """Texts that travel with the graph."""
    backbone = dict(recorded_backbone(recognizer))
    if model is not None:
        backbone = model.backbone.identity.to_dict()
        done = "normalisation by mean and standard deviation, in the graph"
        outside = model.preparation
    else:
        done = "none of the image model"
        outside = "features of the image model, as they come"
    return {
        "mlis": mlis.__version__,
        "class_names": json.dumps(list(recognizer.class_names), ensure_ascii=False),
        "seen": json.dumps(recognizer.seen_mask.tolist()),
        "calibration": repr(float(recognizer.calibration)),
        "temperature": repr(recognizer.temperature),
        "transductive": json.dumps(recognizer.transductive),
        "backbone": json.dumps(backbone),
        "preprocessing_inside": done,
        "preprocessing_outside": outside,
    }


def _compare(
    runtime: Any,
    path: Path,
    make: Callable[[int], np.ndarray],
    expected: Callable[[np.ndarray], np.ndarray],
) -> float:
    """The largest difference between the file's scores and PyTorch's.

    Raises:
        ModelFileError: it is more than `TOLERANCE`.
    """
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    worst = 0.0
    for rows in _ROWS:
        example = make(rows)
        found, probabilities = session.run(["scores", "probabilities"], {name: example})
        right = expected(example)
        usual = right > -1e30  # a class without any sample has the smallest bias there is
        scale = max(1.0, float(np.abs(right[usual]).max()))
        worst = max(worst, float(np.abs(found - right)[usual].max()) / scale)
        fit = found.shape == right.shape and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        if not (fit and np.isfinite(found).all() and worst <= TOLERANCE):
            raise ModelFileError(
                f"the ONNX file's scores are {worst:.2g} off PyTorch's, more than {TOLERANCE:g}: "
                "it was not kept. Please report it with the versions of onnxruntime and torch"
            )
    return worst


def _example(
    recognizer: Recognizer, model: _ImageModel | None
) -> tuple[Callable[[int], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """What makes inputs of as many rows, and what PyTorch makes of them."""
    rng = np.random.default_rng(0)
    if model is not None:
        side = model.lite.pixels
        views = () if model.views is None else (len(model.views.identity.views),)

        def pictures(rows: int) -> np.ndarray:
            """Blocks of colour with some noise: edges and areas, as photographs have."""
            small = rng.integers(0, 256, (rows, *views, 8, 8, 3))
            times = -(-side // 8)
            blocks = small.repeat(times, axis=-3).repeat(times, axis=-2)[..., :side, :side, :]
            noisy = blocks + rng.integers(-16, 17, blocks.shape)
            return noisy.clip(0, 255).astype(np.uint8)

        return pictures, lambda x: recognizer.scores(model.backbone(list(x)))
    shift, factor = (
        part.double().cpu()
        for part in (recognizer.preprocessing.shift, recognizer.preprocessing.factor)
    )
    spread = torch.where(factor > 0, 1 / factor, 0.0)

    def features(rows: int) -> np.ndarray:
        """Rows within the range of the training's."""
        scaler = recognizer.preprocessing
        if scaler.low is not None and scaler.high is not None:
            low, high = scaler.low.cpu().numpy(), scaler.high.cpu().numpy()
            low, high = (np.tile(one, scaler.regions) for one in (low, high))
            return (low + rng.random((rows, len(low))) * (high - low)).astype(np.float32)
        x = shift + torch.from_numpy(rng.random((rows, len(shift)))) * spread
        x = x.square() if recognizer.preprocessing.transform == "sqrt" else x
        return x.float().numpy()

    return features, recognizer.scores
