"""Which images there are, and the class of each: by folder, or by a table of paths and classes."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

from mlis.data.labels import normal, shorten
from mlis.errors import DataError
from mlis.features.descriptors.text_tables import find_column, read_table

logger: logging.Logger = logging.getLogger(__name__)

_NOT_MEANT = {"thumbs.db", "desktop.ini"}
_MARKS = {"train": "train", "trainval": "train", "val": "val", "test": "test"}
_MARKS |= {"test_seen": "test", "test_unseen": "test"}
_SPLIT_FOLDERS = _MARKS | {"training": "train", "valid": "val", "validation": "val"}
_SPLIT_FOLDERS |= {"testing": "test"}
PATHS = ("path", "file", "filename", "image")


@dataclass(frozen=True)
class ImageFile:
    """One file to be read.

    Attributes:
        path: below the root, with `/`; bytes that are no UTF-8 are written as `\\xff`.
        source: what is opened.
        class_name: empty where there is none.
        mark: train, val or test; empty where rows are not marked.
    """

    path: str
    source: Path
    class_name: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Bad:
    """A file that gives no row, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """All images of a folder, sorted by path, and what was found beside them."""

    root: Path
    images: tuple[ImageFile, ...]
    bad: tuple[Bad, ...] = ()
    unlisted: int = 0  # files that the table of classes does not name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that have files, sorted."""
        return tuple(sorted({image.class_name for image in self.images} - {""}))


def find_images(
    root: Path, table: Path | None = None, *, class_column: str = "class", path_column: str = ""
) -> Found:
    """Find the images of a folder.

    Without a table, the class of `root/a/b/c.jpg` is `a`, however deep the file lies; a file right
    in `root` has none. Where the folders in `root` are those of a split, and nothing else, the
    class of `root/train/a/b/c.jpg` is `a`, and its mark train. Every file but hidden ones is meant:
    what is no image is found out when it is read. Links are followed, each folder is read once.

    Args:
        root: the folder.
        table: CSV, TSV or Parquet with a column of paths below `root` and one of classes, and
            perhaps `split`: train (or trainval), val, test (or test_seen, test_unseen). Then the
            files that it names are read, and no others.
        class_column: its column of classes.
        path_column: its column of paths; the first of path, file, filename, image where absent.

    Raises:
        DataError: there is no such folder or no file in it, folders of a split lie beside others,
            or what is wrong with the table.
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
        raise DataError(f"{root}: no files in it or in its folders.")
    return found


def shown(path: os.PathLike[str] | str) -> str:
    """A path or name as text in UTF-8, whatever its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def _same(one: Path, other: Path) -> bool:
    return one.name == other.name and one.resolve() == other.resolve()


def _by_folder(root: Path, file: Path) -> ImageFile:
    relative = file.relative_to(root)
    class_name = normal(shown(relative.parts[0])) if len(relative.parts) > 1 else ""
    return ImageFile(shown(relative), file, class_name)


def _by_split(root: Path, images: list[ImageFile]) -> list[ImageFile]:
    """The images, with marks and classes of the second folder where the first ones are a split."""
    tops = sorted({image.class_name for image in images} - {""})
    parts = [name for name in tops if name.casefold() in _SPLIT_FOLDERS]
    nested = all(image.path.count("/") > 1 for image in images if image.class_name in parts)
    if not parts or (len(parts) == 1 and (len(tops) > 1 or not nested)):
        return images  # a class may be called "train"
    if parts != tops or not nested:
        raise DataError(
            f"{root}: {shorten(parts)} seem to be the parts of a split: expected images in "
            f"{parts[0]}/CLASS/ and nothing beside {shorten(parts)}. Move the others, or say the "
            "classes in a table (--labels)."
        )
    marks = {name: _SPLIT_FOLDERS[name.casefold()] for name in parts}
    if len(parts) > 1 and "test" not in marks.values():
        logger.warning("%s: %s: no folder of images to test on", root, shorten(parts))
    result = []
    for image in images:
        if image.class_name:  # else it lies beside the folders, as a README does
            mark = marks[image.class_name] if len(parts) > 1 else ""
            image = replace(image, class_name=normal(image.path.split("/")[1]), mark=mark)
        result.append(image)
    return result


def _walk(root: Path) -> tuple[list[Path], list[Bad]]:
    """Files below `root`, and the folders that were not read. Links come after what is real."""
    files: list[Path] = []
    bad: list[Bad] = []
    read = {_identity(root): root}
    waiting, links = [root], []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        if folder.is_symlink() and folder != root:
            first = read.setdefault(_identity(folder), folder)
            if first != folder:
                told = "the folder itself" if first == root else shown(first.relative_to(root))
                bad.append(Bad(shown(folder.relative_to(root)), f"link to what is read as {told}"))
                continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            bad.append(Bad(shown(folder.relative_to(root)), f"cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name.casefold() in _NOT_MEANT:
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
    except OSError:  # a link to itself: the reader says so
        return False


def _identity(folder: Path) -> tuple[int, int]:
    info = folder.stat()
    return info.st_dev, info.st_ino


def _listed(
    root: Path, table: Path, class_column: str, path_column: str, files: Sequence[Path]
) -> Found:
    """The files that a table names; one that is not there is found out when it is read."""
    columns = read_table(table)
    name = path_column or next((name for name in PATHS if name in columns), PATHS[0])
    paths = find_column(table, columns, name)
    classes = find_column(table, columns, class_column)
    marks = columns.get("split")
    images: dict[str, ImageFile] = {}
    there = {shown(file.relative_to(root)) for file in files}
    for row, (path, class_name) in enumerate(zip(paths, classes, strict=True)):
        if not path:
            raise DataError(f"{table}: row {row}, column {name!r} is empty.")
        drive = ""
        if "\\" in path and path not in there:  # as Windows separates folders
            path, drive = path.replace("\\", "/"), PureWindowsPath(path).drive
        if drive or Path(path).is_absolute() or ".." in Path(path).parts:
            raise DataError(
                f"{table}: row {row}, column {name!r}: {path!r} leads out of {root}. Paths begin "
                "there."
            )
        mark = "" if marks is None else _MARKS.get(marks[row].casefold(), "")
        if marks is not None and not mark:
            raise DataError(
                f"{table}: row {row}, column 'split' is {marks[row]!r}, but expected one of "
                f"{shorten(list(_MARKS))}."
            )
        key = shown(Path(path))
        if key in images:
            raise DataError(f"{table}: row {row} names {path!r} again. List each image once.")
        images[key] = ImageFile(key, root / path, normal(class_name), mark)
    unlisted = len(there - images.keys())
    return Found(root, tuple(images[key] for key in sorted(images)), (), unlisted)
