"""A saved model: weights, everything that is words, and what adding classes needs.

- `model.safetensors`: the weights.
- `config.json`: all else; models that an older mlis saved have `model.json` in its place.
- `growth.safetensors`: what adding classes needs (:mod:`mlis.incremental.exemplar_buffer`), where
the model has it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import mlis
from mlis.compute.memory import enough_memory
from mlis.data.io.folder import check_sources
from mlis.errors import ModelFileError
from mlis.incremental.exemplar_buffer import Growth
from mlis.model.classification import LinearClassifier
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Recognizer
from mlis.storage.atomic import strict_json, write_json
from mlis.storage.folders import recover, replaced_together
from mlis.storage.tensors import checksum, is_tensor_file, load_tensors, save_tensors

FORMAT = 1
WEIGHTS, RECORD, GROWTH = "model.safetensors", "config.json", "growth.safetensors"
OLD_RECORD = "model.json"
_RANGE = ("low", "high")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def save_model(
    recognizer: Recognizer, folder: str | Path, record: Mapping[str, Any] | None = None
) -> None:
    """Save a recognizer to `folder` (made if absent).

    Args:
        recognizer: what to save.
        folder: gets `model.safetensors`, `config.json` and, where the recognizer can grow,
            `growth.safetensors`: all of them in place of those that are there, or none.
        record: strict-JSON facts to keep with the model: settings, data, seed, results; those
            that the recognizer was loaded with where absent.

    Raises:
        DataError: a name is not Unicode text.
        OSError: the folder cannot be written; it stays as it was.
    """
    with replaced_together(Path(folder), without=replaced_files(folder, recognizer)) as new:
        write_model(recognizer, new, record)


def replaced_files(folder: str | Path, recognizer: Recognizer) -> list[str]:
    """Files of the model in `folder` that a new one has no namesake of; of others none."""
    names = [OLD_RECORD] if _is_old_record(Path(folder) / OLD_RECORD) else []
    gone = recognizer.growth is None and is_tensor_file(Path(folder) / GROWTH)
    return [*names, GROWTH] if gone else names


def _is_old_record(path: Path) -> bool:
    try:
        facts: Any = strict_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and {"format", "record"} <= facts.keys()


def write_model(
    recognizer: Recognizer, folder: Path, record: Mapping[str, Any] | None = None
) -> None:
    """Write the files of `save_model` to a folder that holds none."""
    facts = _facts(recognizer)
    whole = {**facts, "record": dict(recognizer.record if record is None else record)}
    # The facts that decide predictions also travel inside the weights file, under its checksum:
    # a config.json of another model, or an edited one, is noticed on load.
    words = json.dumps(facts, sort_keys=True)
    tensors = _tensors(recognizer)
    save_tensors(folder / WEIGHTS, tensors, {"facts": words})
    write_json(folder / RECORD, whole)
    if (growth := recognizer.growth) is not None:
        metadata = {"growth": growth.words(), "model": _model(tensors, words)}
        save_tensors(folder / GROWTH, growth.tensors(), metadata)


def _facts(recognizer: Recognizer) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format": FORMAT,
        "mlis": mlis.__version__,
        "class_names": list(recognizer.class_names),
        "feature_transform": recognizer.scaler.transform,
        "calibration": recognizer.calibration,
    }
    if recognizer.sources:
        facts["sources"] = dict(recognizer.sources)
    if recognizer.history:
        facts["history"] = [dict(entry) for entry in recognizer.history]
    return facts


def _tensors(recognizer: Recognizer) -> dict[str, torch.Tensor]:
    tensors = {
        "scaler.shift": recognizer.scaler.shift,
        "scaler.factor": recognizer.scaler.factor,
        "classifier.weight": recognizer.classifier.weight,
        "classifier.bias": recognizer.classifier.bias,
        "descriptors": _tensor(recognizer.descriptors),
        "seen": _tensor(recognizer.seen_mask),
    }
    for name in _RANGE:
        if (bound := getattr(recognizer.scaler, name)) is not None:
            tensors[f"scaler.{name}"] = bound
    if recognizer.encoder_weight is not None and recognizer.encoder_bias is not None:
        tensors["encoder.weight"] = recognizer.encoder_weight
        tensors["encoder.bias"] = recognizer.encoder_bias
    return tensors


def _model(tensors: Mapping[str, torch.Tensor], words: str) -> str:
    """Names a model, so that what another one's training left is not mixed in."""
    return checksum({name: value.detach().cpu() for name, value in tensors.items()}, {"": words})


