"""Image files and their classes, from folders or from a table of paths and classes."""

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

from mlis.data.io.csv_file import parse_number, read_csv, write_csv
from mlis.data.io.text_table import Columns, find_column, read_table
from mlis.data.labels import normal, shorten
from mlis.errors import DataError
from mlis.features.images.boxes import COLUMNS, Box

logger: logging.Logger = logging.getLogger(__name__)

_IGNORED = {"thumbs.db", "desktop.ini"}
_MARKS = {"train": "train", "trainval": "train", "val": "val", "test": "test"}
_MARKS |= {"test_seen": "test", "test_unseen": "test"}
SPLIT_NAMES = _MARKS | {"training": "train", "valid": "val", "validation": "val"}
SPLIT_NAMES |= {"testing": "test"}
"""Names of the parts of a split, and their marks."""
BAD = "bad.csv"
LABELS = "labels.csv"
"""Paths and classes of the images beside it; `mlis data import` writes it."""
PATHS = ("path", "file", "filename", "file_name", "image")


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes:
        path: relative to the root, with `/`; bytes that are not UTF-8 are written as `\\xff`.
        source: path to open.
        class_name: empty if there is none.
        mark: train, val or test; empty if rows are not marked.
        box: the part of the picture that is meant; None for the whole.
    """

    path: str
    source: Path
    class_name: str = ""
    mark: str = ""
    box: Box | None = None


@dataclass(frozen=True)
class Bad:
    """A file without features, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """All images of a folder, sorted by path."""

    root: Path
    images: tuple[ImageFile, ...]
    bad: tuple[Bad, ...] = ()
    unlisted: int = 0  # files that are not in the table of classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Sorted names of the classes with files."""
        return tuple(sorted({image.class_name for image in self.images} - {""}))


def find_images(
    root: Path, table: Path | None = None, *, class_column: str = "class", path_column: str = ""
) -> Found:
    """Find the images of a folder.

    Without a table, the class of `root/a/b/c.jpg` is `a`, at any depth; files directly in `root`
    have no class. If all folders in `root` are parts of a split, the class of
    `root/train/a/b/c.jpg` is `a` and its mark is train. All files except hidden ones are included,
    whether or not they turn out to be images. Links are followed; each folder is read once. A
    `labels.csv` in `root` with the columns `path` and `class` is taken as `table`.

    Args:
        root: the folder.
        table: CSV, TSV or Parquet with a column of paths relative to `root`, one of classes, and
            optionally `split`: train (or trainval), val, test (or test_seen, test_unseen). Only
            the files in the table are included. With columns x, y, width and height, a row is a
            box in the picture, in pixels; a picture may have several.
        class_column: its column of classes; empty if there is none.
        path_column: its column of paths; default: the first of path, file, filename, image.

    Raises:
        DataError: the folder is missing or empty, parts of a split are mixed with other folders,
            or the table is invalid.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder.")
    files, bad = _walk(root)
    if table is None and _has_labels(root / LABELS):
        table = root / LABELS
        check_no_boxes(table, read_table(table))
    if table is not None:
        files = [file for file in files if not _same(file, table)]
        found = _listed(root, table, class_column, path_column, files)
    else:
        images = _by_split(root, [_by_folder(root, file) for file in files])
        found = Found(root, tuple(sorted(images, key=lambda image: image.path)), tuple(bad))
    if not found.images:
        raise DataError(f"{root}: expected files, got none.")
    return found


def images_of_classes(folder: Path) -> list[ImageFile]:
    """Images of a folder that is named after their class, or that holds such folders.

    Those of a folder `test` are left out.

    Raises:
        DataError: the folder is missing or empty, or holds both.
    """
    found = [one for one in find_images(folder).images if not one.mark.startswith("test")]
    direct = [one for one in found if not one.class_name]
    if direct and len(direct) < len(found):
        raise DataError(
            f"{folder}: expected images of one class or a folder for each class, got both, such as "
            f"{direct[0].path}. Move it into a class's folder."
        )
    name = normal(folder.resolve().name)
    return [
        replace(one, path=f"{folder}/{one.path}", class_name=one.class_name or name)
        for one in found
    ]


def write_bad(folder: Path, bad: Sequence[Bad]) -> None:
    """Write path and reason of the files without features to `bad.csv`."""
    write_csv(folder / BAD, ("path", "reason"), [(each.path, each.reason) for each in bad])


def shown(path: os.PathLike[str] | str) -> str:
    """A path or name as UTF-8 text; other bytes are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def check_no_boxes(table: Path, columns: Columns) -> None:
    """Raise `DataError` for a table of boxes, where whole pictures are expected."""
    if set(COLUMNS) <= columns.keys():
        raise DataError(
            f"{table}: expected whole pictures, got boxes (columns {', '.join(COLUMNS)}). Cut them "
            f"first (mlis data import {table.name} -o FOLDER), and give that folder."
        )


def _has_labels(table: Path) -> bool:
    return table.is_file() and {PATHS[0], "class"} <= set(read_csv(table)[0])


def _same(one: Path, other: Path) -> bool:
    return one.name == other.name and one.resolve() == other.resolve()


