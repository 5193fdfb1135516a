"""What a result depends on: keys of trainings and generators, and the provenance of a result.

A key is a hash of everything that decides the result: rows, settings, seed, precision and the
version of the code; not of file locations, nor of anything else that does not change it.
"""

import dataclasses
import hashlib
import inspect
import platform
from importlib import metadata
from typing import Any

import numpy as np
import torch

import mlis
from mlis.compute.precision import Precision
from mlis.config import Config, hash_of
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.encoder.metric_losses import EmbeddingLoss, load_loss, similarity_loss

PROTOCOL = "H@val"

# Increase one of these when the same settings, rows and seed give other results than before: the
# mathematics, the order of random draws, initial weights, or the names in a snapshot have changed.
# Generators and snapshots of the old code are then not used.
GENERATION_VERSION = (
    1  # of preprocessing and of stage 1a (mlis.model.preprocessing, mlis.generators)
)
REFINEMENT_VERSION = 1  # of stage 1b (mlis.encoder)


def training_key(
    training: TrainingSplit,
    config: Config,
    seed: int,
    device: str | torch.device = "auto",
    loss: EmbeddingLoss | None = None,
) -> str:
    """Hash of everything that a training depends on: rows, settings, seed, precision, code.

    For a user's metric loss (`loss`, or the one that `refinement.loss` names) the key includes the
    import name and the source of that function or class, not of what it calls.

    Raises:
        SettingsError: `refinement.loss` names nothing, or the device is not there.
    """
    own = loss_identity(config, loss)
    settings = {**config.to_dict(), "precision": arithmetic_key(config, device)}
    return hash_of([training.key, settings, seed, own, REFINEMENT_VERSION, *_code(config)])


def generation_key(
    training: TrainingSplit, config: Config, seed: int, device: str | torch.device = "auto"
) -> str:
    """Hash of everything that the generator depends on; not of refinement and classifier.

    Raises:
        SettingsError: the device is not there.
    """
    parts = [dataclasses.asdict(config.preprocessing), dataclasses.asdict(config.generation)]
    return hash_of([training.key, parts, arithmetic_key(config, device), seed, *_code(config)])


def _code(config: Config) -> list[Any]:
    # Before version 2 synthetic features were never negative, which minmax's are not.
    positive = config.preprocessing.feature_scaling == "minmax"
    return [GENERATION_VERSION if positive else 2, torch.__version__]


def arithmetic_key(config: Config, device: str | torch.device) -> list[str]:
    """The resolved precision: kind of device, dtypes of weights and of product factors."""
    found = Precision.of(config.precision, device)
    return [found.device.type, str(found.master), str(found.product)]


def loss_identity(config: Config, loss: EmbeddingLoss | None) -> list[str] | None:
    """Import name and hash of the source of a user's loss; None for the built-in ones."""
    if loss is None:
        named = "ml" in config.refinement.switches and similarity_loss(config.refinement) is None
        if not named:
            return None
        loss = load_loss(config.refinement.loss)
    code = loss if inspect.isroutine(loss) or inspect.isclass(loss) else type(loss)
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):  # built in, compiled, or typed at a prompt
        source = ""
    return [code.__module__, code.__qualname__, hashlib.sha256(source.encode()).hexdigest()]


def provenance(dataset: GZSLDataset, config: Config, device: str) -> dict[str, Any]:
    """Where a result comes from, as strict JSON: data, settings, device, versions."""
    precision = Precision.of(config.precision, device)
    return {
        "protocol": PROTOCOL,
        "data": dataset.provenance.name,
        "data_sha256": dataset.sha256,
        "features": dataset.provenance.features,
        "regions": dataset.provenance.regions,
        "descriptors": dataset.provenance.descriptors,
        "notes": list(dataset.provenance.notes),
        "config_sha256": config.sha256,
        "device": str(precision.device),
        "product_dtype": str(precision.product).removeprefix("torch."),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "mlis": mlis.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": metadata.version("scipy"),
        },
    }
