"""Shards: finished parts of an extraction, from which an interrupted run resumes.

A shard is `NAME.safetensors` with rows of features, and `NAME.json` with their images; the latter
is written last, so a shard with both files is complete. Rows are keyed by the SHA-256 of the image
file: an image that was moved, copied or touched keeps its row.
"""

import hashlib
import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlis.data.io.feature_folder import ImageFeatures
from mlis.data.out_of_core.safetensors_file import checksum, map_arrays, write_arrays
from mlis.errors import DataError
from mlis.features.backbones.base import Backbone
from mlis.features.images.embed import NOT_FINITE, Batch, Ready, compute_batches, read_image
from mlis.features.images.files import Bad, ImageFile
from mlis.storage.atomic import strict_json, write_json

logger: logging.Logger = logging.getLogger(__name__)

FORMAT, VERSION = "mlis-feature-shard", 1
FOLDER = "shards"
_NAME = re.compile(r"[0-9a-f]{16}\.(json|safetensors)")
Stamp = tuple[int, ...]


@dataclass(frozen=True)
class HashedFile:
    """An image file with a row: path, hash, and stamp (None if recently modified)."""

    path: str
    sha256: str
    stamp: Stamp | None


@dataclass(frozen=True, eq=False)
class Shard:
    """Result of one part of an extraction.

    Attributes:
        features: (n, Dx) float32.
        rows: n hashes, one per row.
        files: the images; rows of some may be in other shards.
    """

    features: np.ndarray
    rows: tuple[str, ...]
    files: tuple[HashedFile, ...]


Keep = Callable[[Shard, list[Bad]], None]
"""Called with a finished shard, and its images without a row."""


def compute_shards(
    parts: Sequence[Sequence[ImageFile]],
    backbone: Backbone,
    known: Collection[str] = (),
    *,
    workers: int | None = None,
    done: Callable[[int], None] = lambda images: None,
) -> Generator[tuple[Shard, list[Bad]], None, None]:
    """Compute features shard by shard, without writing them.

    While the caller writes a shard, threads read and compute the next one.

    Args:
        parts: the images of each shard.
        backbone: the model.
        known: hashes of files with a row, which are not decoded. The caller adds those of each
            shard before requesting the next one.
        workers: threads that read and decode.
        done: called with the number of images after each batch.

    Yields:
        Rows of the images that are neither bad, known nor in an earlier shard; and the bad ones.
    """
    now = time.time_ns()

    def read(image: ImageFile) -> Ready:
        return read_image(image.path, image.source, backbone, known, now)

    images = [image for part in parts for image in part]
    ends = list(itertools.accumulate(len(part) for part in parts))
    batches = compute_batches(images, read, backbone, workers, begun=set(), ends=set(ends))
    with closing(batches):
        seen = 0
        for end in ends:
            of_shard: list[Batch] = []
            while seen < end:
                of_shard.append(next(batches))
                seen += len(of_shard[-1].items)
                done(len(of_shard[-1].items))
            yield _shard_of(of_shard, backbone.identity.size, known)


def compute_shard(
    images: Sequence[ImageFile],
    backbone: Backbone,
    known: Collection[str] = (),
    *,
    workers: int | None = None,
    done: Callable[[int], None] = lambda images: None,
) -> tuple[Shard, list[Bad]]:
    """Compute one shard; see `compute_shards`."""
    with closing(compute_shards([images], backbone, known, workers=workers, done=done)) as shards:
        return next(shards)


def _shard_of(
    batches: Sequence[Batch], size: int, known: Collection[str]
) -> tuple[Shard, list[Bad]]:
    """Shard of some batches, and the images without a row."""
    rows: dict[str, np.ndarray] = {}
    files: list[HashedFile] = []
    bad: list[Bad] = []
    for batch in batches:
        rows |= batch.rows
        for item in batch.items:
            computed_now = item.pixels is not None and item.sha256 not in known
            if item.reason:
                bad.append(Bad(item.path, item.reason))
            elif computed_now and item.sha256 not in rows:
                bad.append(Bad(item.path, NOT_FINITE))
            else:
                files.append(HashedFile(item.path, item.sha256, item.stamp))
    features = np.stack(list(rows.values())) if rows else np.empty((0, size), dtype=np.float32)
    return Shard(features, tuple(rows), tuple(files)), bad


