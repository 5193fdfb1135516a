"""Folder of image features, written by `mlis features images`.

- `features.safetensors`: `features` (N, Dx) float32.
- `images.csv`: one line per row: `path`, `class`, `split` if rows are marked, `sha256`.
- `features.json`: the backbone, the root of the paths, and checksums of both files.
"""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.csv_file import read_csv
from mlis.data.labels import normal
from mlis.data.out_of_core.safetensors_file import checksum, map_arrays, write_arrays
from mlis.errors import DataError
from mlis.storage.atomic import write_json
from mlis.storage.folders import read_versioned, recover

FORMAT, VERSION = "mlis-features", 1
TENSORS, IMAGES, RECORD = "features.safetensors", "images.csv", "features.json"
_AGAIN = "Run `mlis features images` again: finished images are not recomputed."


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of N images, with path, class and hash of each.

    Attributes:
        features: (N, Dx) float32, possibly a memory map.
        paths: N unique paths relative to `root`.
        classes: N class names; empty for images without a class.
        marks: N of train, val or test; None if rows are not marked.
        hashes: SHA-256 of the N image files.
        backbone: `BackboneSpec.to_dict` of the backbone.
        root: folder that the paths are relative to.
    """

    features: np.ndarray
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    marks: tuple[str, ...] | None
    hashes: tuple[str, ...]
    backbone: Mapping[str, Any] = field(default_factory=dict)
    root: str = ""

    def choose(self, kept: Sequence[bool]) -> "ImageFeatures":
        """The rows with True in `kept` (N)."""
        if all(kept):
            return self
        return replace(
            self,
            features=self.features[np.array(kept)],
            paths=tuple(compress(self.paths, kept)),
            classes=tuple(compress(self.classes, kept)),
            marks=None if self.marks is None else tuple(compress(self.marks, kept)),
            hashes=tuple(compress(self.hashes, kept)),
        )


def is_feature_folder(path: Path) -> bool:
    """Whether `path` is a complete feature folder."""
    recover(path)
    return (path / RECORD).is_file()


def write_feature_folder(images: ImageFeatures, folder: Path) -> None:
    """Write the three files to `folder`, which contains none of them."""
    write_arrays(folder / TENSORS, {"features": images.features})
    table = images_table(images).encode()
    (folder / IMAGES).write_bytes(table)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "backbone": dict(images.backbone),
        "root": images.root,
        "features_crc32": checksum({"features": images.features}),
        "images_sha256": hashlib.sha256(table).hexdigest(),
    }
    write_json(folder / RECORD, record)


def images_table(images: ImageFeatures) -> str:
    """The text of `images.csv`."""
    columns = {"path": images.paths, "class": images.classes}
    columns |= {} if images.marks is None else {"split": images.marks}
    columns["sha256"] = images.hashes
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def read_record(folder: Path) -> dict[str, Any]:
    """`features.json` of a complete feature folder. Raises `DataError`."""
    path = folder / RECORD
    record = read_versioned(path, FORMAT, VERSION, _AGAIN)
    if not isinstance(record.get("backbone"), dict) or not isinstance(record.get("root"), str):
        raise DataError(f"{path}: damaged: backbone or root is missing. {_AGAIN}")
    return record


def read_feature_folder(folder: Path) -> ImageFeatures:
    """Read a feature folder; the features are memory-mapped.

    Raises:
        DataError: a file is missing or damaged, or the files do not belong together.
    """
    record = read_record(folder)
    features = map_arrays(folder / TENSORS, ["features"])[0]["features"]
    try:
        table = (folder / IMAGES).read_bytes()
    except OSError as error:
        raise DataError(f"{folder / IMAGES}: cannot be read: {error.strerror}.") from error
    same = record.get("images_sha256") == hashlib.sha256(table).hexdigest()
    if not same or record.get("features_crc32") != checksum({"features": features}):
        raise DataError(
            f"{folder}: {TENSORS}, {IMAGES} and {RECORD} are damaged or do not belong together. "
            f"{_AGAIN}"
        )
    header, rows = read_csv(folder / IMAGES)
    cells = [row for _, row in rows]
    by_name = {name: tuple(row[i] for row in cells) for i, name in enumerate(header)}
    if len(cells) != len(features) or not {"path", "class", "sha256"} <= by_name.keys():
        raise DataError(
            f"{folder / IMAGES}: expected one line for each of {len(features)} rows. {_AGAIN}"
        )
    return ImageFeatures(
        features,
        by_name["path"],
        tuple(map(normal, by_name["class"])),
        by_name.get("split"),
        by_name["sha256"],
        record["backbone"],
        record["root"],
    )
