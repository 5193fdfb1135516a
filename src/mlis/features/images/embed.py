"""Images through a pretrained model, batch by batch, as they come from files or from memory.

What cannot be read gets a reason, and costs nothing else.
"""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mlis.compute.memory import is_shortage
from mlis.errors import OutOfMemoryError
from mlis.features.backbones.base import Backbone
from mlis.features.images.batches import NOT_FINITE, Ready, Rows, computed
from mlis.features.images.decode import ImageError, decode, read_file, rgb

Picture = str | os.PathLike[str] | Image.Image
"""A file, or an image in memory."""
_ONE_BY_ONE = threading.Lock()


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

    Raises:
        OutOfMemoryError: one image alone does not fit the memory.
    """
    now = time.time_ns()
    pairs = enumerate(images)
    numbered = list(pairs) if isinstance(images, Sized) else pairs

    def read(pair: tuple[int, Picture]) -> Ready:
        number, image = pair
        if isinstance(image, Image.Image):
            return _in_memory(f"image {number}", image, backbone)
        return ready(os.fspath(image), Path(image), backbone, (), now)

    for batch in computed(numbered, read, backbone, workers):
        yield [_embedded(item, batch.rows) for item in batch.items]


def _embedded(item: Ready, rows: Rows) -> Embedded:
    found = rows.get(item.sha256)
    return Embedded(item.path, found, item.reason or (NOT_FINITE if found is None else ""))


def ready(
    path: str, source: Path, backbone: Backbone, known: Collection[str], now_ns: int
) -> Ready:
    """Read, decode and prepare a file; one whose hash is `known` is only hashed.

    Raises:
        OutOfMemoryError: there is no memory for it.
    """

    def work() -> Ready:
        file = read_file(source, now_ns)
        pixels = None
        if file.sha256 not in known:
            pixels = backbone.prepare(decode(file.data, backbone.enough))
        return Ready(path, file.sha256, file.stamp, pixels)

    return _reasoned(path, work)


def _in_memory(name: str, image: Image.Image, backbone: Backbone) -> Ready:
    return _reasoned(name, lambda: Ready(name, name, pixels=backbone.prepare(rgb(image))))


def _reasoned(path: str, work: Callable[[], Ready]) -> Ready:
    """What `work` gives, or why not; once more, one image at a time, where memory was short.

    A shortage is no reason: which images have features must not depend on what else a machine does.
    """
    try:
        try:
            return work()
        except Exception as error:
            if not is_shortage(error):
                raise
        with _ONE_BY_ONE:
            return work()
    except Exception as error:
        if is_shortage(error):
            raise OutOfMemoryError(
                f"{path}: memory does not suffice for its pixels: lower --workers (threads that "
                "decode at once), make this image smaller, or use a larger machine"
            ) from error
        return Ready(path, reason=_reason(error))


def _reason(error: Exception) -> str:
    """Whatever it is must not end the run: a processor may fail on one image."""
    text = str(error).partition("\n")[0] or type(error).__name__
    return text if isinstance(error, ImageError) else f"cannot be prepared: {text}"
