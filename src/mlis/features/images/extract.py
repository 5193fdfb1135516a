"""From a folder of images to a feature folder, in shards that survive an interruption.

Each file is read once. Images whose hash is known are not computed again.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

import numpy as np

from mlis.data.io.feature_folder import (
    ImageFeatures,
    is_feature_folder,
    read_record,
    write_feature_folder,
)
from mlis.errors import DataError
from mlis.features.backbones.base import Backbone, show_spec, views_of
from mlis.features.decode import stamp_of
from mlis.features.images.files import Bad, Found, ImageFile, write_bad
from mlis.features.images.shards import FOLDER, Keep, Shard, Store, compute_shards
from mlis.storage.folders import replaced_together
from mlis.storage.locks import held

SHARD_IMAGES = 512
"""Images per shard: the work that an interruption can lose."""


class Progress(Protocol):
    """Callback for the progress of an extraction."""

    def started(self, total: int, known: int) -> None:
        """There are `total` images, of which `known` have features."""

    def done(self, images: int) -> None:
        """Another `images` images were read, including known and bad ones."""


Compute = Callable[
    [Sequence[Sequence[ImageFile]], Collection[str], Keep, Callable[[int], None]], None
]
"""Computes the images of each part, except known hashes, here or on other machines; is handed what
keeps finished shards, and what counts images."""


@dataclass(frozen=True, eq=False)
class Extraction:
    """Result of an extraction.

    Attributes:
        images: rows in the order of the paths.
        bad: files without a row, with reasons.
        computed: images computed in this run.
        seconds: wall time of this run.
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
    progress: Progress | None = None,
    compute: Compute | None = None,
) -> Extraction:
    """Compute the features that `folder` does not contain yet, and return those of all images.

    Finished shards are written to `folder/shards`. Bad files are tried again in every run. Images
    with the same content share one computation.

    Args:
        found: the images.
        backbone: the model.
        folder: created if absent.
        shard_images: images per shard.
        workers: threads that decode; default: the number of processors.
        progress: callback.
        compute: computes shards elsewhere (:mod:`mlis.features.images.ray_shards`); `workers` is
            then ignored.

    Raises:
        DataError: none of the images could be read.
        OSError: the folder cannot be written.
    """
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    store = _store(folder, backbone)
    todo = [image for image in found.images if not _is_known(image, store)]
    if progress is not None:
        progress.started(len(found.images), len(found.images) - len(todo))
    done = (lambda _: None) if progress is None else progress.done
    parts = [todo[start : start + shard_images] for start in range(0, len(todo), shard_images)]
    without_row: list[Bad] = []
    computed = 0

    def keep(shard: Shard, bad: list[Bad]) -> None:
        nonlocal computed
        without_row.extend(bad)
        computed += len(shard.rows)
        if shard.files:
            store.add(shard)

    if compute is not None:
        compute(parts, store.at.keys(), keep, done)
    else:
        shards = compute_shards(parts, backbone, store.at.keys(), workers=workers, done=done)
        with closing(shards):
            for shard, bad in shards:
                keep(shard, bad)
    all_bad = (*found.bad, *sorted(without_row, key=lambda each: each.path))
    images = _collect(found, all_bad, store, backbone, folder)
    return Extraction(images, all_bad, computed, time.perf_counter() - began)


def extract_folder(
    found: Found,
    backbone: Backbone,
    folder: Path,
    *,
    replace: bool = False,
    **options: Any,
) -> Extraction:
    """`extract`, whose options are taken, then write the feature folder and `bad.csv`.

    Raises:
        DataError: the folder contains features of another backbone, or other views, and `replace`
            is False.
    """
    if not replace:
        _check_backbone(folder, backbone)
    with held(folder):
        result = extract(found, backbone, folder, **options)
        with replaced_together(folder) as new:
            write_feature_folder(result.images, new)
            write_bad(new, result.bad)
        remove_unused_shards(result, backbone, folder)
    return result


def remove_unused_shards(result: Extraction, backbone: Backbone, folder: Path) -> None:
    """Delete shards without a row of the finished result."""
    _store(folder, backbone).remove_unused(result.images)


def _store(folder: Path, backbone: Backbone) -> Store:
    return Store.open(folder / FOLDER, f"{backbone.identity.fingerprint} {backbone.precision}")


def _check_backbone(folder: Path, backbone: Backbone) -> None:
    """Raise `DataError` if `folder` contains features of another backbone or of other views."""
    if not is_feature_folder(folder):
        return
    recorded = read_record(folder)["backbone"]
    if recorded.get("fingerprint") != backbone.identity.fingerprint:
        views = views_of(recorded)
        keep = f"Add --views {','.join(views)}, choose" if views != backbone.identity.views else ""
        raise DataError(
            f"{folder}: expected features of {backbone.identity}, got those of "
            f"{show_spec(recorded)}. {keep or 'Choose'} another folder, or replace them with "
            "--force."
        )


def _is_known(image: ImageFile, store: Store) -> bool:
    """Whether the file is unchanged since its row was computed, according to its stamp."""
    file = store.files.get(image.path)
    if file is None or file.stamp is None:
        return False
    try:
        return stamp_of(image.source.stat()) == file.stamp
    except OSError:
        return False


def _collect(
    found: Found, bad: Sequence[Bad], store: Store, backbone: Backbone, folder: Path
) -> ImageFeatures:
    """All rows in the order of the paths, in an unnamed file, as they may exceed memory."""
    bad_paths = {each.path for each in bad}
    images = [image for image in found.images if image.path not in bad_paths]
    if not images:
        raise DataError(
            f"{found.root}: expected images, got {len(found.images)} unusable files; the first is "
            f"{bad[0].path}: {bad[0].reason}."
        )
    hashes = [store.files[image.path].sha256 for image in images]
    with TemporaryFile(dir=folder) as handle:
        features = np.memmap(handle, np.float32, "w+", shape=(len(images), backbone.identity.size))
    store.copy_rows(hashes, features)
    marked = any(image.mark for image in images)
    return ImageFeatures(
        features,
        tuple(image.path for image in images),
        tuple(image.class_name for image in images),
        tuple(image.mark for image in images) if marked else None,
        tuple(hashes),
        backbone.identity.to_dict() | {"precision": backbone.precision},
        str(found.root.absolute()),
    )
