"""Saved models of format 1, which mlis 0.1.0 wrote: other names of files and tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from mlis.errors import ModelFileError
from mlis.storage.atomic import strict_json

RECORD, EXEMPLARS = "model.json", "growth.safetensors"
_PREFIXES = {"scaler.": "preprocessing.", "encoder.": "refiner.", "classifier.": "head."}


def is_record(path: Path) -> bool:
    """Whether a file is the description of a model of format 1."""
    try:
        content: Any = strict_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        isinstance(content, dict) and {"format", "record"} <= cast(dict[str, Any], content).keys()
    )


def converted(
    path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors as format 2 has them.

    Raises:
        ModelFileError: a tensor that gives a size is missing or of another dimension.
    """
    renamed = {_renamed(name): value for name, value in tensors.items()}
    try:
        (size,) = renamed["preprocessing.shift"].shape
        classes, inputs = renamed["head.weight"].shape
        _, descriptor_size = renamed["descriptors"].shape
    except KeyError as error:
        raise ModelFileError(f"{path.parent}: the weights hold no tensor {error}") from None
    except ValueError as error:
        raise ModelFileError(
            f"{path.parent}: the weights are not those of a model: {error}"
        ) from None
    linear = {"kind": "linear", "inputs": size, "outputs": inputs}
    return {
        **description,
        "descriptor_size": descriptor_size,
        "preprocessing": {
            "transform": description.get("feature_transform"),
            "size": size,
            "with_range": "preprocessing.low" in renamed,
        },
        "refiner": linear if "refiner.weight" in renamed else {"kind": "none"},
        "head": {"kind": "linear", "inputs": inputs, "classes": classes},
    }, renamed


def _renamed(name: str) -> str:
    if name == "seen":
        return "seen_mask"
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
