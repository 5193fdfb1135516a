"""A folder of images and `labels.csv`, as `find_images` reads it: what every format becomes."""

import csv
import dataclasses
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from PIL import Image

from mlis.errors import DataError
from mlis.features.decode import ImageError, decode, quiet_pillow, read_file
from mlis.features.exchange.records import Annotated
from mlis.features.images.boxes import Box, show
from mlis.features.images.files import (
    BAD,
    LABELS,
    Bad,
    Found,
    ImageFile,
    find_images,
    write_bad,
)
from mlis.storage.atomic import clear_leftovers, temporary_name

_COLUMNS = ("path", "class", "split", "source", "box")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_LONGEST = 60  # characters of a folder: at most 240 bytes


def write_image_folder(
    rows: Iterable[ImageFile | Bad], folder: Path, *, margin: float = 0.0, replace: bool = False
) -> Found:
    """Write `CLASS/path` of each image, a PNG of each box, `labels.csv` and `bad.csv`.

    Whole images are hard links, or copies where the file system has none. The folder appears when
    it is complete.

    Args:
        rows: images and bad records, such as a reader gives.
        folder: must be empty or absent, unless it is to be replaced.
        margin: around boxes, as a fraction of the box (:meth:`Box.crop`).
        replace: delete a folder that this function wrote before.

    Returns:
        The images of the folder, and what could not be used.

    Raises:
        DataError: there is no usable image, only some have a mark of a split, or the folder holds
            other files.
        OSError: the folder cannot be written.
    """
    with new_folder(folder, replace=replace) as new, quiet_pillow():
        writer = _Writer(new, margin)
        for row in rows:
            writer.add(row)
        writer.write_lists()
    return dataclasses.replace(find_images(folder), bad=tuple(writer.bad))


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `folder` when the block succeeds.

    Raises:
        DataError: `folder` is not empty, and not one with `labels.csv` that is to be replaced.
    """
    if folder.exists() and any(folder.iterdir()) and not (replace and (folder / LABELS).exists()):
        raise DataError(f"{folder}: expected no folder, or an empty one. Choose another.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    new = folder.with_name(temporary_name(folder.name))
    new.mkdir()
    try:
        yield new
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


class _Writer:
    """Writes one image after the other; keeps the decoded one for its further boxes."""

    def __init__(self, folder: Path, margin: float):
        self.folder = folder
        self.margin = margin
        self.bad: list[Bad] = []
        self._lines: list[tuple[str, ...]] = []
        self._names = {LABELS, BAD}
        self._labels: dict[tuple[Path, Box | None], str] = {}
        self._decoded: tuple[Path, Image.Image] | None = None

    def add(self, row: ImageFile | Bad) -> None:
        """Write an image, or note why it cannot be used."""
        if isinstance(row, Bad):
            self.bad.append(row)
            return
        try:
            self._add(row, row.data if isinstance(row, Annotated) else None)
        except (ImageError, ValueError) as error:
            where = row.where if isinstance(row, Annotated) else ""
            self.bad.append(Bad(row.path, f"{where}: {error}" if where else str(error)))

    def _add(self, row: ImageFile, data: bytes | None) -> None:
        row.class_name.encode()  # raises ValueError for half a surrogate pair
        if data is None:
            if not row.source.is_file() or not os.access(row.source, os.R_OK):
                raise ImageError("no such file, or no permission to read it")
            first = self._labels.get((row.source, row.box))
            if first is not None:  # several people may have labelled it
                if first != row.class_name:
                    raise ImageError(f"labelled {row.class_name!r}, and {first!r} before")
                return
        crop, edges = self._crop(row)
        place = self._place(row, edges)
        if crop is not None:
            crop.save(place, "PNG")
        elif data is None:
            link(row.source, place)
        else:
            place.write_bytes(data)
        self._labels[row.source, row.box] = row.class_name
        name = place.relative_to(self.folder).as_posix()
        self._lines.append((name, row.class_name, row.mark, row.path, edges))

    def _crop(self, row: ImageFile) -> tuple[Image.Image | None, str]:
        """The crop, and its "x y width height"; None and "" for the whole picture."""
        if row.box is None:
            return None, ""
        if self._decoded is None or self._decoded[0] != row.source:
            self._decoded = row.source, decode(read_file(row.source, time.time_ns()).data)
        picture = self._decoded[1]
        size = row.size if isinstance(row, Annotated) else None
        if size is not None and size != picture.size:
            raise ImageError(
                f"expected {size[0]} × {size[1]} pixels, as the boxes, got {picture.width} × "
                f"{picture.height} (upright)"
            )
        left, upper, right, lower = row.box.crop(picture.size, self.margin)
        if (left, upper, right, lower) == (0, 0, *picture.size):
            return None, ""
        edges = show((left, upper, right - left, lower - upper))
        return picture.crop((left, upper, right, lower)), edges

    def _place(self, row: ImageFile, edges: str) -> Path:
        """A file that is not there yet, in the folder of its class."""
        parts = [part.strip() or "_" for part in row.path.split("/")]
        own = _UNSAFE.sub("_", row.class_name).strip(" .")[:_LONGEST] or "_"
        if row.class_name and (len(parts) == 1 or parts[0] != own):
            parts = [own, *parts]
        name = PurePosixPath(*parts)
        if edges:
            name = name.with_name(f"{name.stem}_{edges.replace(' ', '-')}.png")
        free, number = name, 1
        while str(free).casefold() in self._names:
            number += 1
            free = name.with_name(f"{name.stem}-{number}{name.suffix}")
        self._names.add(str(free).casefold())
        place = self.folder / free
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def write_lists(self) -> None:
        """Write `labels.csv` and `bad.csv`."""
        if not self._lines:
            first = f"; the first is {self.bad[0].path}: {self.bad[0].reason}" if self.bad else ""
            raise DataError(f"expected images, got {len(self.bad)} unusable records{first}.")
        without = [line for line in self._lines if not line[2]]
        marked = len(without) < len(self._lines)
        if marked and without:
            raise DataError(
                f"{without[0][3]}: expected a part of the split for each image, got none for "
                f"{len(without)} of {len(self._lines)}. Mark all, or none."
            )
        kept = [i for i, name in enumerate(_COLUMNS) if marked or name != "split"]
        with (self.folder / LABELS).open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")  # read again: nothing is escaped
            writer.writerows([line[i] for i in kept] for line in (_COLUMNS, *sorted(self._lines)))
        write_bad(self.folder, self.bad)


def link(source: Path, place: Path) -> None:
    """A hard link to a file, or a copy where that is impossible."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), place)
    except OSError:
        shutil.copyfile(source, place)
