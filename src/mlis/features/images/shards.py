"""Finished pieces of an extraction: files that a killed run leaves, and the next one builds on.

A shard is `NAME.safetensors`, rows of features, and `NAME.json`, whose they are; the second is
written last, so a shard with both is whole. Rows are named by the SHA-256 of the image's file: an
image that was moved, copied or touched keeps its row, one that was changed has none.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlis.data.io.feature_folder import ImageFeatures
from mlis.data.out_of_core.mapped import checksum, map_arrays, write_arrays
from mlis.errors import DataError
from mlis.storage.atomic import strict_json, write_json

logger: logging.Logger = logging.getLogger(__name__)

FORMAT, VERSION = "mlis-feature-shard", 1
FOLDER = "shards"
_NAME = re.compile(r"[0-9a-f]{16}\.(json|safetensors)")
Stamp = tuple[int, ...]


@dataclass(frozen=True)
class HashedFile:
    """An image file whose row exists: its path, hash, and stamp (None where it is too young)."""

    path: str
    sha256: str
    stamp: Stamp | None


@dataclass(frozen=True, eq=False)
class Shard:
    """What one piece of an extraction gives.

    Attributes:
        features: (n, Dx) float32.
        rows: n hashes, one a row.
        files: the images; the rows of some may be in other shards.
    """

    features: np.ndarray
    rows: tuple[str, ...]
    files: tuple[HashedFile, ...]


@dataclass
class Store:
    """All finished shards in a folder that hold features of one kind.

    Attributes:
        folder: where they are.
        kind: what the features are of; shards of another kind are left alone.
        at: hash → shard and row.
        files: path → the file as it was when it was hashed.
        told_by: path → the shard that says so.
    """

    folder: Path
    kind: str
    at: dict[str, tuple[str, int]] = field(default_factory=dict)
    files: dict[str, HashedFile] = field(default_factory=dict)
    told_by: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, kind: str) -> "Store":
        """Read what there is; damaged shards are as good as absent."""
        store = cls(folder, kind)
        for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            try:
                rows, files = _read_words(path, kind)
            except (OSError, ValueError, KeyError, TypeError, DataError) as error:
                logger.info("%s is not used: %s", path, error)
                continue
            store._note(path.stem, rows, files)
        return store

    def add(self, shard: Shard) -> None:
        """Write a shard; when this returns, it survives a kill."""
        words = [self.kind, list(shard.rows), [file.path for file in shard.files]]
        name = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {"features": shard.features}
        write_arrays(self.folder / f"{name}.safetensors", arrays)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "crc32": checksum(arrays),
            "rows": shard.rows,
            "files": [[file.path, file.sha256, file.stamp] for file in shard.files],
        }
        write_json(self.folder / f"{name}.json", record)
        self._note(name, shard.rows, shard.files)

    def _note(self, name: str, rows: Sequence[str], files: Iterable[HashedFile]) -> None:
        self.at |= {sha256: (name, row) for row, sha256 in enumerate(rows)}
        for file in files:
            self.files[file.path] = file
            self.told_by[file.path] = name

    def copy_rows(self, hashes: Sequence[str], out: np.ndarray) -> None:
        """Fill `out` (N, Dx) with the rows of N hashes, shard by shard."""
        wanted: dict[str, list[tuple[int, int]]] = {}
        for position, sha256 in enumerate(hashes):
            name, row = self.at[sha256]
            wanted.setdefault(name, []).append((position, row))
        for name, pairs in wanted.items():
            positions, rows = np.array(pairs).T
            features = map_arrays(self.folder / f"{name}.safetensors", ["features"])[0]["features"]
            out[positions] = features[rows]

    def forget_others(self, images: ImageFeatures) -> None:
        """Delete shards that say nothing of these images: of removed ones, or of other models."""
        used = {self.at[sha256][0] for sha256 in images.hashes}
        used |= {self.told_by[path] for path in images.paths}
        for path in self.folder.glob("*"):
            if path.stem not in used and _is_ours(path):
                path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether `Store.add` wrote this file, for a model of any kind."""
    if not _NAME.fullmatch(path.name):
        return False
    try:
        if path.suffix == ".safetensors":
            return list(map_arrays(path, ["features"])[0]) == ["features"]
        words = strict_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(words, Mapping) and words.get("format") == FORMAT


def _read_words(path: Path, kind: str) -> tuple[list[str], list[HashedFile]]:
    words = strict_json(path.read_text(encoding="utf-8"))
    if not isinstance(words, Mapping) or words.get("format") != FORMAT:
        raise ValueError(f"no format {FORMAT!r}")
    if words["version"] != VERSION or words["kind"] != kind:
        raise ValueError("of another model or version")
    tensors = path.with_suffix(".safetensors")
    arrays = map_arrays(tensors, ["features"])[0]
    if checksum(arrays) != words["crc32"] or len(arrays["features"]) != len(words["rows"]):
        raise ValueError(f"{tensors.name} is damaged")
    return [str(sha256) for sha256 in words["rows"]], [
        HashedFile(file, sha256, None if stamp is None else tuple(stamp))
        for file, sha256, stamp in words["files"]
    ]
