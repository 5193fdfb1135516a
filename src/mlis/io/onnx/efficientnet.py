"""EfficientNet-Lite as ONNX operators: convolutions, ReLU6, sums, and the global average."""

from typing import Any

import numpy as np
import torch

from mlis.features.backbones.efficientnet import MEAN, STD, EfficientNetLite
from mlis.io.onnx.graph import Graph


def add_efficientnet(graph: Graph, pixels: str, backbone: EfficientNetLite) -> str:
    """From `pixels` (N, P, P, 3) uint8 to the name of features (N, 1280) float32.

    The batch normalisations are folded into the convolutions already.
    """
    net: Any = backbone.net
    numbers = graph.add("Cast", pixels, to=1)  # float32
    mean, std = (np.array(values, dtype=np.float32) * 255 for values in (MEAN, STD))
    centred = graph.add("Sub", numbers, graph.constant(mean))
    scaled = graph.add("Div", centred, graph.constant(std))
    bounds = graph.constant(np.float32(0)), graph.constant(np.float32(6))
    x = graph.add("Transpose", scaled, perm=[0, 3, 1, 2])
    x = _relu6(graph, _convolution(graph, x, net._conv_stem), bounds)
    for block in net._blocks:
        x = _block(graph, x, block, bounds)
    x = _relu6(graph, _convolution(graph, x, net._conv_head), bounds)
    return graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)


def _block(graph: Graph, x: str, block: Any, bounds: tuple[str, str]) -> str:
    """Expand, depthwise, project; the input is added where shapes agree."""
    y = x
    if hasattr(block, "_expand_conv"):
        y = _relu6(graph, _convolution(graph, y, block._expand_conv), bounds)
    y = _relu6(graph, _convolution(graph, y, block._depthwise_conv), bounds)
    y = _convolution(graph, y, block._project_conv)
    args = block._block_args
    same = args.stride == 1 and args.input_filters == args.output_filters
    return graph.add("Add", y, x) if block.id_skip and same else y


def _convolution(graph: Graph, x: str, layer: Any) -> str:
    left, right, top, bottom = getattr(layer.static_padding, "padding", (0, 0, 0, 0))
    return graph.add(
        "Conv",
        x,
        graph.constant(_numbers(layer.weight)),
        graph.constant(_numbers(layer.bias)),
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[top, left, bottom, right],
        group=layer.groups,
    )


def _relu6(graph: Graph, x: str, bounds: tuple[str, str]) -> str:
    return graph.add("Clip", x, *bounds)


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().contiguous().numpy()
