"""A saved model: a folder of weights, a description, and what adding classes needs.

Snapshots of a training are in :mod:`mlis.training.checkpoints`.

- `model.safetensors`: the recognizer's state.
- `config.json`: its parts' kinds and sizes, class names, calibration, temperature, and the
  metadata, with the trade-off between seen and unseen classes where it was measured.
- `exemplars.safetensors`: the exemplar buffer (:mod:`mlis.incremental.exemplar_buffer`), where it
  was saved.

Models of format 1 (:mod:`mlis.io.format_1`) are read, too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import mlis
from mlis.compute.memory import enough_memory, is_shortage
from mlis.compute.precision import own_modes, resolve_device
from mlis.data.io.folder import check_sources
from mlis.errors import ModelFileError
from mlis.evaluation import TradeOff
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.io import format_1
from mlis.model.heads import HEADS
from mlis.model.parts import describe, empty_part
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Metadata, Recognizer
from mlis.model.refiners import REFINERS
from mlis.model.rejection import LEVELS
from mlis.storage.atomic import strict_json, write_json
from mlis.storage.folders import recover, replaced_together
from mlis.storage.tensors import checksum, is_tensor_file, load_tensors, save_tensors

FORMAT = 2
WEIGHTS, RECORD, EXEMPLARS = "model.safetensors", "config.json", "exemplars.safetensors"
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def save_model(
    recognizer: Recognizer,
    folder: str | Path,
    exemplars: ExemplarBuffer | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Save a recognizer to `folder` (made if absent).

    Args:
        recognizer: what to save.
        folder: gets `model.safetensors`, `config.json` and, with an exemplar buffer,
            `exemplars.safetensors`: all of them in place of those that are there, or none.
        exemplars: its exemplar buffer, without which no class can be added to it later.
        record: strict-JSON mapping to keep with the model: settings, data, seed, results; that of
            the recognizer's metadata where absent.

    Raises:
        DataError: a name is not Unicode text.
        OSError: the folder cannot be written; it stays as it was.
    """
    with replaced_together(Path(folder), without=replaced_files(folder, exemplars)) as new:
        write_model(recognizer, new, exemplars, record)


def replaced_files(folder: str | Path, exemplars: ExemplarBuffer | None) -> list[str]:
    """Files of a model in `folder` that a new one has no namesake of; of others none."""
    place = Path(folder)
    names = [format_1.EXEMPLARS] if exemplars is not None else [format_1.EXEMPLARS, EXEMPLARS]
    names = [name for name in names if is_tensor_file(place / name)]
    old = format_1.is_record(place / format_1.RECORD)
    return [*names, format_1.RECORD] if old else names