def _tensor(array: np.ndarray) -> Tensor:
    contiguous = np.ascontiguousarray(array)
    return torch.from_numpy(contiguous)  # pyright: ignore[reportUnknownMemberType]  (PyTorch's gap)


@enough_memory("loading the model", "Load it with device='cpu' or growth=False")
def load_model(
    folder: str | Path, device: str | torch.device = "cpu", *, growth: bool = True
) -> Recognizer:
    """Load a recognizer that `save_model` wrote.

    Args:
        folder: of the model.
        device: where its weights are to be.
        growth: whether what adding classes needs is loaded too, where it is there; predicting
            does not need it.

    Raises:
        ModelFileError: a file is missing, damaged, of another format version, or the files do
            not belong together.
        OutOfMemoryError: memory does not suffice.
    """
    folder = Path(folder)
    path = record_path(folder)
    facts = read_record(folder)
    record = facts.pop("record")
    _check_facts(path, facts)
    tensors, metadata = load_tensors(folder / WEIGHTS)
    if metadata.get("facts") != json.dumps(facts, sort_keys=True):
        raise ModelFileError(
            f"{path} and {folder / WEIGHTS} do not belong together: one of them was "
            "edited or replaced; copy both files of the model again"
        )
    _check_tensors(folder / WEIGHTS, tensors, len(facts["class_names"]))
    return Recognizer(
        scaler=FeatureScaler(
            facts["feature_transform"],
            tensors["scaler.shift"],
            tensors["scaler.factor"],
            **{name: tensors.get(f"scaler.{name}") for name in _RANGE},
        ),
        encoder_weight=tensors.get("encoder.weight"),
        encoder_bias=tensors.get("encoder.bias"),
        classifier=LinearClassifier(tensors["classifier.weight"], tensors["classifier.bias"]),
        class_names=tuple(facts["class_names"]),
        seen_mask=tensors["seen"].numpy(),
        descriptors=tensors["descriptors"].numpy(),
        calibration=facts["calibration"],
        sources=facts.get("sources", {}),
        growth=_load_growth(folder, tensors, metadata["facts"]) if growth else None,
        history=tuple(facts.get("history", ())),
        record=record,
    ).to(device)


