"""COCO: one JSON file with `images`, `annotations` and `categories`.

A box is [x, y, width, height] in pixels (https://cocodataset.org/#format-data). Beyond the format,
an image may have a `split`. Images without boxes are written with a box around the whole picture.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
    picture_size,
    size_of,
)
from mlis.storage.atomic import write_json


def matches(content: Any) -> bool:
    """Whether the content of a JSON file is of this format."""
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def read(path: Path, content: Any, root: Path) -> Rows:
    """A box for each annotation; `file_name` is relative to `root`. Crowds are bad records.

    Raises:
        DataError: `images`, `annotations` or `categories` are not what the format has.
    """
    names: dict[int, str] = {}
    of_image: dict[int, list[tuple[str, Any]]] = {}
    place = str(path)
    try:
        for number, one in enumerate(field(content, "categories", list)):
            place = f"{path}: categories[{number}]"
            names[field(one, "id", int)] = normal(field(one, "name", str))
        for number, one in enumerate(field(content, "images", list)):
            place = f"{path}: images[{number}]"
            of_image[field(one, "id", int)] = [(place, one)]
        for number, one in enumerate(field(content, "annotations", list)):
            place = f"{path}: annotations[{number}]"
            if (image := field(one, "image_id", int)) not in of_image:
                raise RecordError(f"image_id: no image has the id {image}")
            of_image[image].append((place, one))
    except RecordError as error:
        raise DataError(
            f"{place}: {error}. Correct it; docs/own-data.md shows the format."
        ) from None

    def records() -> Iterator[tuple[str, Any]]:
        for (place, image), *annotations in of_image.values():
            yield from ((where, (image, one)) for where, one in annotations or [(place, None)])

    def annotated(pair: tuple[Any, Any], place: str) -> Rows:
        image, one = pair
        name = checked_path(field(image, "file_name", str))
        if one is None or one.get("iscrowd"):
            raise RecordError(
                f"{name}: {'no annotation' if one is None else 'a crowd, not an object'}"
            )
        if (category := field(one, "category_id", int)) not in names:
            raise RecordError(f"{name}: no category has the id {category}")
        box = None if one.get("bbox") is None else box_of(one["bbox"])
        size, mark = size_of(image, "width", "height"), image.get("split", "")
        yield Annotated(name, root / name, names[category], mark, box, size=size, where=place)

    return each(records(), annotated)


def write(rows: Sequence[Annotated], path: Path) -> None:
    """Write the file. Raises `DataError` for an image whose size cannot be read."""
    numbers: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories = {
        name: i for i, name in enumerate(sorted({row.class_name for row in rows} - {""}), 1)
    }
    for row in rows:
        size = picture_size(row)
        if row.path not in numbers:
            numbers[row.path] = len(images) + 1
            image = {"id": numbers[row.path], "file_name": row.path}
            image |= {"width": size[0], "height": size[1]}
            images.append(image | ({"split": row.mark} if row.mark else {}))
        if row.class_name:
            box = list(row.box.pixels(size)) if row.box else [0, 0, *size]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": numbers[row.path],
                    "category_id": categories[row.class_name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    known = [{"id": number, "name": name} for name, number in categories.items()]
    write_json(path, {"images": images, "annotations": annotations, "categories": known})
