"""The folder format: `features.safetensors` holds every number, `dataset.json` every word.

No path is stored in either file, so nothing outside the folder is ever opened. The dataset's
SHA-256 is recorded on saving and computed again on loading; large files are gone through once, and
again only when their size, times or inode have changed.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.dataset import GZSLDataset, Provenance, content_hash
from mlis.data.io.cache import FileMemory
from mlis.data.out_of_core.mapped import map_arrays, write_arrays
from mlis.data.out_of_core.stored import stored
from mlis.data.splits import Split
from mlis.errors import DataError
from mlis.storage.atomic import strict_json, write_json
from mlis.storage.folders import recover, replaced_together

FORMAT = "mlis-dataset"
VERSION = 1
TENSORS, WORDS, SOURCES = "features.safetensors", "dataset.json", "sources.json"
VERIFY_ONCE = 256 << 20
"""Bytes of features from which on a file that was found whole is not gone through again."""
_MAX_JSON = 256 << 20
_ARRAYS = ("features", "labels", "descriptors")
_PARTS = tuple(Split.__dataclass_fields__)


def save_folder(data: GZSLDataset, folder: str | os.PathLike[str]) -> None:
    """Write `data` to `folder`, made where absent, in place of a dataset that is there.

    Raises `DataError` where the folder cannot be written, or a name is not Unicode text.
    """
    folder = Path(folder)
    try:
        with replaced_together(folder) as new:
            write_folder(data, new)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}.") from error


def write_folder(data: GZSLDataset, folder: Path) -> None:
    """Write the files of `save_folder` to a folder that holds none."""
    arrays = {name: getattr(data, name) for name in _ARRAYS}
    arrays |= {f"split.{part}": getattr(data.split, part) for part in _PARTS}
    write_arrays(folder / TENSORS, arrays)
    write_words(data, folder)


def is_dataset_folder(folder: Path) -> bool:
    """Whether there is a saved dataset in `folder`."""
    recover(folder)
    return (folder / WORDS).exists()


def write_words(data: GZSLDataset, folder: Path) -> None:
    """Write `dataset.json` beside arrays that are there already."""
    provenance = asdict(data.provenance) | {"files": dict(data.provenance.files)}
    if not provenance["sources"]:
        del provenance["sources"]
    words = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": data.sha256,
        "provenance": provenance,
        "class_names": list(data.class_names),
    }
    write_json(folder / WORDS, words)


def load_folder(folder: str | os.PathLike[str]) -> GZSLDataset:
    """Open a dataset folder; features are memory-mapped.

    Raises `DataError` where a file is missing, damaged, of another version or not of the other.
    """
    folder = Path(folder)
    words = _read_words(folder / WORDS)
    names = [*_ARRAYS, *(f"split.{part}" for part in _PARTS)]
    arrays, _ = map_arrays(folder / TENSORS, names)
    try:
        class_names, provenance = _class_names(words), _provenance(words, folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / WORDS}: damaged: {error!r}. Save the dataset again.") from error
    memory = _memory(folder / TENSORS, arrays["features"], class_names)
    known = None if memory is None else memory.recall()
    if known is not None and (where := stored(arrays["features"])) is not None:
        where.file.finite = True
    data = GZSLDataset(
        features=arrays["features"],
        labels=np.array(arrays["labels"]),
        descriptors=np.array(arrays["descriptors"]),
        class_names=class_names,
        split=Split(**{part: arrays[f"split.{part}"] for part in _PARTS}),
        provenance=provenance,
    )
    if known is not None:
        data.__dict__["sha256"] = known
    if data.sha256 != words.get("sha256"):
        raise DataError(
            f"{folder}: {TENSORS} and {WORDS} are damaged or not of one dataset: SHA-256 is "
            f"{data.sha256[:12]}…, but {str(words.get('sha256'))[:12]}… is recorded. Save it again."
        )
    if memory is not None and known is None:
        memory.keep(data.sha256)
    return data


def read_test_only(
    folder: Path,
) -> tuple[np.ndarray, tuple[str, ...], Mapping[str, Any]] | None:
    """Test rows of a dataset folder that has no training rows: features, class names, sources.

    None where it has training rows, for `load_folder`. Such a folder cannot be trained on, but a
    trained model can be measured on it.

    Raises:
        DataError: a file is missing or damaged, or there is no test row either.
    """
    words = _read_words(folder / WORDS)
    names = [*_ARRAYS, *(f"split.{part}" for part in _PARTS)]
    arrays, _ = map_arrays(folder / TENSORS, names)
    if arrays["split.trainval"].size:
        return None
    split = Split(**{part: arrays[f"split.{part}"] for part in _PARTS})
    try:
        class_names, sources = _class_names(words), _provenance(words, folder).sources
        rows = np.concatenate([split.test_seen, split.test_unseen])
        found = tuple(class_names[label] for label in np.array(arrays["labels"])[rows])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{folder / WORDS}: damaged: {error!r}. Save the dataset again.") from error
    content = {name: arrays[name] for name in _ARRAYS}
    if content_hash(class_names, content, split) != words.get("sha256"):
        raise DataError(f"{folder}: {TENSORS} and {WORDS} are damaged or not of one dataset.")
    if not rows.size:
        raise DataError(f"{folder}: expected test rows, got none.")
    return np.asarray(arrays["features"][rows]), found, sources


def read_sources(folder: Path) -> Mapping[str, Any]:
    """How features and descriptors were made, where a dataset folder says; no number is read.

    Raises `DataError` where `dataset.json` is missing, damaged or of another version.
    """
    words = _read_words(folder / WORDS)
    try:
        return _provenance(words, folder).sources
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / WORDS}: damaged: {error!r}. Save the dataset again.") from error


def _memory(path: Path, features: np.ndarray, class_names: tuple[str, ...]) -> FileMemory | None:
    """Where it is noted that a large file is whole, and the hash that it then has."""
    where = stored(features)
    if where is None or features.nbytes < VERIFY_ONCE:
        return None
    return FileMemory("verified", path, where.file.descriptor, VERSION, class_names)


def _read_words(path: Path) -> dict[str, Any]:
    try:
        recover(path.parent)
        if path.stat().st_size > _MAX_JSON:
            raise DataError(f"{path}: larger than any dataset.json ({_MAX_JSON} bytes).")
        words = strict_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; a dataset folder has one.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged, no JSON: {error}. Save the dataset again.") from error
    if not isinstance(words, dict) or words.get("format") != FORMAT:
        raise DataError(f"{path}: not a dataset of mlis: no format {FORMAT!r}.")
    if words.get("version") != VERSION:
        raise DataError(
            f"{path}: version {words.get('version')!r}, but this mlis reads {VERSION}. Save the "
            f"dataset again with this mlis, or use one that reads it."
        )
    return words


def _class_names(words: dict[str, Any]) -> tuple[str, ...]:
    names = words["class_names"]
    if not isinstance(names, list):
        raise TypeError("class_names is no list")
    return tuple(names)


def _provenance(words: dict[str, Any], folder: Path) -> Provenance:
    known = words["provenance"]
    name, features, descriptors = (known[key] for key in ("name", "features", "descriptors"))
    files, notes = dict(known["files"]), tuple(known["notes"])
    texts = (name, features, descriptors, *files, *files.values(), *notes)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("provenance holds something else than text")
    sources = known.get("sources") or _sources_beside(folder)
    check_sources(sources)
    return Provenance(name, features, descriptors, files, notes, dict(sources))


def check_sources(sources: Any) -> None:
    """Raise `TypeError` where `Provenance.sources`, read from a file, is not of the right types."""

    def part(values: Any, name: str) -> dict[str, Any]:
        found = values.get(name) or {}
        if not isinstance(found, dict):
            raise TypeError(f"sources: {name}: expected an object, got {type(found).__name__}")
        return found

    descriptors = part(sources, "descriptors")
    for model in (part(sources, "backbone"), part(descriptors, "text")):
        texts = [model.get(name, "") for name in ("name", "pooling", "fingerprint")]
        if model and ("name" not in model or not all(isinstance(text, str) for text in texts)):
            raise TypeError("sources: a model's name, pooling and fingerprint must be text")


def _sources_beside(folder: Path) -> dict[str, Any]:
    """What `sources.json` says, where `dataset.json` was written before it said so itself."""
    try:
        told = strict_json((folder / SOURCES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{folder / SOURCES}: cannot be read: {error.strerror}.") from error
    return {name: told[name] for name in ("backbone", "descriptors") if told.get(name)}
