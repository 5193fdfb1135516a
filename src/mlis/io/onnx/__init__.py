"""A recognizer as an ONNX file, for use without Python or PyTorch (extra `onnx`).

The graph is written operator by operator, so that it does not depend on how a PyTorch version
traces modules. It is small, takes a batch of any size, and is compared with PyTorch before it is
kept.
"""

from mlis.io.onnx.export import Exported, export_onnx

__all__ = ["Exported", "export_onnx"]