def write_model(
    recognizer: Recognizer,
    folder: Path,
    exemplars: ExemplarBuffer | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of `save_model` to a folder that holds none."""
    description = _description(recognizer)
    record = dict(recognizer.metadata.record if record is None else record)
    # What decides predictions also lies inside the weights file, under its checksum: a config.json
    # of another model, or an edited one, is noticed on load.
    text = json.dumps(description, sort_keys=True)
    tensors = recognizer.state_dict()
    save_tensors(folder / WEIGHTS, tensors, {"description": text})
    write_json(folder / RECORD, {**description, "record": record})
    if exemplars is not None:
        metadata = {"exemplars": exemplars.metadata(), "model": _identity(tensors, text)}
        save_tensors(folder / EXEMPLARS, exemplars.tensors(), metadata)


def _description(recognizer: Recognizer) -> dict[str, Any]:
    metadata = recognizer.metadata
    tradeoff = metadata.tradeoff
    return {
        "format": FORMAT,
        "mlis": mlis.__version__,
        "class_names": list(recognizer.class_names),
        "descriptor_size": recognizer.descriptors.shape[1],
        "preprocessing": recognizer.preprocessing.sizes(),
        "refiner": describe(recognizer.refiner),
        "head": describe(recognizer.head),
        "calibration": recognizer.calibration,
        "temperature": recognizer.temperature,
        "sources": dict(metadata.sources),
        "history": [dict(entry) for entry in metadata.history],
        **({} if tradeoff is None else {"tradeoff": tradeoff.to_dict()}),
        **({"rejection": list(metadata.rejection)} if metadata.rejection else {}),
    }


def _identity(tensors: Mapping[str, Tensor], text: str) -> str:
    """Identifies a model, so that the exemplar buffer of another one is noticed."""
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return checksum(ready, {"": text})


@enough_memory("loading the model", "Load it with device='cpu'")
@own_modes()
def load_model(folder: str | Path, device: str | torch.device = "cpu") -> Recognizer:
    """Load a recognizer that `save_model` wrote.

    Args:
        folder: of the model.
        device: where its weights are to be: "auto", "cpu", "cuda:0", …

    Raises:
        ModelFileError: a file is missing, damaged, of another format version, or the files do
            not belong together.
        SettingsError: this machine has no such device.
        OutOfMemoryError: memory does not suffice.
    """
    folder = Path(folder)
    device = resolve_device(device) if isinstance(device, str) else device
    path = record_path(folder)
    description = read_record(folder)
    record = description.pop("record")
    tensors, metadata = load_tensors(folder / WEIGHTS)
    _check_description(path, description, metadata, folder / WEIGHTS)
    if description["format"] == 1:
        description, tensors = format_1.converted(path, description, tensors)
    recognizer = _empty(path, description, record)
    _check_tensors(folder / WEIGHTS, tensors, recognizer.state_dict())
    recognizer.load_state_dict(tensors, assign=True)
    _check_scores(path, recognizer)
    return recognizer.to(device)


@enough_memory("loading the exemplar buffer", "Predicting does not need it")
def load_exemplars(folder: str | Path) -> ExemplarBuffer | None:
    """Load the exemplar buffer that was saved with a model; None where there is none.

    Raises:
        ModelFileError: the file is damaged, or of another model than the one in the folder.
        OutOfMemoryError: memory does not suffice.
    """
    folder = Path(folder)
    recover(folder)
    names = [EXEMPLARS, format_1.EXEMPLARS]
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        return None
    kept, metadata = load_tensors(path)
    for name, value in kept.items():
        _check_finite(path, name, value)
    tensors, own = load_tensors(folder / WEIGHTS)
    text = own.get("description", own.get("facts", ""))
    if metadata.get("model") != _identity(tensors, text):
        raise ModelFileError(
            f"{path} is of another model than {folder / WEIGHTS}. Copy the files of one model, or "
            "delete it (then no class can be added)."
        )
    if "exemplars" in metadata:
        return ExemplarBuffer.of(kept, metadata["exemplars"])
    unseen = int((~tensors["seen"]).sum())
    return ExemplarBuffer.of(kept, metadata.get("growth", ""), unseen)


def _check_description(
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


def _empty(path: Path, description: Mapping[str, Any], record: Mapping[str, Any]) -> Recognizer:
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


def _check_scores(path: Path, recognizer: Recognizer) -> None:
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


def _check_tensors(
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
        _check_finite(path, name, value)
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ModelFileError(f"{path} is not a model: it holds a tensor {unknown[0]!r}")
    weights = [name for name in expected if name.startswith(("refiner.", "head."))]
    if len({tensors[name].dtype for name in weights}) > 1:
        raise ModelFileError(f"{path} is not a model: its weights are of several types")


def _check_finite(path: Path, name: str, value: Tensor) -> None:
    """A checksum says that nothing was changed since, not that it was right before."""
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[0]]
        raise ModelFileError(
            f"{path}: {name}{where}: expected a finite number, got {float(value[bad][0])}. "
            "Restore the model from a copy, or train it again."
        )


def record_path(folder: str | Path) -> Path:
    """Where the description of a saved model is: `config.json`, or an older one's `model.json`."""
    recover(Path(folder))
    new, old = Path(folder) / RECORD, Path(folder) / format_1.RECORD
    return old if old.exists() and not new.exists() else new


def is_model(folder: str | Path) -> bool:
    """Whether there is a saved model in `folder`."""
    return record_path(folder).exists()


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read `config.json`: class names, calibration, version and the `record` kept with the model.

    Raises:
        ModelFileError: the file is missing, is not JSON, or is of another format version.
    """
    path = record_path(folder)
    try:
        content: Any = strict_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is not a saved model: {path} does not exist") from None
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be read: {error.strerror}. Name the folder of a saved model."
        ) from None
    except ValueError as error:
        raise ModelFileError(f"{path} is not valid JSON: {error}") from None
    known = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    found: Any = known.get("format")
    if isinstance(found, bool) or found not in (1, FORMAT) or "record" not in known:
        raise ModelFileError(
            f"{path} has model format {found!r}, but this version of mlis ({mlis.__version__}) "
            f"reads formats 1 and {FORMAT}"
        )
    record: Any = known["record"]
    origin: Any = cast(dict[str, Any], record).get("provenance") if isinstance(record, dict) else 0
    if not isinstance(record, dict) or not isinstance(origin or {}, dict):
        raise ModelFileError(
            f"{path} is damaged: record is not what a model has; copy both files of the model again"
        )
    return known
