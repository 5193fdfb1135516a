"""From a folder of images to a folder of features, in shards that survive a kill.

Each file is read once. What is known by its hash is not computed again.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

import numpy as np

from mlis.data.io.feature_folder import (
    ImageFeatures,
    is_feature_folder,
    read_record,
    write_feature_folder,
)
from mlis.errors import DataError
from mlis.features.backbones.base import Backbone
from mlis.features.images.decode import stamp_of
from mlis.features.images.extract_shards import Keep, extract_shards
from mlis.features.images.shards import FOLDER, Shard, Store
from mlis.features.images.walk import Bad, Found, ImageFile
from mlis.features.report import write_bad
from mlis.storage.folders import replaced_together
from mlis.storage.locks import held

SHARD_IMAGES = 512
"""Images a shard: what a kill can lose of the work of each worker, and the few batches that are in
the model while a shard is written."""


class Monitor(Protocol):
    """Who is told how far an extraction is."""

    def started(self, total: int, known: int) -> None:
        """There are `total` images, of which `known` need no work."""
        ...

    def done(self, images: int) -> None:
        """So many more images were read, known or bad ones included."""
        ...


class _Silent:
    def started(self, total: int, known: int) -> None:
        """Nothing."""

    def done(self, images: int) -> None:
        """Nothing."""


Compute = Callable[
    [Sequence[Sequence[ImageFile]], Collection[str], Keep, Callable[[int], None]], None
]
"""Computes shards of some images: the images of each, hashes whose rows exist already, who keeps a
finished shard, and who hears of so many images more."""


@dataclass(frozen=True, eq=False)
class Extraction:
    """What came of it.

    Attributes:
        images: rows in the order of the paths.
        bad: files without a row, with their reasons.
        computed: images that went through the model in this run.
        seconds: of this run.
    """

    images: ImageFeatures
    bad: tuple[Bad, ...]
    computed: int
    seconds: float


def extract(
    found: Found,
    backbone: Backbone,
    folder: Path,
    *,
    shard_images: int = SHARD_IMAGES,
    workers: int | None = None,
    monitor: Monitor | None = None,
    compute: Compute | None = None,
) -> Extraction:
    """Compute what `folder` does not hold yet, and give the features of all images.

    Shards are written to `folder/shards` as they are finished. Bad files are tried again by every
    run. Images with the very same content share one computation.

    Args:
        found: the images.
        backbone: the model.
        folder: made where absent.
        shard_images: images a shard.
        workers: threads that decode; as many as there are processors where absent.
        monitor: is told of progress.
        compute: does the work elsewhere (:mod:`mlis.features.images.ray_shards`); `workers` is not
        used.

    Raises:
        DataError: no image at all could be read.
        OSError: the folder cannot be written.
    """
    monitor, began = monitor or _Silent(), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.open(folder / FOLDER, f"{backbone.identity.fingerprint} {backbone.precision}")
    todo = [image for image in found.images if not _is_known(image, store)]
    monitor.started(len(found.images), len(found.images) - len(todo))
    parts = [todo[start : start + shard_images] for start in range(0, len(todo), shard_images)]
    refused: list[Bad] = []
    computed = 0

    def keep(shard: Shard, without_row: list[Bad]) -> None:
        nonlocal computed
        refused.extend(without_row)
        computed += len(shard.rows)
        if shard.files:
            store.add(shard)

    compute = compute or _here(backbone, workers)
    compute(parts, store.at.keys(), keep, monitor.done)
    bad = [*found.bad, *sorted(refused, key=lambda each: each.path)]
    bad_paths = {each.path for each in bad}
    rows = [image for image in found.images if image.path not in bad_paths]
    if not rows:
        raise DataError(
            f"{found.root}: none of {len(found.images)} files gave features; the first is "
            f"{bad[0].path}: {bad[0].reason}."
        )
    images = _collect(found, rows, store, backbone, folder)
    return Extraction(images, tuple(bad), computed, time.perf_counter() - began)


def _here(backbone: Backbone, workers: int | None) -> Compute:
    """Compute shards in this process, one after the other."""

    def compute(
        parts: Sequence[Sequence[ImageFile]],
        known: Collection[str],
        keep: Keep,
        done: Callable[[int], None],
    ) -> None:
        with closing(extract_shards(parts, backbone, known, workers=workers, done=done)) as shards:
            for shard, bad in shards:
                keep(shard, bad)

    return compute


def extract_folder(
    found: Found,
    backbone: Backbone,
    folder: Path,
    *,
    replace: bool = False,
    shard_images: int = SHARD_IMAGES,
    workers: int | None = None,
    monitor: Monitor | None = None,
    compute: Compute | None = None,
) -> Extraction:
    """`extract`, then write the folder of :mod:`mlis.data.io.feature_folder` and `bad.csv`.

    Raises:
        DataError: the folder holds features of another model and `replace` is False.
    """
    if not replace:
        refuse_other_model(folder, backbone)
    with held(folder):
        result = extract(
            *(found, backbone, folder),
            shard_images=shard_images,
            workers=workers,
            monitor=monitor,
            compute=compute,
        )
        with replaced_together(folder) as new:
            write_feature_folder(result.images, new)
            write_bad(new, result.bad)
        forget_unused(result, backbone, folder)
    return result


def refuse_other_model(folder: Path, backbone: Backbone) -> None:
    """Raise `DataError` where `folder` holds finished features of another model."""
    if not is_feature_folder(folder):
        return
    recorded = read_record(folder)["backbone"]
    if recorded.get("fingerprint") != backbone.identity.fingerprint:
        raise DataError(
            f"{folder} holds features of {recorded.get('name')} "
            f"({str(recorded.get('fingerprint'))[:12]}), not of {backbone.identity}: choose "
            "another folder, or replace them with --force."
        )


def forget_unused(result: Extraction, backbone: Backbone, folder: Path) -> None:
    """Delete shards that hold no row of the finished result."""
    kind = f"{backbone.identity.fingerprint} {backbone.precision}"
    Store.open(folder / FOLDER, kind).forget_others(result.images)


def _is_known(image: ImageFile, store: Store) -> bool:
    """Whether the file is as it was when its row was computed, told by its stamp."""
    file = store.files.get(image.path)
    if file is None or file.stamp is None:
        return False
    try:
        return stamp_of(image.source.stat()) == file.stamp
    except OSError:
        return False


def _collect(
    found: Found, rows: Sequence[ImageFile], store: Store, backbone: Backbone, folder: Path
) -> ImageFeatures:
    """All rows in the order of the paths, in a nameless file: they may be more than fit memory."""
    hashes = [store.files[image.path].sha256 for image in rows]
    shape = (len(rows), backbone.identity.size)
    with TemporaryFile(dir=folder) as handle:
        features = np.memmap(handle, np.float32, "w+", shape=shape)
    store.copy_rows(hashes, features)
    marked = any(image.mark for image in rows)
    return ImageFeatures(
        features,
        tuple(image.path for image in rows),
        tuple(image.class_name for image in rows),
        tuple(image.mark for image in rows) if marked else None,
        tuple(hashes),
        backbone.identity.to_dict() | {"precision": backbone.precision},
        str(found.root.absolute()),
    )
