"""All formats: which one a file or folder is of, and how it is read and written."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from mlis.data.io.feature_folder import IMAGES, RECORD
from mlis.data.io.folder import SOURCES
from mlis.data.io.text_table import read_table
from mlis.errors import DataError
from mlis.features.exchange import coco, fiftyone, hugging_face, label_studio
from mlis.features.exchange.records import Annotated, picture_size, read_json
from mlis.features.images.boxes import Box
from mlis.features.images.files import SPLIT_NAMES, Bad, ImageFile, find_images
from mlis.storage.atomic import strict_json

JSON: dict[str, ModuleType] = {
    "coco": coco,
    "label-studio": label_studio,
    "fiftyone": fiftyone,
}
IMAGE_FOLDER = "imagefolder"
_TABLES = (".csv", ".tsv", ".parquet")
Images = Iterator[ImageFile | Bad]
_Part = tuple[Path, Callable[[], Images]]


def read(sources: Sequence[Path], images: Path | None = None, class_column: str = "") -> Images:
    """Labelled images and boxes of files or folders in any format, one after the other.

    Args:
        sources: a folder of images, what `mlis data build` or `features images` made of one, a
            folder in the layout of ImageFolder or FiftyOne, or files: COCO, Label Studio or
            FiftyOne (.json), ImageFolder's metadata (.jsonl), Parquet files of the Hugging Face
            hub, or tables as `find_images` takes them. Where the names of several files, or of
            their folders, say train, val or test, these mark their images.
        images: where the images are; default: beside each file (FiftyOne's: in `data`).
        class_column: of tables; default `class`, else `label`.

    Raises:
        DataError: a source is of no known format, or damaged.
    """
    parts = [part for source in sources for part in _parts(source, images, class_column)]
    marks = [_mark(path) for path, _ in parts]
    if len(set(marks)) < 2 or "" in marks:
        marks = [""] * len(parts)
    for (_, images_of), mark in zip(parts, marks, strict=True):
        for image in images_of():
            yield image if isinstance(image, Bad) else _marked(image, mark)


def _marked(image: ImageFile, mark: str) -> ImageFile | Bad:
    """With its own mark as `find_images` gives it, else with that of its file."""
    if not image.mark:
        return replace(image, mark=mark) if mark else image
    known = SPLIT_NAMES.get(str(image.mark).casefold())
    if known is None:
        return Bad(image.path, f"split: expected train, val or test, got {str(image.mark)[:40]!r}")
    return replace(image, mark=known)


def _mark(path: Path) -> str:
    """The part of a split that the name of a file or its folder says; empty if none."""
    for name in (path.stem, path.parent.name):
        for word in re.split(r"[\W\d_]+", name.casefold()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return ""


def _parts(source: Path, images: Path | None, class_column: str) -> list[_Part]:
    """The files of a source, each with its reader."""
    if source.is_dir():
        if root := _root_of_rows(source):
            return [(source, lambda: _found(images or root, source / IMAGES, class_column))]
        files = [source / "labels.json"]
        if not files[0].is_file():
            files = sorted(source.rglob("metadata.jsonl")) or sorted(source.rglob("metadata.csv"))
        if not files:
            files = [p for p in sorted(source.rglob("*.parquet")) if hugging_face.has_images(p)]
        if not files:
            return [(source, lambda: _found(source, None, ""))]
        return [part for file in files for part in _parts(file, images, class_column)]
    kind, root = source.suffix.casefold(), images or source.parent
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder.")
    if kind == ".json":
        return [(source, lambda: _json(source, root, given=images is not None))]
    if kind == ".jsonl":
        return [(source, lambda: hugging_face.read_metadata(source, root))]
    if kind == ".parquet" and hugging_face.has_images(source):
        return [(source, lambda: hugging_face.read_parquet(source, root, class_column))]
    if kind in _TABLES:
        return [(source, lambda: _found(root, source, class_column))]
    raise DataError(
        f"{source}: expected a folder, or a .json, .jsonl, .csv, .tsv or .parquet file. "
        "docs/own-data.md lists the formats."
    )


def _root_of_rows(folder: Path) -> Path | None:
    """Where the photographs are of which `mlis data build` or `features images` made a folder."""
    for name in (SOURCES, RECORD) if (folder / IMAGES).is_file() else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return Path(strict_json((folder / name).read_text(encoding="utf-8"))["root"])
    return None


def _json(path: Path, root: Path, *, given: bool) -> Images:
    content = read_json(path)
    for module in JSON.values():
        if module.matches(content):
            if module is fiftyone and not given and (root / "data").is_dir():
                root = root / "data"
            return module.read(path, content, root)
    raise DataError(
        f"{path}: expected COCO (images, annotations, categories), a list of Label Studio's tasks "
        "(data, annotations) or FiftyOne's labels, got other JSON. Export it in one of these."
    )


def _found(root: Path, table: Path | None, class_column: str) -> Images:
    if table is not None and not class_column:
        columns = read_table(table)
        class_column = next((name for name in ("class", "label") if name in columns), "")
    found = find_images(root, table, class_column=class_column or "")
    yield from found.bad
    yield from found.images


def write(images: Images, name: str, output: Path, **options: str) -> tuple[int, list[Bad]]:
    """Write images in a format; the number of rows, and what could not be written.

    Args:
        images: such as `read` gives.
        name: of the format, a key of `JSON` or `IMAGE_FOLDER`.
        output: a file, for `IMAGE_FOLDER` a folder.
        options: of the format's `write`.

    Raises:
        DataError: there is no image, or one lies inside a Parquet file.
    """
    rows: list[Annotated] = []
    bad: list[Bad] = []
    for image in images:
        if isinstance(image, Bad):
            bad.append(image)
        elif not image.source.is_file():
            bad.append(Bad(image.path, "no such file"))
        elif isinstance(image, Annotated) and image.data is not None:
            raise DataError(f"{image.source}: contains its images. Import it (mlis data import).")
        else:
            row = image if isinstance(image, Annotated) else Annotated(**vars(image))
            try:
                if row.box is not None:
                    row.box.crop(picture_size(row))
                rows.append(row)
            except ValueError as error:
                bad.append(Bad(row.where or row.path, f"{row.path}: {error}"))
    if not rows:
        raise DataError(f"expected images, got {len(bad)} unusable records.")
    rows = _consistent(rows)
    module = hugging_face if name == IMAGE_FOLDER else JSON[name]
    module.write(rows, output, **options)
    return len(rows), bad


def _consistent(rows: Sequence[Annotated]) -> list[Annotated]:
    """Rows of which those of one picture all have a box or none.

    Raises:
        DataError: boxes of one picture are in several parts of the split, for which no format has
            a place.
    """
    marks: dict[str, str] = {}
    for row in rows:
        if marks.setdefault(row.path, row.mark) != row.mark:
            raise DataError(
                f"{row.path}: expected one part of the split, got {marks[row.path]!r} and "
                f"{row.mark!r}. Mark all boxes of a picture alike."
            )
    boxed, whole = {row.path for row in rows if row.box}, Box(0, 0, 1, 1, relative=True)
    return [row if row.box or row.path not in boxed else replace(row, box=whole) for row in rows]
