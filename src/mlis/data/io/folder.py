"""Dataset folders: arrays in `features.safetensors`, names and provenance in `dataset.json`.

Neither file stores a path, so nothing outside the folder is opened. The dataset's SHA-256 is
recorded on saving and verified on loading; a large file is verified once, and again only when its
size, times or inode have changed.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.dataset import DISPLAYED, GZSLDataset, Provenance, content_hash
from mlis.data.io.cache import CachedHash
from mlis.data.out_of_core.safetensors_file import map_arrays, write_arrays
from mlis.data.out_of_core.stored import stored
from mlis.data.splits import Split
from mlis.errors import DataError
from mlis.storage.atomic import check_unicode, write_json
from mlis.storage.folders import read_versioned, recover, replaced_together

FORMAT = "mlis-dataset"
VERSION = 1
TENSORS, METADATA, SOURCES = "features.safetensors", "dataset.json", "sources.json"
VERIFY_ONCE = 256 << 20
"""Size of features in bytes from which a verified file is not verified again."""
_ARRAYS = ("features", "labels", "descriptors")
_PARTS = tuple(Split.__dataclass_fields__)
_AGAIN = "Save the dataset again."


def save_dataset(data: GZSLDataset, folder: str | os.PathLike[str]) -> None:
    """Save a dataset as a folder, which `load_dataset` opens; an existing dataset is replaced.

    Args:
        data: the dataset.
        folder: created if absent; its other files are kept.

    Raises:
        DataError: the folder cannot be written, or a name is not Unicode text.
    """
    folder = Path(folder)
    try:
        with replaced_together(folder) as new:
            write_folder(data, new)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}.") from error


def write_folder(data: GZSLDataset, folder: Path) -> None:
    """Write the files of a dataset to a folder that contains none."""
    arrays = {name: getattr(data, name) for name in _ARRAYS}
    arrays |= {f"split.{part}": getattr(data.split, part) for part in _PARTS}
    write_arrays(folder / TENSORS, arrays)
    write_metadata(data, folder)


def is_dataset_folder(folder: Path) -> bool:
    """Whether `folder` contains a saved dataset."""
    recover(folder)
    return (folder / METADATA).exists()


def write_metadata(data: GZSLDataset, folder: Path) -> None:
    """Write `dataset.json`; the arrays are already in the folder."""
    provenance = asdict(data.provenance) | {"files": dict(data.provenance.files)}
    if not provenance["sources"]:
        del provenance["sources"]
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": data.sha256,
        "provenance": provenance,
        "class_names": list(data.class_names),
    }
    write_json(folder / METADATA, metadata)


def load_folder(folder: str | os.PathLike[str]) -> GZSLDataset:
    """Open a dataset folder; features are memory-mapped.

    Raises:
        DataError: a file is missing, damaged or of another version, or the files do not belong
            together.
    """
    folder = Path(folder)
    class_names, provenance, sha256 = _read_metadata(folder)
    arrays, split = _read_arrays(folder)
    verified = _verified_hash(folder / TENSORS, arrays["features"], class_names)
    known = None if verified is None else verified.load()
    if known is not None and (where := stored(arrays["features"])) is not None:
        where.file.finite = True
    data = GZSLDataset(
        arrays["features"],
        np.array(arrays["labels"]),
        np.array(arrays["descriptors"]),
        class_names,
        split,
        provenance,
    )
    if known is not None:
        data.__dict__["sha256"] = known
    _check_hash(folder, sha256, data.sha256)
    if verified is not None and known is None:
        verified.store(data.sha256)
    return data


def read_test_only(
    folder: Path,
) -> tuple[np.ndarray, tuple[str, ...], Mapping[str, Any]] | None:
    """Features, class names and sources of a dataset folder without training rows.

    Such a folder can be used for evaluation only. Returns None if it has training rows; use
    `load_folder` then.

    Raises:
        DataError: a file is missing or damaged, or there are neither training nor test rows.
    """
    class_names, provenance, sha256 = _read_metadata(folder)
    arrays, split = _read_arrays(folder)
    if split.trainval.size:
        return None
    _check_hash(folder, sha256, content_hash(class_names, arrays, split))
    rows = np.concatenate([split.test_seen, split.test_unseen])
    if not rows.size:
        raise DataError(f"{folder}: expected test rows, got none.")
    try:
        names = tuple(class_names[label] for label in np.array(arrays["labels"])[rows])
    except IndexError as error:
        raise DataError(f"{folder / TENSORS}: damaged: {error}. {_AGAIN}") from error
    return np.asarray(arrays["features"][rows]), names, provenance.sources


def read_sources(folder: Path) -> Mapping[str, Any]:
    """`Provenance.sources` of a dataset folder, without reading arrays.

    Raises:
        DataError: `dataset.json` is missing, damaged or of another version.
    """
    return _read_metadata(folder)[1].sources


def _verified_hash(
    path: Path, features: np.ndarray, class_names: tuple[str, ...]
) -> CachedHash | None:
    """Cache entry for the verified hash of a large file; None for a small one."""
    where = stored(features)
    if where is None or features.nbytes < VERIFY_ONCE:
        return None
    return CachedHash("verified", path, where.file.descriptor, VERSION, class_names)


def _check_hash(folder: Path, recorded: str, found: str) -> None:
    if recorded != found:
        raise DataError(
            f"{folder}: {TENSORS} and {METADATA} are damaged or do not belong together: expected "
            f"SHA-256 {recorded[:12]}…, got {found[:12]}…. {_AGAIN}"
        )


def _read_arrays(folder: Path) -> tuple[dict[str, np.ndarray], Split]:
    arrays, _ = map_arrays(folder / TENSORS, [*_ARRAYS, *(f"split.{part}" for part in _PARTS)])
    split = Split(**{part: arrays.pop(f"split.{part}") for part in _PARTS})
    return arrays, split


def _read_metadata(folder: Path) -> tuple[tuple[str, ...], Provenance, str]:
    """Class names, provenance and the recorded SHA-256."""
    path = folder / METADATA
    metadata = read_versioned(path, FORMAT, VERSION, _AGAIN)
    try:
        names = metadata["class_names"]
        if not isinstance(names, list):
            raise TypeError("class_names is not a list")
        return tuple(names), _provenance(metadata["provenance"]), str(metadata["sha256"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: damaged: {error!r}. {_AGAIN}") from error


def _provenance(known: dict[str, Any]) -> Provenance:
    name, features, descriptors = (known[key] for key in ("name", "features", "descriptors"))
    files, notes = dict(known["files"]), tuple(known["notes"])
    texts = (name, features, descriptors, *files, *files.values(), *notes)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("provenance contains values other than text")
    sources = known.get("sources") or {}
    check_sources(sources)
    return Provenance(name, features, descriptors, files, notes, dict(sources))


def check_sources(sources: Any) -> None:
    """Raise `TypeError` if `Provenance.sources`, read from a file, has values of a wrong type."""

    def part(values: Any, name: str) -> dict[str, Any]:
        found = values.get(name) or {}
        if not isinstance(found, dict):
            raise TypeError(f"sources: {name}: expected an object, got {type(found).__name__}")
        return found

    shown = part(sources, DISPLAYED)
    if not all(isinstance(text, str) for text in shown.values()):
        raise TypeError("sources: display names must be text")
    descriptors = part(sources, "descriptors")
    for model in (part(sources, "backbone"), part(descriptors, "text")):
        texts = [model.get(name, "") for name in ("name", "pooling", "fingerprint")]
        if model and ("name" not in model or not all(isinstance(text, str) for text in texts)):
            raise TypeError("sources: a model's name, pooling and fingerprint must be text")
    regions = part(sources, "backbone").get("regions", 1)
    if not isinstance(regions, int) or regions < 1:
        raise TypeError(f"sources: regions: expected a positive whole number, got {regions!r}")
    part(descriptors, "phrases")
    if any("name" not in column for column in descriptors.get("attributes") or ()):
        raise TypeError("sources: attributes: expected a name of each")
    for said in part(descriptors, "texts").values():
        if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
            raise TypeError("sources: texts: expected a list of sentences for each class")
        for text in said:
            check_unicode(text, "sources: texts")
