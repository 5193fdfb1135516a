"""From a saved model to an engine."""

from pathlib import Path

from mlis.checkpoint import load_model
from mlis.compute import Arithmetic
from mlis.serving.engine import Engine


def load_engine(model: Path, device: str = "auto") -> Engine:
    """Load a saved model, its image model and what it takes to add classes, where they are known.

    Raises:
        ModelFileError: the model's files are missing or damaged.
        SettingsError: no such device, or a package that the image model needs is not installed.
    """
    return Engine(load_model(model, Arithmetic.of("float32", device).device))
