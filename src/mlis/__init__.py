"""Generalized zero-shot recognition by Metric Learning with Implicit Semantics (MLIS).

The few public names are loaded when they are first used, so that `import mlis` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mlis.checks import check
    from mlis.config import Config
    from mlis.data import GZSLDataset, load_dataset, save_dataset
    from mlis.estimator import GZSLClassifier, MLISClassifier
    from mlis.evaluation import evaluate
    from mlis.explanation import Examples, explain
    from mlis.image_classifier import ImageClassifier
    from mlis.incremental import adapt, add_classes, add_images, remove_classes, rename_classes
    from mlis.io.checkpoint import load_exemplars, load_model, save_model
    from mlis.io.hub import from_pretrained
    from mlis.methods.mlis import MLIS
    from mlis.model.calibrate import calibrate
    from mlis.model.recognizer import Recognizer
    from mlis.pipeline import fit

_HOMES = {
    "Config": "mlis.config",
    "Examples": "mlis.explanation",
    "GZSLClassifier": "mlis.estimator",
    "GZSLDataset": "mlis.data",
    "ImageClassifier": "mlis.image_classifier",
    "MLIS": "mlis.methods.mlis",
    "MLISClassifier": "mlis.estimator",
    "Recognizer": "mlis.model.recognizer",
    "adapt": "mlis.incremental",
    "add_classes": "mlis.incremental",
    "add_images": "mlis.incremental",
    "calibrate": "mlis.model.calibrate",
    "check": "mlis.checks",
    "evaluate": "mlis.evaluation",
    "explain": "mlis.explanation",
    "fit": "mlis.pipeline",
    "from_pretrained": "mlis.io.hub",
    "load_dataset": "mlis.data",
    "load_exemplars": "mlis.io.checkpoint",
    "load_model": "mlis.io.checkpoint",
    "remove_classes": "mlis.incremental",
    "rename_classes": "mlis.incremental",
    "save_dataset": "mlis.data",
    "save_model": "mlis.io.checkpoint",
}

__all__ = [
    "MLIS",
    "Config",
    "Examples",
    "GZSLClassifier",
    "GZSLDataset",
    "ImageClassifier",
    "MLISClassifier",
    "Recognizer",
    "__version__",
    "adapt",
    "add_classes",
    "add_images",
    "calibrate",
    "check",
    "evaluate",
    "explain",
    "fit",
    "from_pretrained",
    "load_dataset",
    "load_exemplars",
    "load_model",
    "remove_classes",
    "rename_classes",
    "save_dataset",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mlis' has no attribute {name!r}")
