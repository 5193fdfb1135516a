"""FiftyOneImageClassificationDataset and FiftyOneImageDetectionDataset: `labels.json`.

`labels` are by path in the folder of images, without the suffix; a box has fractions of the
picture's sides (https://docs.voxel51.com/user_guide/import_datasets.html). Beyond the format,
`splits` has the parts of a split, which FiftyOne keeps as tags and its file does not.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from mlis.data.labels import normal
from mlis.errors import DataError
from mlis.features.exchange.records import (
    Annotated,
    RecordError,
    Rows,
    box_of,
    checked_path,
    each,
    field,
    numbered,
    picture_size,
)
from mlis.features.images.files import find_images
from mlis.storage.atomic import write_json


def matches(content: Any) -> bool:
    """Whether the content of a JSON file is of this format."""
    return isinstance(content, dict) and isinstance(content.get("labels"), dict)


def read(path: Path, content: Any, root: Path) -> Rows:
    """The class of each image, or each of its boxes.

    Raises:
        DataError: `root` has no files, or two that differ in their suffix only.
    """
    files: dict[str, str] = {}
    for image in find_images(root).images:
        key = str(Path(image.path).with_suffix(""))
        if key in files and image.path != files[key] and key in content["labels"]:
            raise DataError(
                f"{root}: {files[key]} and {image.path} have one name without their suffix, by "
                f"which {path} names images. Rename one."
            )
        files[key] = image.path
    classes = content.get("classes") if isinstance(content.get("classes"), list) else []
    splits = content.get("splits") if isinstance(content.get("splits"), dict) else {}

    def name_of(target: Any) -> str:
        if isinstance(target, int) and 0 <= target < len(classes):
            target = classes[target]
        if not isinstance(target, str):
            raise RecordError(
                f"label: expected a class name or its number, got {str(target)[:40]!r}"
            )
        return normal(target)

    def annotated(pair: tuple[str, Any], place: str) -> Rows:
        key, target = pair
        if checked_path(key) not in files:
            raise RecordError(f"no file of this name in {root}")
        image = Annotated(files[key], root / files[key], mark=splits.get(key, ""), where=place)

        def box(record: Any, place: str) -> Rows:
            found = box_of(field(record, "bounding_box", list), relative=True)
            label = name_of(record.get("label"))
            yield replace(image, class_name=label, box=found, where=place)

        if isinstance(target, list):
            yield from each(numbered(place, cast(list[Any], target)), box)
            return
        if isinstance(target, dict):
            target = cast(dict[str, Any], target).get("label")
        if target is None:
            raise RecordError(f"{image.path}: no label")
        yield replace(image, class_name=name_of(target))

    labels = content["labels"].items()
    return each(((f"{path}: labels[{key!r}]", (key, one)) for key, one in labels), annotated)


def write(rows: Sequence[Annotated], path: Path) -> None:
    """Write the file; of predictions, the likeliest class with its probability as `confidence`.

    Raises:
        DataError: two images differ in their suffix only, or the size of one cannot be read.
    """
    labels: dict[str, Any] = {}
    of_key: dict[str, str] = {}
    boxes = any(row.box for row in rows)
    for row in rows:
        key = str(Path(row.path).with_suffix(""))
        if of_key.setdefault(key, row.path) != row.path:
            raise DataError(
                f"{of_key[key]} and {row.path}: expected names that differ without their suffix, "
                "by which FiftyOne's file names images. Rename one."
            )
        label: Any = row.class_name or None
        if row.scores:
            label = {"label": row.scores[0][0], "confidence": row.scores[0][1]}
        if boxes and label:
            width, height = picture_size(row)
            x, y, w, h = row.box.pixels((width, height)) if row.box else (0, 0, width, height)
            sides = [x / width, y / height, w / width, h / height]
            labels[key] = [*(labels.get(key) or []), {"label": label, "bounding_box": sides}]
        elif key not in labels or not boxes:
            labels[key] = label
    splits = {str(Path(row.path).with_suffix("")): row.mark for row in rows if row.mark}
    write_json(path, {"labels": labels} | ({"splits": splits} if splits else {}))