@dataclass
class Store:
    """The shards in a folder with features of one kind.

    Attributes:
        folder: of the shards.
        kind: backbone and precision; shards of other kinds are ignored.
        at: hash → shard and row.
        files: path → the file when it was hashed.
        listed_in: path → shard that lists the file.
    """

    folder: Path
    kind: str
    at: dict[str, tuple[str, int]] = field(default_factory=dict)
    files: dict[str, HashedFile] = field(default_factory=dict)
    listed_in: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, kind: str) -> "Store":
        """Index the existing shards; damaged ones are ignored."""
        store = cls(folder, kind)
        for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            try:
                rows, files = _read_index(path, kind)
            except (OSError, ValueError, KeyError, TypeError, DataError) as error:
                logger.info("%s is not used: %s", path, error)
                continue
            store._index(path.stem, rows, files)
        return store

    def add(self, shard: Shard) -> None:
        """Write a shard; on return it is safely stored."""
        content = [self.kind, list(shard.rows), [file.path for file in shard.files]]
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
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
        self._index(name, shard.rows, shard.files)

    def _index(self, name: str, rows: Sequence[str], files: Iterable[HashedFile]) -> None:
        self.at |= {sha256: (name, row) for row, sha256 in enumerate(rows)}
        for file in files:
            self.files[file.path] = file
            self.listed_in[file.path] = name

    def copy_rows(self, hashes: Sequence[str], out: np.ndarray) -> None:
        """Fill `out` (N, Dx) with the rows of N hashes."""
        wanted: dict[str, list[tuple[int, int]]] = {}
        for position, sha256 in enumerate(hashes):
            name, row = self.at[sha256]
            wanted.setdefault(name, []).append((position, row))
        for name, pairs in wanted.items():
            positions, rows = np.array(pairs).T
            features = map_arrays(self.folder / f"{name}.safetensors", ["features"])[0]["features"]
            out[positions] = features[rows]

    def remove_unused(self, images: ImageFeatures) -> None:
        """Delete shards of other backbones, or of other images than these."""
        used = {self.at[sha256][0] for sha256 in images.hashes}
        used |= {self.listed_in[path] for path in images.paths}
        for path in self.folder.glob("*"):
            if path.stem not in used and _is_shard_file(path):
                path.unlink(missing_ok=True)


def _is_shard_file(path: Path) -> bool:
    """Whether `Store.add` wrote this file, for any kind."""
    if not _NAME.fullmatch(path.name):
        return False
    try:
        if path.suffix == ".safetensors":
            return list(map_arrays(path, ["features"])[0]) == ["features"]
        record = strict_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, Mapping) and record.get("format") == FORMAT


def _read_index(path: Path, kind: str) -> tuple[list[str], list[HashedFile]]:
    record = strict_json(path.read_text(encoding="utf-8"))
    if not isinstance(record, Mapping) or record.get("format") != FORMAT:
        raise ValueError(f"no format {FORMAT!r}")
    if record["version"] != VERSION or record["kind"] != kind:
        raise ValueError("of another backbone or version")
    tensors = path.with_suffix(".safetensors")
    arrays = map_arrays(tensors, ["features"])[0]
    if checksum(arrays) != record["crc32"] or len(arrays["features"]) != len(record["rows"]):
        raise ValueError(f"{tensors.name} is damaged")
    return [str(sha256) for sha256 in record["rows"]], [
        HashedFile(file, sha256, None if stamp is None else tuple(stamp))
        for file, sha256, stamp in record["files"]
    ]