def _check_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Types of what `model.json` says, whoever wrote it."""
    names, constant = facts.get("class_names"), facts.get("calibration")
    texts = isinstance(names, list) and all(
        isinstance(name, str) for name in cast(list[Any], names)
    )
    known = facts.get("feature_transform") in ("none", "sqrt")
    number = isinstance(constant, int | float) and not isinstance(constant, bool)
    number = number and abs(float(constant or 0.0)) < 1e30
    sources, history = facts.get("sources", {}), facts.get("history", [])
    told = isinstance(history, list) and all(map(_is_change, cast(list[Any], history)))
    try:
        check_sources(sources)
    except (TypeError, AttributeError):
        told = False
    if not names or not texts or not known or not number or not told:
        raise ModelFileError(
            f"{path} is damaged: class_names, feature_transform, calibration, sources or history "
            "is not what a model has; copy both files of the model again"
        )
    _check_names(path, cast(list[str], names))


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


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], classes: int) -> None:
    """Names, shapes and types of all tensors; they must fit each other."""
    for name, shape in _shapes(tensors, classes).items():
        value, boolean = tensors.get(name), name == "seen"
        if value is None:
            raise ModelFileError(f"{path} holds no tensor {name!r}")
        good = value.dtype == torch.bool if boolean else value.dtype in _FLOATS
        if tuple(value.shape) != shape or not good or not value.numel():
            raise ModelFileError(
                f"{path} is no model: {name} is {tuple(value.shape)} of {value.dtype}, where "
                f"{shape} of {'bool' if boolean else 'floating point numbers'} is expected"
            )
        _check_finite(path, name, value)
    weights = {"encoder.weight", "encoder.bias", "classifier.weight", "classifier.bias"}
    if len({tensors[name].dtype for name in weights & tensors.keys()}) > 1:
        raise ModelFileError(f"{path} is no model: its weights are of several types")


def _check_finite(path: Path, name: str, value: Tensor) -> None:
    """A checksum says that nothing was changed since, not that it was right before."""
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[0]]
        raise ModelFileError(
            f"{path}: {name}{where}: expected a finite number, got {float(value[bad][0])}. "
            "Restore the model from a copy, or train it again."
        )


def _load_growth(folder: Path, tensors: Mapping[str, torch.Tensor], words: str) -> Growth | None:
    if not (folder / GROWTH).exists():
        return None
    kept, metadata = load_tensors(folder / GROWTH)
    for name, value in kept.items():
        _check_finite(folder / GROWTH, name, value)
    if metadata.get("model") != _model(tensors, words):
        raise ModelFileError(
            f"{folder / GROWTH} is of another model than {folder / WEIGHTS}: copy the files of one "
            "model, or delete it (then no class can be added)"
        )
    return Growth.of(kept, metadata.get("growth", ""))


def record_path(folder: str | Path) -> Path:
    """Where the words of a saved model are: `config.json`, or `model.json` of an older one."""
    recover(Path(folder))
    new, old = Path(folder) / RECORD, Path(folder) / OLD_RECORD
    return old if old.exists() and not new.exists() else new


def is_model(folder: str | Path) -> bool:
    """Whether there is a saved model in `folder`."""
    return record_path(folder).exists()


def _shapes(tensors: Mapping[str, Tensor], classes: int) -> dict[str, tuple[int, ...]]:
    """What each tensor's shape must be, by the sizes of three of them."""
    empty = torch.empty(0, 0)
    inputs = tensors.get("scaler.shift", empty).numel()
    hidden = inputs
    shapes: dict[str, tuple[int, ...]] = {}
    if "encoder.weight" in tensors or "encoder.bias" in tensors:
        hidden = (*tensors.get("classifier.weight", empty).shape, 0, 0)[1]
        shapes = {"encoder.weight": (hidden, inputs), "encoder.bias": (hidden,)}
    width = (*tensors.get("descriptors", empty).shape, 0, 0)[1]
    return {
        "scaler.shift": (inputs,),
        "scaler.factor": (inputs,),
        **shapes,
        "classifier.weight": (classes, hidden),
        "classifier.bias": (classes,),
        "descriptors": (classes, width),
        "seen": (classes,),
        **{f"scaler.{name}": (inputs,) for name in _RANGE if f"scaler.{name}" in tensors},
    }


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read `config.json`: class names, calibration, version and the `record` kept with the model.

    Raises:
        ModelFileError: the file is missing, is not JSON, or is of another format version.
    """
    path = record_path(folder)
    try:
        facts: Any = strict_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is not a saved model: {path} does not exist") from None
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be read: {error.strerror}. Name the folder of a saved model."
        ) from None
    except ValueError as error:
        raise ModelFileError(f"{path} is not valid JSON: {error}") from None
    known = cast(dict[str, Any], facts) if isinstance(facts, dict) else {}
    if known.get("format") != FORMAT or "record" not in known:
        found = known.get("format")
        raise ModelFileError(
            f"{path} has model format {found!r}, but this version of mlis ({mlis.__version__}) "
            f"reads format {FORMAT}"
        )
    record: Any = known["record"]
    origin: Any = cast(dict[str, Any], record).get("provenance") if isinstance(record, dict) else 0
    if not isinstance(record, dict) or not isinstance(origin or {}, dict):
        raise ModelFileError(
            f"{path} is damaged: record is not what a model has; copy both files of the model again"
        )
    return known
