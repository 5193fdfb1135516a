"""A saved model: `model.safetensors` (weights) and `model.json` (everything else)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mlis
from mlis.classification import LinearClassifier
from mlis.errors import ModelFileError
from mlis.files import write_json
from mlis.inference import Recognizer
from mlis.preprocessing import FeatureScaler
from mlis.tensorfile import load_tensors, save_tensors

FORMAT = 1
WEIGHTS, RECORD = "model.safetensors", "model.json"


def save_model(
    recognizer: Recognizer, folder: str | Path, record: Mapping[str, Any] | None = None
) -> None:
    """Save a recognizer to `folder` (made if absent).

    Args:
        recognizer: what to save.
        folder: gets `model.safetensors` and `model.json`, each written whole or not at all.
        record: strict-JSON facts to keep with the model: settings, data, seed, results.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "scaler.shift": recognizer.scaler.shift,
        "scaler.factor": recognizer.scaler.factor,
        "classifier.weight": recognizer.classifier.weight,
        "classifier.bias": recognizer.classifier.bias,
        "descriptors": torch.from_numpy(np.ascontiguousarray(recognizer.descriptors)),
        "seen": torch.from_numpy(np.ascontiguousarray(recognizer.seen_mask)),
    }
    if recognizer.encoder_weight is not None and recognizer.encoder_bias is not None:
        tensors["encoder.weight"] = recognizer.encoder_weight
        tensors["encoder.bias"] = recognizer.encoder_bias
    facts = {
        "format": FORMAT,
        "mlis": mlis.__version__,
        "class_names": list(recognizer.class_names),
        "feature_transform": recognizer.scaler.transform,
        "calibration": recognizer.calibration,
    }
    whole = {**facts, "record": dict(record or {})}
    json.dumps(whole, allow_nan=False)  # what is no JSON fails before anything is replaced
    # The facts that decide predictions also travel inside the weights file, under its checksum:
    # a model.json of another model, or an edited one, is noticed on load.
    save_tensors(folder / WEIGHTS, tensors, {"facts": json.dumps(facts, sort_keys=True)})
    write_json(folder / RECORD, whole)


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> Recognizer:
    """Load a recognizer that `save_model` wrote.

    Raises:
        ModelFileError: a file is missing, damaged, of another format version, or the two files
            do not belong together.
    """
    folder = Path(folder)
    facts = read_record(folder)
    facts.pop("record")
    tensors, metadata = load_tensors(folder / WEIGHTS)
    if metadata.get("facts") != json.dumps(facts, sort_keys=True):
        raise ModelFileError(
            f"{folder / RECORD} and {folder / WEIGHTS} do not belong together: one of them was "
            "edited or replaced; copy both files of the model again"
        )
    try:
        return Recognizer(
            scaler=FeatureScaler(
                facts["feature_transform"], tensors["scaler.shift"], tensors["scaler.factor"]
            ),
            encoder_weight=tensors.get("encoder.weight"),
            encoder_bias=tensors.get("encoder.bias"),
            classifier=LinearClassifier(tensors["classifier.weight"], tensors["classifier.bias"]),
            class_names=tuple(facts["class_names"]),
            seen_mask=tensors["seen"].numpy(),
            descriptors=tensors["descriptors"].numpy(),
            calibration=facts["calibration"],
        ).to(device)
    except KeyError as error:
        raise ModelFileError(f"{folder / WEIGHTS} holds no tensor {error}") from None


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read `model.json`: class names, calibration, version and the `record` kept with the model.

    Raises:
        ModelFileError: the file is missing, is not JSON, or is of another format version.
    """
    path = Path(folder) / RECORD
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is not a saved model: {path} does not exist") from None
    except ValueError as error:
        raise ModelFileError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or "record" not in facts:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise ModelFileError(
            f"{path} has model format {found!r}, but this version of mlis ({mlis.__version__}) "
            f"reads format {FORMAT}"
        )
    return facts
