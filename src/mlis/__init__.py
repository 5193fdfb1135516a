"""Generalized zero-shot recognition by Metric Learning with Implicit Semantics (MLIS).

The few public names are loaded when they are first used, so that `import mlis` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mlis.config import Config
    from mlis.data import GZSLDataset, load_dataset, save_dataset
    from mlis.estimator import MLISClassifier
    from mlis.evaluation import evaluate
    from mlis.io.checkpoint import load_model, save_model
    from mlis.model.recognizer import Recognizer
    from mlis.pipeline import fit
    from mlis.protocol import fit_and_calibrate

_HOMES = {
    "Config": "mlis.config",
    "GZSLDataset": "mlis.data",
    "MLISClassifier": "mlis.estimator",
    "Recognizer": "mlis.model.recognizer",
    "evaluate": "mlis.evaluation",
    "fit": "mlis.pipeline",
    "fit_and_calibrate": "mlis.protocol",
    "load_dataset": "mlis.data",
    "load_model": "mlis.io.checkpoint",
    "save_dataset": "mlis.data",
    "save_model": "mlis.io.checkpoint",
}

__all__ = [
    "Config",
    "GZSLDataset",
    "MLISClassifier",
    "Recognizer",
    "__version__",
    "evaluate",
    "fit",
    "fit_and_calibrate",
    "load_dataset",
    "load_model",
    "save_dataset",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mlis' has no attribute {name!r}")
