"""Batches of images through a model, in order: read by threads, computed side by side.

Threads read and decode while others compute: Pillow and torch let go of Python's lock. On a CPU
several batches are computed at once, each by its share of the processors: all of them on one batch
wait for one another after every layer, and for the threads that decode. Which images make a batch
does not depend on any of this.
"""

import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sized
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from mlis.features.backbones.base import Backbone
from mlis.features.images.decode import quiet_pillow

MOST_AT_ONCE = 16
"""Batches that are computed side by side: each takes some 100 MB while it is in the model."""
NOT_FINITE = "the model's features of it are not finite"

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Ready:
    """An image as a thread leaves it: prepared, known (no pixels), or bad (a reason)."""

    path: str
    sha256: str = ""  # of the file; of an image in memory its name
    stamp: tuple[int, ...] | None = None
    pixels: np.ndarray | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images in their order, and by hash the features (Dx,) float32 of those that have some.

    Before it is computed, `rows` are the prepared pixels.
    """

    items: list[Ready]
    rows: Rows


def computed(
    items: Iterable[Item],
    read: Callable[[Item], Ready],
    backbone: Backbone,
    workers: int | None = None,
    begun: set[str] | None = None,
    ends: Collection[int] = (),
) -> Generator[Batch, None, None]:
    """What `read` makes of each item, and its features.

    Args:
        items: images.
        read: called by threads.
        backbone: the model.
        workers: threads that read; as many as there are processors where absent.
        begun: hashes that need no computing again; the new ones are added. Where absent, equal
            images share a computation only within a batch.
        ends: a batch ends with these items, counted from 1, so that none belongs to two shards.

    Yields:
        Batches in the order of the items. Features that are not finite are left out.
    """
    workers = workers or os.cpu_count() or 1
    at_once = _at_once(items, backbone)

    def compute(batch: Batch) -> Batch:
        return Batch(batch.items, _compute(backbone, batch.rows))

    with quiet_pillow(), ThreadPoolExecutor(workers, "decode") as pool:
        ready = _in_order(pool, read, items, (1 + at_once) * backbone.batch + workers)
        batches = _batches(ready, backbone.batch, begun, ends)
        if at_once == 1:
            yield from map(compute, batches)
            return
        with model_threads(at_once) as models:
            yield from _in_order(models, compute, batches, at_once + 1)


def _at_once(items: Iterable[object], backbone: Backbone) -> int:
    """Batches to compute side by side: a single one is done soonest by all processors."""
    if not backbone.on_cpu:
        return 1
    most = min(torch.get_num_threads(), MOST_AT_ONCE)
    return max(1, min(most, -(-len(items) // backbone.batch))) if isinstance(items, Sized) else most


@contextmanager
def model_threads(at_once: int) -> Iterator[Executor]:
    """Threads that compute; torch's own are shared out among them until they end."""
    threads = torch.get_num_threads()
    share = max(1, threads // at_once)
    try:
        with ThreadPoolExecutor(at_once, "model", torch.set_num_threads, (share,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # new threads would get the share


def _batches(
    items: Iterable[Ready], size: int, begun: set[str] | None, ends: Collection[int]
) -> Iterator[Batch]:
    """`size` images to compute each; known, bad and repeated ones come along."""
    batch = Batch([], {})
    for number, item in enumerate(items, 1):
        batch.items.append(item)
        if item.pixels is not None and item.sha256 not in (batch.rows if begun is None else begun):
            batch.rows[item.sha256] = item.pixels
            if begun is not None:
                begun.add(item.sha256)
        if number in ends or len(batch.rows) == size or len(batch.items) >= 64 * size:
            yield batch
            batch = Batch([], {})
    if batch.items:
        yield batch


def _compute(backbone: Backbone, pixels: Rows) -> Rows:
    """Features of prepared images, those of one shape together."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for sha256, image in pixels.items():
        by_shape.setdefault(image.shape, []).append(sha256)
    rows: Rows = {}
    for hashes in by_shape.values():
        found = backbone([pixels[sha256] for sha256 in hashes])
        rows |= {key: row for key, row in zip(hashes, found, strict=True) if np.isfinite(row).all()}
    return rows


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
