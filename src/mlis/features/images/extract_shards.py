"""From images to finished shards, one after the other without a pause between them."""

import itertools
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing

import numpy as np

from mlis.features.backbones.base import Backbone
from mlis.features.images.batches import NOT_FINITE, Batch, Ready, computed
from mlis.features.images.embed import ready
from mlis.features.images.shards import HashedFile, Shard
from mlis.features.images.walk import Bad, ImageFile

Keep = Callable[[Shard, list[Bad]], None]
"""Is handed a finished shard, and the images of it that gave no row."""


def extract_shard(
    images: Sequence[ImageFile],
    backbone: Backbone,
    known: Collection[str] = (),
    *,
    workers: int | None = None,
    done: Callable[[int], None] = lambda images: None,
) -> tuple[Shard, list[Bad]]:
    """Features of some images; nothing is written. See `extract_shards`."""
    with closing(extract_shards([images], backbone, known, workers=workers, done=done)) as shards:
        return next(shards)


def extract_shards(
    parts: Sequence[Sequence[ImageFile]],
    backbone: Backbone,
    known: Collection[str] = (),
    *,
    workers: int | None = None,
    done: Callable[[int], None] = lambda images: None,
) -> Generator[tuple[Shard, list[Bad]], None, None]:
    """Features of images, shard by shard; nothing is written.

    While a shard is written by whoever takes it, threads read and compute the next one.

    Args:
        parts: the images of each shard.
        backbone: the model.
        known: hashes of files whose rows exist already; they are hashed and not decoded. Those of a
            shard that was taken must be among them before the next one is asked for.
        workers: threads that read and decode.
        done: is called with the number of images after each batch.

    Yields:
        Rows for the images that are neither bad, known nor of an earlier shard, and the bad ones.
    """
    now = time.time_ns()

    def read(image: ImageFile) -> Ready:
        return ready(image.path, image.source, backbone, known, now)

    images = [image for part in parts for image in part]
    ends = list(itertools.accumulate(len(part) for part in parts))
    batches = computed(images, read, backbone, workers, begun=set(), ends=set(ends))
    with closing(batches):
        seen = 0
        for end in ends:
            of_shard: list[Batch] = []
            while seen < end:
                of_shard.append(next(batches))
                seen += len(of_shard[-1].items)
                done(len(of_shard[-1].items))
            yield _shard_of(of_shard, backbone.identity.size, known)


def _shard_of(
    batches: Sequence[Batch], size: int, known: Collection[str]
) -> tuple[Shard, list[Bad]]:
    """The rows of a shard's batches, and the images without one."""
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
