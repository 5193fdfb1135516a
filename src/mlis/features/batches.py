"""Images of one shard through the model: read, decoded and computed in parallel, kept in order.

Threads read, hash and decode files while other threads compute: Pillow and torch let go of
Python's lock. On a CPU several batches are computed at once, each by its share of the processors:
all of them on one batch wait for one another after every layer, and for the threads that decode.
Which images make a batch does not depend on any of this, and neither do their features.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from mlis.features.backbones import Backbone
from mlis.features.decode import ImageError, decode, quiet_pillow, read_file
from mlis.features.shards import HashedFile, Shard
from mlis.features.walk import Bad, ImageFile

MOST_AT_ONCE = 16
"""Batches that are computed at once: each takes some 100 MB while it is in the model."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Features = dict[str, np.ndarray]


def extract_shard(
    images: Sequence[ImageFile],
    backbone: Backbone,
    known: Collection[str] = (),
    *,
    workers: int | None = None,
    done: Callable[[int], None] = lambda images: None,
) -> tuple[Shard, list[Bad]]:
    """Features of some images; nothing is written.

    Args:
        images: what to read.
        backbone: the model.
        known: hashes of files whose rows exist already; they are hashed and not decoded.
        workers: threads that read and decode.
        done: is called with the number of images after each batch.

    Returns:
        Rows for the images that are neither bad nor known, and the bad ones.
    """
    rows: Features = {}
    files: list[HashedFile] = []
    bad: list[Bad] = []
    now = time.time_ns()
    workers = workers or os.cpu_count() or 1

    def read(image: ImageFile) -> _Read:
        return _read(image, backbone, known, now)

    def compute(batch: "_Batch") -> tuple[_Batch, Features]:
        return batch, _compute(backbone, batch.new)

    with (
        quiet_pillow(),
        model_threads(backbone) as (models, at_once),
        ThreadPoolExecutor(workers, "decode") as pool,
    ):
        ahead = (1 + at_once) * backbone.batch + workers
        batches = _batches(_in_order(pool, read, images, ahead), backbone.batch)
        for batch, computed in _in_order(models, compute, batches, at_once + 1):
            rows |= {sha256: row for sha256, row in computed.items() if np.isfinite(row).all()}
            for item in batch.items:
                reason = item.reason
                if not reason and item.sha256 not in rows and item.sha256 not in known:
                    reason = "the model's features of it are not finite"
                if reason:
                    bad.append(Bad(item.path, reason))
                else:
                    files.append(HashedFile(item.path, item.sha256, item.stamp))
            done(len(batch.items))
    none = np.empty((0, backbone.identity.size), dtype=np.float32)
    return Shard(np.stack(list(rows.values())) if rows else none, tuple(rows), tuple(files)), bad


@dataclass(frozen=True, eq=False)
class _Read:
    """A file as a thread leaves it: prepared, known (no pixels), or bad (a reason)."""

    path: str
    sha256: str = ""
    stamp: tuple[int, ...] | None = None
    pixels: np.ndarray | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Files in their order, and the pixels of those to be computed by their hashes."""

    items: list[_Read]
    new: Features


def _read(image: ImageFile, backbone: Backbone, known: Collection[str], now: int) -> _Read:
    try:
        file = read_file(image.source, now)
        pixels = None
        if file.sha256 not in known:
            pixels = backbone.prepare(decode(file.data, backbone.enough))
        return _Read(image.path, file.sha256, file.stamp, pixels)
    except ImageError as error:
        return _Read(image.path, reason=str(error))
    except Exception as error:  # a processor that fails on one image must not end the run
        reason = str(error).partition("\n")[0] or type(error).__name__
        return _Read(image.path, reason=f"cannot be prepared: {reason}")


def _batches(items: Iterable[_Read], size: int) -> Iterator[_Batch]:
    """`size` images to compute each; known, bad and repeated ones come along."""
    batch, begun = _Batch([], {}), set[str]()
    for item in items:
        batch.items.append(item)
        if item.pixels is not None and item.sha256 not in begun:
            begun.add(item.sha256)
            batch.new[item.sha256] = item.pixels
        if len(batch.new) == size or len(batch.items) >= 64 * size:
            yield batch
            batch = _Batch([], {})
    if batch.items:
        yield batch


def _compute(backbone: Backbone, new: Features) -> Features:
    """Features of prepared images by their hashes, those of one shape together."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for sha256, pixels in new.items():
        by_shape.setdefault(pixels.shape, []).append(sha256)
    found: Features = {}
    for hashes in by_shape.values():
        found |= zip(hashes, backbone([new[sha256] for sha256 in hashes]), strict=True)
    return {sha256: found[sha256] for sha256 in new}


@contextmanager
def model_threads(backbone: Backbone) -> Iterator[tuple[Executor, int]]:
    """Threads that compute, and how many; torch's own are shared out among them."""
    threads = torch.get_num_threads()
    at_once = min(threads, MOST_AT_ONCE) if backbone.on_cpu else 1
    share = max(1, threads // at_once)
    try:
        with ThreadPoolExecutor(at_once, "model", torch.set_num_threads, (share,)) as pool:
            yield pool, at_once
    finally:
        torch.set_num_threads(threads)  # new threads would get the share


def _in_order(
    pool: Executor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """Results in the order of the items, at most `ahead` of them waiting."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # stopped half way: what has not begun need not
            future.cancel()
