"""From a recognizer, or an image model and a recognizer, to a checked ONNX file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import mlis
from mlis.errors import DataError, ModelFileError
from mlis.io.onnx.graph import Graph, runtime
from mlis.model.fused import Fused
from mlis.model.recognizer import Recognizer
from mlis.storage.atomic import atomic_write

if TYPE_CHECKING:
    from mlis.features.backbones.base import Backbone
    from mlis.features.backbones.efficientnet import EfficientNetLite

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
    the graph. Outputs are `scores` (N, C), calibrated as `Recognizer.scores` are, and
    `probabilities` (N, C), their softmax. A graph raises no errors: the scores of a row with NaN
    or infinity, or of one that overflows float32, are not finite. The file's metadata hold class
    names, seen flags, calibration, image model and preprocessing.

    Args:
        recognizer: what to write.
        path: of the file.
        images: whether the image model is part of it: EfficientNet-Lite alone.
        backbone: as `Recognizer.load_backbone` takes it.

    Raises:
        DataError: the image model is not one that can be written, or not known.
        ModelFileError: the file's scores are not PyTorch's.
        SettingsError: an extra is not installed.
    """
    path = Path(path)
    plain = _float32(recognizer)
    graph = Graph()
    model = _image_model(recognizer, backbone) if images else None
    if model is None:
        given = ("features", np.float32, ("N", plain.num_features))
        features = "features"
    else:
        from mlis.io.onnx.efficientnet import add_efficientnet

        given = ("pixels", np.uint8, ("N", model.pixels, model.pixels, 3))
        features = add_efficientnet(graph, "pixels", model)
    _add_head(graph, features, Fused.of(plain))
    count = len(plain.class_names)
    outputs = {"scores": ("N", count), "probabilities": ("N", count)}
    content = graph.model(given, outputs, _metadata(recognizer, model))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        difference = _compare(temporary, plain, model)
    return Exported(path, len(content), difference)


def _float32(recognizer: Recognizer) -> Recognizer:
    """The same recognizer on the CPU in float32."""
    from dataclasses import replace

    from mlis.model.classification import LinearClassifier

    recognizer = recognizer.to("cpu")
    weight, bias, head = recognizer.encoder_weight, recognizer.encoder_bias, recognizer.classifier
    return replace(
        recognizer,
        encoder_weight=None if weight is None else weight.float(),
        encoder_bias=None if bias is None else bias.float(),
        classifier=LinearClassifier(head.weight.float(), head.bias.float()),
        growth=None,
    )


def _image_model(recognizer: Recognizer, backbone: "Backbone | str | None") -> "EfficientNetLite":
    from mlis.features.backbones.efficientnet import EfficientNetLite

    model = recognizer.load_backbone(backbone, device="cpu", precision="float32")
    if not isinstance(model, EfficientNetLite):
        raise DataError(
            f"{model.identity.name} cannot be written together with the recognizer, which only "
            "EfficientNet-Lite can: export features → scores (without --images), and the image "
            "model by its own library"
        )
    return model


def _add_head(graph: Graph, x: str, fused: Fused) -> None:
    """From features to `scores` and `probabilities`.

    A ReLU may turn NaN or -inf into a number. So what goes into one is multiplied by zero, which
    leaves NaN of them, and added to the scores.
    """
    zeros = [_zero(graph, x)]
    if fused.transform == "sqrt":
        x = graph.add("Sqrt", graph.add("Relu", x))
    if fused.shift is not None:
        x = graph.add("Sub", x, graph.constant(fused.shift.numpy()))
    if fused.encoder is not None:
        weight, bias = (graph.constant(part.numpy()) for part in fused.encoder)
        x = graph.add("Gemm", x, weight, bias, transB=1)
        zeros.append(_zero(graph, x))
        x = graph.add("Relu", x)
    weight, bias = (graph.constant(part.numpy()) for part in (fused.weight, fused.bias))
    scores = graph.add("Gemm", x, weight, bias, transB=1)
    scores = graph.add("Add", scores, graph.add("Sum", *zeros), output="scores")
    graph.add("Softmax", scores, output="probabilities", axis=1)


