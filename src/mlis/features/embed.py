"""Images through a pretrained model, batch by batch, as they come from files or from memory.

Files are read, hashed and decoded by threads while the model computes: Pillow lets go of Python's
lock while it decodes. What cannot be read gets a reason, and costs nothing else.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from mlis.features.backbones import Backbone
from mlis.features.decode import ImageError, decode, quiet_pillow, read_file, rgb

Picture = str | os.PathLike[str] | Image.Image
"""A file, or an image in memory."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Embedded:
    """Features (Dx,) float32 of one image, or the reason why it has none."""

    path: str
    features: np.ndarray | None
    reason: str = ""


def embed(
    images: Iterable[Picture], backbone: Backbone, *, workers: int | None = None
) -> Iterator[list[Embedded]]:
    """Features of images, some at a time, in their order; nothing is kept of them.

    Args:
        images: files, or images in memory, whose names are `image 0`, `image 1`, ….
        backbone: the model.
        workers: threads that read and decode; as many as there are processors where absent.
    """
    now = time.time_ns()

    def read(numbered: tuple[int, Picture]) -> Ready:
        number, image = numbered
        if isinstance(image, Image.Image):
            return _in_memory(f"image {number}", image, backbone)
        return ready(os.fspath(image), Path(image), backbone, (), now)

    for batch in batches(enumerate(images), read, backbone, workers):
        rows: dict[str, np.ndarray] = {}
        wrong = compute(batch, backbone, rows)
        yield [
            Embedded(item.path, rows.get(item.sha256), item.reason or wrong.get(item.sha256, ""))
            for item in batch
        ]


@dataclass(frozen=True, eq=False)
class Ready:
    """An image as a thread leaves it: prepared, known (no pixels), or bad (a reason)."""

    path: str
    sha256: str = ""  # of the file; of an image in memory its name
    stamp: tuple[int, ...] | None = None
    pixels: np.ndarray | None = None
    reason: str = ""


def ready(
    path: str, source: Path, backbone: Backbone, known: Collection[str], now_ns: int
) -> Ready:
    """Read, decode and prepare a file; one whose hash is `known` is only hashed."""
    try:
        file = read_file(source, now_ns)
        pixels = None
        if file.sha256 not in known:
            pixels = backbone.prepare(decode(file.data, backbone.enough))
        return Ready(path, file.sha256, file.stamp, pixels)
    except Exception as error:
        return Ready(path, reason=_reason(error))


def _in_memory(name: str, image: Image.Image, backbone: Backbone) -> Ready:
    try:
        return Ready(name, name, pixels=backbone.prepare(rgb(image)))
    except Exception as error:
        return Ready(name, reason=_reason(error))


def _reason(error: Exception) -> str:
    """Whatever it is must not end the run: a processor may fail on one image."""
    text = str(error).partition("\n")[0] or type(error).__name__
    return text if isinstance(error, ImageError) else f"cannot be prepared: {text}"


def batches(
    items: Iterable[Item], read: Callable[[Item], Ready], backbone: Backbone, workers: int | None
) -> Iterator[list[Ready]]:
    """What `read` makes of each item, by threads, in lists for the model to compute at once."""
    workers = workers or os.cpu_count() or 1
    with quiet_pillow(), ThreadPoolExecutor(workers, "decode") as pool:
        each = _in_order(pool, read, items, ahead=2 * backbone.batch + workers)
        yield from _lists(each, backbone.batch)


def _in_order(
    pool: ThreadPoolExecutor,
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


def _lists(items: Iterable[Ready], size: int) -> Iterator[list[Ready]]:
    """Lists with `size` images to compute each; known and bad ones come along."""
    batch: list[Ready] = []
    count = 0
    for item in items:
        batch.append(item)
        count += item.pixels is not None
        if count == size or len(batch) >= 64 * size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def compute(
    batch: Sequence[Ready], backbone: Backbone, rows: dict[str, np.ndarray]
) -> dict[str, str]:
    """Add features of new images to `rows`, by hash; give the reasons of those that have none.

    Images of one shape go through the model together, those of the same content once.
    """
    new: dict[str, np.ndarray] = {}
    for item in batch:
        if item.pixels is not None and item.sha256 not in rows:
            new.setdefault(item.sha256, item.pixels)
    wrong: dict[str, str] = {}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for sha256, pixels in new.items():
        by_shape.setdefault(pixels.shape, []).append(sha256)
    for hashes in by_shape.values():
        computed = backbone([new[sha256] for sha256 in hashes])
        for sha256, row in zip(hashes, computed, strict=True):
            if np.isfinite(row).all():
                rows[sha256] = row
            else:
                wrong[sha256] = "the model's features of it are not finite"
    return wrong
