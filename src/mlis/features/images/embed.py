"""Features of images by a backbone, in batches, from files or from memory.

Threads read and decode images while others compute: Pillow and PyTorch release Python's lock. On a
CPU several batches are computed side by side, each with its share of the processors, as threads
that share one batch would wait for each other after every layer. The composition of batches does
not depend on this.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sized
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from mlis.compute.memory import is_shortage
from mlis.errors import OutOfMemoryError
from mlis.features.backbones.base import Backbone
from mlis.features.decode import ImageError, decode, quiet_pillow, read_file, rgb

Picture = str | os.PathLike[str] | Image.Image
"""A file, or an image in memory."""
MOST_AT_ONCE = 16
"""Batches computed side by side; each needs about 100 MB in the model."""
NOT_FINITE = "its features are not finite"
_ONE_BY_ONE = threading.Lock()

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Ready:
    """An image as read by a thread: prepared, known (no pixels), or bad (with a reason)."""

    path: str
    sha256: str = ""  # of the file; for an image in memory, its name
    stamp: tuple[int, ...] | None = None
    pixels: np.ndarray | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images in order, and features (Dx,) float32 by hash; before computing, prepared pixels."""

    items: list[Ready]
    rows: Rows


@dataclass(frozen=True, eq=False)
class Embedded:
    """Features (Dx,) float32 of one image, or the reason for having none."""

    path: str
    features: np.ndarray | None
    reason: str = ""


def embed(
    images: Iterable[Picture], backbone: Backbone, *, workers: int | None = None
) -> Iterator[list[Embedded]]:
    """Features of images in order, batch by batch; nothing is stored.

    Args:
        images: files, or images in memory, which are named `image 0`, `image 1`, ….
        backbone: the model.
        workers: threads that read and decode; default: the number of processors.

    Raises:
        OutOfMemoryError: a single image does not fit into memory.
    """
    now = time.time_ns()
    pairs = enumerate(images)
    numbered = list(pairs) if isinstance(images, Sized) else pairs

    def read(pair: tuple[int, Picture]) -> Ready:
        number, image = pair
        if isinstance(image, Image.Image):
            name = f"image {number}"
            return _attempt(name, lambda: Ready(name, name, pixels=backbone.prepare(rgb(image))))
        return read_image(os.fspath(image), Path(image), backbone, (), now)

    for batch in compute_batches(numbered, read, backbone, workers):
        yield [_embedded(item, batch.rows) for item in batch.items]


def _embedded(item: Ready, rows: Rows) -> Embedded:
    found = rows.get(item.sha256)
    return Embedded(item.path, found, item.reason or (NOT_FINITE if found is None else ""))


# --- reading ------------------------------------------------------------------------------------


def read_image(
    path: str, source: Path, backbone: Backbone, known: Collection[str], now_ns: int
) -> Ready:
    """Read, decode and prepare a file; if its hash is in `known`, it is not decoded.

    Raises:
        OutOfMemoryError: it does not fit into memory.
    """

    def work() -> Ready:
        file = read_file(source, now_ns)
        pixels = None
        if file.sha256 not in known:
            pixels = backbone.prepare(decode(file.data, backbone.enough))
        return Ready(path, file.sha256, file.stamp, pixels)

    return _attempt(path, work)


def _attempt(path: str, work: Callable[[], Ready]) -> Ready:
    """Result of `work`, or the reason for its failure.

    After a memory shortage it is tried again, one image at a time: whether an image gets features
    must not depend on the load of the machine.
    """
    try:
        try:
            return work()
        except Exception as error:
            if not is_shortage(error):
                raise
        with _ONE_BY_ONE:
            return work()
    except Exception as error:  # a processor may fail on any image; the run continues
        if is_shortage(error):
            raise OutOfMemoryError(
                f"{path}: out of memory for its pixels: reduce --workers (threads that decode in "
                "parallel), make the image smaller, or use a larger machine"
            ) from error
        text = str(error).partition("\n")[0] or type(error).__name__
        known = isinstance(error, ImageError)
        return Ready(path, reason=text if known else f"cannot be prepared: {text}")


# --- computing ----------------------------------------------------------------------------------


def compute_batches(
    items: Iterable[Item],
    read: Callable[[Item], Ready],
    backbone: Backbone,
    workers: int | None = None,
    begun: set[str] | None = None,
    ends: Collection[int] = (),
) -> Generator[Batch, None, None]:
    """Read each item, and compute its features.

    Args:
        items: images.
        read: called in threads.
        backbone: the model.
        workers: threads that read; default: the number of processors.
        begun: hashes that are not computed again; new ones are added. If None, equal images share
            a computation only within a batch.
        ends: numbers of items, counted from 1, after which a batch ends.

    Yields:
        Batches in the order of the items, without features that are not finite.
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
    """Batches to compute side by side; a single batch is fastest on all processors."""
    if not backbone.on_cpu:
        return 1
    most = min(torch.get_num_threads(), MOST_AT_ONCE)
    return max(1, min(most, -(-len(items) // backbone.batch))) if isinstance(items, Sized) else most


@contextmanager
def model_threads(at_once: int) -> Iterator[Executor]:
    """An executor for computing; PyTorch's threads are divided among its threads meanwhile."""
    threads = torch.get_num_threads()
    share = max(1, threads // at_once)
    try:
        with ThreadPoolExecutor(at_once, "model", torch.set_num_threads, (share,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # the default of new threads


def _batches(
    items: Iterable[Ready], size: int, begun: set[str] | None, ends: Collection[int]
) -> Iterator[Batch]:
    """Batches with `size` images to compute; known, bad and repeated ones are included."""
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
    """Features of prepared images, grouped by shape (of several models' inputs, by dtype)."""
    alike: dict[tuple[tuple[int, ...], np.dtype], list[str]] = {}
    for sha256, image in pixels.items():
        alike.setdefault((image.shape, image.dtype), []).append(sha256)
    rows: Rows = {}
    for hashes in alike.values():
        found = backbone([pixels[sha256] for sha256 in hashes])
        rows |= {key: row for key, row in zip(hashes, found, strict=True) if np.isfinite(row).all()}
    return rows


def _in_order(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`pool.map` that submits at most `ahead` items in advance.

    Where `items` fails, the results before it are yielded first, so that finished shards are kept.
    """
    waiting: deque[Future[Result]] = deque()
    source, failure = iter(items), None
    try:
        while True:
            try:
                waiting.append(pool.submit(work, next(source)))
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if failure:
            raise failure
    finally:
        for future in waiting:  # the consumer stopped early
            future.cancel()
