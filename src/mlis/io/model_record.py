"""Checks of a saved model: its description, its tensors, and that they make a recognizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mlis.compute.memory import is_shortage
from mlis.data.io.folder import check_sources
from mlis.errors import ModelFileError
from mlis.evaluation import TradeOff
from mlis.model.heads import HEADS
from mlis.model.parts import empty_part
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Metadata, Recognizer
from mlis.model.refiners import REFINERS
from mlis.model.rejection import LEVELS

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_description(
    path: Path, description: Mapping[str, Any], metadata: Mapping[str, str], weights: Path
) -> None:
    """That it is of these weights, and the types of what is not checked when it is used."""
    inside = metadata.get("description", metadata.get("facts"))
    names, constant = description.get("class_names"), description.get("calibration")
    temperature = description.get("temperature", 1.0)  # absent before it was introduced
    texts = isinstance(names, list) and all(
        isinstance(name, str) for name in cast(list[Any], names)
    )
    number = _is_number(constant) and _is_number(temperature)
    number = number and abs(float(constant or 0)) < 1e30 and 0 < float(temperature) < 1e30
    sources, history = description.get("sources", {}), description.get("history", [])
    known = isinstance(history, list) and all(map(_is_change, cast(list[Any], history)))
    known = known and _are_quantiles(description.get("rejection", []))
    try:
        check_sources(sources)
        _tradeoff(description)
    except (TypeError, AttributeError, LookupError, ValueError):
        known = False
    if not names or not texts or not number or not known:
        raise ModelFileError(
            f"{path} is damaged: class_names, calibration, temperature, sources, history, "
            "rejection or tradeoff is not what a model has; copy both files of the model again"
        )
    _check_names(path, cast(list[str], names))
    if inside != json.dumps(description, sort_keys=True):
        raise ModelFileError(
            f"{path} and {weights} do not belong together: one of them was edited or replaced; "
            "copy both files of the model again"
        )


def _tradeoff(description: Mapping[str, Any]) -> TradeOff | None:
    """None where it was not measured, or before it was introduced. Raises as `from_dict` does."""
    found = description.get("tradeoff")
    return None if found is None else TradeOff.from_dict(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_quantiles(values: Any) -> bool:
    """Whether it is what `Metadata.rejection` holds: nothing, or a rising number per level."""
    if not isinstance(values, list) or not all(map(_is_number, cast(list[Any], values))):
        return False
    known = cast(list[float], values)
    return not known or (len(known) == len(LEVELS) and bool((np.diff(known) >= 0).all()))


def _check_names(path: Path, names: list[str]) -> None:
    """An answer is a name, so that no two classes may share one."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            raise ModelFileError(
                f"{path}: class_names: expected names that differ, got {name!r} for class "
                f"{first[name]} and class {index}. Give each class a name of its own."
            )


def _is_change(entry: Any) -> bool:
    """Whether an entry of the history is what `class_changes` writes."""
    if not isinstance(entry, dict):
        return False
    change = cast(dict[str, Any], entry)
    found: Any = change.get("classes")
    classes = list(cast(dict[str, Any], found).values()) if isinstance(found, dict) else found
    if not isinstance(classes, list):
        return False
    texts = [*cast(list[Any], classes), change.get("action"), change.get("when")]
    return all(isinstance(text, str) for text in texts)


def empty_recognizer(
    path: Path, description: Mapping[str, Any], record: Mapping[str, Any]
) -> Recognizer:
    """The described recognizer, its tensors on the meta device: any sizes cost no memory."""
    try:
        names = description["class_names"]
        preprocessing = FeatureScaler.empty(**description["preprocessing"])
        recognizer = Recognizer(
            preprocessing,
            empty_part(REFINERS, description["refiner"]),
            empty_part(HEADS, description["head"]),
            names,
            torch.empty(len(names), dtype=torch.bool, device="meta"),
            torch.empty(len(names), description["descriptor_size"], device="meta"),
            description["calibration"],
            Metadata(
                description.get("sources", {}),
                tuple(description.get("history", ())),
                record,
                _tradeoff(description),
                tuple(description.get("rejection", ())),
            ),
            description.get("temperature", 1.0),
        )
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _no_model(path, error) from None
    return recognizer


def check_scores(path: Path, recognizer: Recognizer) -> None:
    """One row: preprocessing, refiner and head fit together, and score every class.

    Of the weights themselves: on the meta device PyTorch would load its compiler for this.
    """
    like = next(recognizer.head.parameters())
    try:
        scores = recognizer(like.new_zeros(1, recognizer.num_features))
        if scores.shape != (1, len(recognizer.class_names)):
            raise ValueError(
                f"{tuple(scores.shape)} scores of {len(recognizer.class_names)} classes"
            )
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        if is_shortage(error):
            raise
        raise _no_model(path, error) from None


def _no_model(path: Path, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"{path} is damaged: preprocessing, refiner and head do not make a model ({error!r}). "
        "Copy both files of the model again, or use the version of mlis that wrote it."
    )


def check_tensors(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Names, shapes, types and numbers of all tensors."""
    for name, wanted in expected.items():
        value, boolean = tensors.get(name), wanted.dtype == torch.bool
        if value is None:
            raise ModelFileError(f"{path} holds no tensor {name!r}")
        good = value.dtype == torch.bool if boolean else value.dtype in _FLOATS
        if value.shape != wanted.shape or not good or not value.numel():
            raise ModelFileError(
                f"{path} is not a model: {name} is {tuple(value.shape)} of {value.dtype}, where "
                f"{tuple(wanted.shape)} of {'bool' if boolean else 'floating point numbers'} is "
                "expected"
            )
        check_finite(path, name, value)
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ModelFileError(f"{path} is not a model: it holds a tensor {unknown[0]!r}")
    weights = [name for name in expected if name.startswith(("refiner.", "head."))]
    if len({tensors[name].dtype for name in weights}) > 1:
        raise ModelFileError(f"{path} is not a model: its weights are of several types")


def check_finite(path: Path, name: str, value: Tensor) -> None:
    """A checksum says that nothing was changed since, not that it was right before."""
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[0]]
        raise ModelFileError(
            f"{path}: {name}{where}: expected a finite number, got {float(value[bad][0])}. "
            "Restore the model from a copy, or train it again."
        )
