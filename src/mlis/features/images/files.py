"""Image files and their classes, from folders or from a table of paths and classes."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

from mlis.data.io.csv_file import write_csv
from mlis.data.io.text_table import find_column, read_table
from mlis.data.labels import normal, shorten
from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)

_IGNORED = {"thumbs.db", "desktop.ini"}
_MARKS = {"train": "train", "trainval": "train", "val": "val", "test": "test"}
_MARKS |= {"test_seen": "test", "test_unseen": "test"}
_SPLIT_FOLDERS = _MARKS | {"training": "train", "valid": "val", "validation": "val"}
_SPLIT_FOLDERS |= {"testing": "test"}
BAD = "bad.csv"
PATHS = ("path", "file", "filename", "image")


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes:
        path: relative to the root, with `/`; bytes that are not UTF-8 are written as `\\xff`.
        source: path to open.
        class_name: empty if there is none.
        mark: train, val or test; empty if rows are not marked.
    """

    path: str
    source: Path
    class_name: str = ""
    mark: str = ""


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
    whether or not they turn out to be images. Links are followed; each folder is read once.

    Args:
        root: the folder.
        table: CSV, TSV or Parquet with a column of paths relative to `root`, one of classes, and
            optionally `split`: train (or trainval), val, test (or test_seen, test_unseen). Only
            the files in the table are included.
        class_column: its column of classes.
        path_column: its column of paths; default: the first of path, file, filename, image.

    Raises:
        DataError: the folder is missing or empty, parts of a split are mixed with other folders,
            or the table is invalid.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder.")
    files, bad = _walk(root)
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


def _same(one: Path, other: Path) -> bool:
    return one.name == other.name and one.resolve() == other.resolve()


def _by_folder(root: Path, file: Path) -> ImageFile:
    relative = file.relative_to(root)
    class_name = normal(shown(relative.parts[0])) if len(relative.parts) > 1 else ""
    return ImageFile(shown(relative), file, class_name)


def _by_split(root: Path, images: list[ImageFile]) -> list[ImageFile]:
    """Images with marks, and the second folder as class, if the first ones are a split."""
    tops = sorted({image.class_name for image in images} - {""})
    parts = [name for name in tops if name.casefold() in _SPLIT_FOLDERS]
    nested = all(image.path.count("/") > 1 for image in images if image.class_name in parts)
    if not parts or (len(parts) == 1 and (len(tops) > 1 or not nested)):
        return images  # a class may be called "train"
    if parts != tops or not nested:
        raise DataError(
            f"{root}: {shorten(parts)} look like parts of a split: expected images in "
            f"{parts[0]}/CLASS/ and no other folders. Move the others, or give the classes in a "
            "table (--labels)."
        )
    marks = {name: _SPLIT_FOLDERS[name.casefold()] for name in parts}
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
    classes = find_column(table, columns, class_column)
    marks = columns.get("split")
    images: dict[str, ImageFile] = {}
    there = {shown(file.relative_to(root)) for file in files}
    for row, (path, class_name) in enumerate(zip(paths, classes, strict=True)):
        if not path:
            raise DataError(
                f"{table}: row {row}, column {name!r}: expected a path, got an empty cell."
            )
        drive = ""
        if "\\" in path and path not in there:  # Windows separators
            path, drive = path.replace("\\", "/"), PureWindowsPath(path).drive
        if drive or Path(path).is_absolute() or ".." in Path(path).parts:
            raise DataError(
                f"{table}: row {row}, column {name!r}: expected a path inside {root}, got {path!r}."
            )
        mark = "" if marks is None else _MARKS.get(marks[row].casefold(), "")
        if marks is not None and not mark:
            raise DataError(
                f"{table}: row {row}, column 'split': expected one of {shorten(list(_MARKS))}, got "
                f"{marks[row]!r}."
            )
        key = shown(Path(path))
        if key in images:
            raise DataError(f"{table}: row {row}: {path!r} is listed twice. List each image once.")
        images[key] = ImageFile(key, root / path, normal(class_name), mark)
    unlisted = len(there - images.keys())
    return Found(root, tuple(images[key] for key in sorted(images)), (), unlisted)
