"""Writing an ONNX graph one operator after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlis.errors import SettingsError

OPSET = 17
IR_VERSION = 8
"""Of files that onnxruntime 1.13 (2022) and later read."""


class Graph:
    """Operators and constants, in the order in which they are added.

    Raises `SettingsError` where the extra `onnx` is not installed.
    """

    def __init__(self) -> None:
        self._onnx = _onnx()
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add an operator with one output; return the output's name."""
        name = output or f"{operator.lower()}_{len(self._nodes)}"
        node = self._onnx.helper.make_node(operator, list(inputs), [name], **attributes)
        self._nodes.append(node)
        return name

    def constant(self, array: Any) -> str:
        """Add numbers, float32 or int64; return their name."""
        name = f"constant_{len(self._constants)}"
        kept = np.ascontiguousarray(array)
        self._constants.append(self._onnx.numpy_helper.from_array(kept, name))
        return name

    def model(
        self,
        given: tuple[str, type[np.generic], Sequence[str | int]],
        outputs: Mapping[str, Sequence[str | int]],
        metadata: Mapping[str, str],
    ) -> bytes:
        """The whole file.

        Args:
            given: name, type and shape of the input; a size that is a text is free.
            outputs: names and shapes of the outputs, float32.
            metadata: texts that travel with the graph.
        """
        helper = self._onnx.helper
        name, dtype, shape = given
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        single = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
        graph = helper.make_graph(
            self._nodes,
            "mlis",
            [helper.make_tensor_value_info(name, kind, list(shape))],
            [helper.make_tensor_value_info(n, single, list(s)) for n, s in outputs.items()],
            self._constants,
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="mlis"
        )
        helper.set_model_props(model, dict(metadata))
        self._onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise SettingsError("export needs the extra `onnx`: pip install 'mlis[onnx]'") from error
    return onnx


def runtime() -> Any:
    """`onnxruntime`. Raises `SettingsError` where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise SettingsError("export needs the extra `onnx`: pip install 'mlis[onnx]'") from error
    return onnxruntime