def _by_folder(root: Path, file: Path) -> ImageFile:
    relative = file.relative_to(root)
    class_name = normal(shown(relative.parts[0])) if len(relative.parts) > 1 else ""
    return ImageFile(shown(relative), file, class_name)


def _by_split(root: Path, images: list[ImageFile]) -> list[ImageFile]:
    """Images with marks, and the second folder as class, if the first ones are a split."""
    tops = sorted({image.class_name for image in images} - {""})
    parts = [name for name in tops if name.casefold() in SPLIT_NAMES]
    nested = all(image.path.count("/") > 1 for image in images if image.class_name in parts)
    if not parts or (len(parts) == 1 and (len(tops) > 1 or not nested)):
        return images  # a class may be called "train"
    if parts != tops or not nested:
        raise DataError(
            f"{root}: {shorten(parts)} look like parts of a split: expected images in "
            f"{parts[0]}/CLASS/ and no other folders. Move the others, or give the classes in a "
            "table (--labels)."
        )
    marks = {name: SPLIT_NAMES[name.casefold()] for name in parts}
    if len(parts) > 1 and "test" not in marks.values():
        logger.warning("%s: %s: no folder of test images", root, shorten(parts))
    result = []
    for image in images:
        if image.class_name:  # else it is beside the folders, such as a README
            mark = marks[image.class_name] if len(parts) > 1 else ""
            image = replace(image, class_name=normal(image.path.split("/")[1]), mark=mark)
        result.append(image)
    return result


def _walk(root: Path) -> tuple[list[Path], list[Bad]]:
    """Files below `root`, and folders that were not read. Links are visited last."""
    files: list[Path] = []
    bad: list[Bad] = []
    read = {_identity(root): root}
    waiting, links = [root], []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        if folder.is_symlink() and folder != root:
            first = read.setdefault(_identity(folder), folder)
            if first != folder:
                other = "the folder itself" if first == root else shown(first.relative_to(root))
                bad.append(
                    Bad(
                        shown(folder.relative_to(root)), f"link to a folder already read as {other}"
                    )
                )
                continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            bad.append(Bad(shown(folder.relative_to(root)), f"cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name.casefold() in _IGNORED:
                continue
            path = folder / entry.name
            if not _is_folder(path):
                files.append(path)
            elif entry.is_symlink():
                links.append(path)
            else:
                read.setdefault(_identity(path), path)
                waiting.append(path)
    return files, bad


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link to itself, reported on reading
        return False


def _identity(folder: Path) -> tuple[int, int]:
    info = folder.stat()
    return info.st_dev, info.st_ino


def _listed(
    root: Path, table: Path, class_column: str, path_column: str, files: Sequence[Path]
) -> Found:
    """The files in a table; missing ones are reported on reading."""
    columns = read_table(table)
    name = path_column or next((name for name in PATHS if name in columns), PATHS[0])
    paths = find_column(table, columns, name)
    classes = find_column(table, columns, class_column) if class_column else [""] * len(paths)
    marks = columns.get("split")
    images: dict[tuple[str, Box | None], ImageFile] = {}
    there = {shown(file.relative_to(root)) for file in files}
    for row, (path, class_name) in enumerate(zip(paths, classes, strict=True)):
        if not path:
            raise DataError(
                f"{table}: row {row}, column {name!r}: expected a path, got an empty cell."
            )
        if (inside := inside_path(path, there)) is None:
            raise DataError(
                f"{table}: row {row}, column {name!r}: expected a path inside {root}, got {path!r}."
            )
        mark = "" if marks is None else _MARKS.get(marks[row].casefold(), "")
        if marks is not None and not mark:
            raise DataError(
                f"{table}: row {row}, column 'split': expected one of {shorten(list(_MARKS))}, got "
                f"{marks[row]!r}."
            )
        box = _box(table, columns, row)
        key = shown(Path(inside))
        if (key, box) in images:
            raise DataError(f"{table}: row {row}: {path!r} is listed twice. List each image once.")
        images[key, box] = ImageFile(key, root / inside, normal(class_name), mark, box)
    unlisted = len(there - {key for key, _ in images})
    ordered = sorted(images.values(), key=lambda image: image.path)
    return Found(root, tuple(ordered), (), unlisted)


def inside_path(path: str, there: Collection[str] = ()) -> str | None:
    """A relative path with `/`, of a file inside a folder; None if it may lead out of it.

    `there` are known paths: a backslash in others separates folders.
    """
    drive = ""
    if "\\" in path and path not in there:  # Windows separators
        path, drive = path.replace("\\", "/"), PureWindowsPath(path).drive
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half a surrogate pair, as JSON may have
        return None
    out = drive or "\0" in path or Path(path).is_absolute() or ".." in Path(path).parts
    return None if out or not Path(path).name else path


def _box(table: Path, columns: Columns, row: int) -> Box | None:
    """The box of a row; None in a table without boxes, or where its cells are empty."""
    if not set(COLUMNS[:2]) <= columns.keys():  # width and height alone may be the picture's
        return None
    cells = [find_column(table, columns, name)[row] for name in COLUMNS]
    if not any(cells):
        return None
    try:
        x, y, width, height = map(parse_number, cells)
        return Box(x, y, width, height)
    except ValueError as error:
        raise DataError(f"{table}: row {row}: {error}, in columns {', '.join(COLUMNS)}.") from None