def _zero(graph: Graph, x: str) -> str:
    """(N, 1): 0 for a row of finite numbers, else NaN."""
    products = graph.add("Mul", x, graph.constant(np.float32(0)))
    return graph.add("ReduceSum", products, graph.constant(np.array([1])), keepdims=1)


def _metadata(recognizer: Recognizer, model: "EfficientNetLite | None") -> dict[str, str]:
    """Texts that travel with the graph."""
    backbone = dict(recognizer.backbone)
    if model is not None:
        backbone = model.identity.to_dict()
        done = "normalisation by mean and standard deviation, in the graph"
        outside = (
            "upright RGB uint8; shorter side to "
            f"{round(model.pixels / 0.875)} pixels, bicubic; centre crop {model.pixels}"
        )
    else:
        done = "none of the image model"
        outside = "features of the image model, as they come"
    return {
        "mlis": mlis.__version__,
        "class_names": json.dumps(list(recognizer.class_names), ensure_ascii=False),
        "seen": json.dumps([bool(one) for one in recognizer.seen_mask]),
        "calibration": repr(float(recognizer.calibration)),
        "backbone": json.dumps(backbone),
        "preprocessing_inside": done,
        "preprocessing_outside": outside,
    }


def _compare(path: Path, recognizer: Recognizer, model: "EfficientNetLite | None") -> float:
    """The largest difference between the file's scores and PyTorch's.

    Raises:
        ModelFileError: it is more than `TOLERANCE`.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    make, expected = _example(recognizer, model)
    worst = 0.0
    for rows in _ROWS:
        example = make(rows)
        found, chances = session.run(["scores", "probabilities"], {name: example})
        right = expected(example)
        usual = right > -1e30  # a class without any sample has the smallest bias there is
        scale = max(1.0, float(np.abs(right[usual]).max()))
        worst = max(worst, float(np.abs(found - right)[usual].max()) / scale)
        fit = found.shape == right.shape and np.allclose(chances.sum(axis=1), 1, atol=1e-5)
        if not (fit and np.isfinite(found).all() and worst <= TOLERANCE):
            raise ModelFileError(
                f"the ONNX file's scores are {worst:.2g} off PyTorch's, more than {TOLERANCE:g}: "
                "it was not kept. Please report it with the versions of onnxruntime and torch"
            )
    return worst


def _example(
    recognizer: Recognizer, model: "EfficientNetLite | None"
) -> tuple[Callable[[int], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """What makes inputs of as many rows, and what PyTorch makes of them."""
    rng = np.random.default_rng(0)
    if model is not None:
        size = (model.pixels, model.pixels, 3)

        def pictures(rows: int) -> np.ndarray:
            """Blocks of colour with some noise: edges and areas, as photographs have."""
            small = rng.integers(0, 256, (rows, 8, 8, 3))
            times = -(-model.pixels // 8)
            blocks = small.repeat(times, axis=1).repeat(times, axis=2)[:, : size[0], : size[1]]
            noisy = blocks + rng.integers(-16, 17, (rows, *size))
            return noisy.clip(0, 255).astype(np.uint8)

        return pictures, lambda x: recognizer.scores(model(list(x)))
    shift, factor = (
        part.double().cpu() for part in (recognizer.scaler.shift, recognizer.scaler.factor)
    )
    spread = torch.where(factor > 0, 1 / factor, 0.0)

    def features(rows: int) -> np.ndarray:
        """Rows within the range of the training's."""
        scaler = recognizer.scaler
        if scaler.low is not None and scaler.high is not None:
            low, high = scaler.low.cpu().numpy(), scaler.high.cpu().numpy()
            return (low + rng.random((rows, len(low))) * (high - low)).astype(np.float32)
        x = shift + torch.from_numpy(rng.random((rows, len(shift)))) * spread
        x = x.square() if recognizer.scaler.transform == "sqrt" else x
        return x.float().numpy()

    return features, recognizer.scores
