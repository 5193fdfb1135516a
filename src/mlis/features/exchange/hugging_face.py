"""Hugging Face `datasets` without its library: ImageFolder's metadata files, and Parquet files.

`metadata.csv` or `metadata.jsonl` lies in the folder of images or of a part of the split; it has
`file_name` and `label`, or `objects` with `bbox` (pixels) and `categories`
(https://huggingface.co/docs/datasets/image_dataset). In Parquet files an image is `{bytes, path}`,
and the class names are in the schema's metadata.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlis.data.io.reading import reading
from mlis.data.labels import normal, shorten
from mlis.errors import DataError
from mlis.escape import json_line
from mlis.features.exchange.image_folder import link, new_folder
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
from mlis.storage.atomic import strict_json

METADATA = "metadata.jsonl"
LABELS = ("label", "class")
_ROWS = 64  # of a Parquet file at a time
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif"}
_FOLDERS = {"train": "train", "val": "validation", "test": "test", "": ""}


def read_metadata(path: Path, root: Path) -> Rows:
    """The images of a `metadata.jsonl`, relative to `root`, with their classes or boxes."""

    def records() -> Iterator[tuple[str, Any]]:
        with path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                try:
                    yield f"{path}: line {number}", strict_json(line)
                except ValueError as error:
                    raise DataError(f"{path}: line {number}: expected JSON: {error}.") from None

    def annotated(record: Any, place: str) -> Rows:
        name = checked_path(field(record, "file_name", str))
        image = Annotated(name, root / name, mark=record.get("split", ""), where=place)
        if "objects" not in record:
            label = next((record[one] for one in LABELS if record.get(one) is not None), "")
            yield replace(image, class_name=normal(str(label)))
            return
        objects = field(record, "objects", dict)
        boxes, labels = field(objects, "bbox", list), field(objects, "categories", list)
        if len(boxes) != len(labels):
            raise RecordError(f"objects: expected a category per box, got {len(labels)}")

        def box(pair: tuple[Any, Any], place: str) -> Rows:
            yield replace(image, class_name=normal(str(pair[1])), box=box_of(pair[0]), where=place)

        yield from each(numbered(f"{place}, objects", zip(boxes, labels, strict=True)), box)

    return each(records(), annotated)


def has_images(path: Path) -> bool:
    """Whether a Parquet file has a column of images."""
    return bool(_image_columns(_open(path).schema_arrow))


def read_parquet(path: Path, root: Path, class_column: str = "") -> Rows:
    """The images of a Parquet file, a few rows at a time.

    Args:
        path: of the file.
        root: of images that are named and not contained.
        class_column: default: `label` or `class`, else the only column of classes.

    Raises:
        DataError: there is no such column, or the file is damaged.
    """
    file = _open(path)
    column = _image_columns(file.schema_arrow)[0]
    features = _features(file.schema_arrow.metadata or {})
    named = [name for name, one in features.items() if one.get("_type") == "ClassLabel"]
    there = [name for name in LABELS if name in file.schema_arrow.names]
    label = class_column or (there or named or [""])[0]
    if label not in file.schema_arrow.names or (not there and len(named) > 1 and not class_column):
        raise DataError(
            f"{path}: expected a column {class_column or 'label'!r}, got "
            f"{shorten(file.schema_arrow.names)}. Name the column of classes (--class-column)."
        )
    names = features.get(label, {}).get("names")

    def rows() -> Iterator[tuple[str, Any]]:
        start = 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=[column, label]):
            for row, record in enumerate(batch.to_pylist(), start):
                yield f"{path}: row {row}", (row, record)
            start += batch.num_rows

    def annotated(pair: tuple[int, Any], place: str) -> Rows:
        row, record = pair
        image, target = field(record, column, dict), record[label]
        if isinstance(names, list) and isinstance(target, int):
            if not 0 <= target < len(names):
                raise RecordError(f"{label}: expected a number below {len(names)}, got {target}")
            target = names[target]
        if target is None:
            raise RecordError(f"{label}: expected a class, got nothing")
        data, name = image.get("bytes"), image.get("path") or ""
        if data is None and name:
            yield Annotated(checked_path(name), root / checked_path(name), normal(str(target)))
        elif not data:
            raise RecordError("an empty image")
        else:
            name = Path(name).name or f"{path.stem}-{row}{_SUFFIXES.get(data[:2], '.img')}"
            yield Annotated(checked_path(name), path, normal(str(target)), data=data, where=place)

    with reading(path, "a Parquet file", "Write it again."):
        yield from each(rows(), annotated)


def _open(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow, which is not installed: pip install 'mlis[parquet]'."
        ) from error
    with reading(path, "a Parquet file", "Write it again."):
        return parquet.ParquetFile(path)


def _image_columns(schema: Any) -> list[str]:
    from pyarrow import types

    return [
        column.name
        for column in schema
        if types.is_struct(column.type)
        and {"bytes", "path"} <= {column.type.field(i).name for i in range(column.type.num_fields)}
    ]


def _features(metadata: Any) -> dict[str, Any]:
    """`info.features` of the schema's "huggingface" metadata; empty where there is none."""
    try:
        found = strict_json(metadata[b"huggingface"])["info"]["features"]
        return {name: one for name, one in found.items() if isinstance(one, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def write(rows: Sequence[Annotated], folder: Path) -> None:
    """Write images and a `metadata.jsonl` for each part of the split.

    Raises:
        DataError: the size of a picture with a box cannot be read.
    """
    lines: dict[str, dict[str, dict[str, Any]]] = {}
    with new_folder(folder) as new:
        for row in rows:
            part = _FOLDERS.get(row.mark, row.mark)
            records = lines.setdefault(part, {})
            if row.path not in records:
                records[row.path] = {"file_name": row.path}
                link(row.source, new / part / row.path)
            if row.box is None:
                records[row.path]["label"] = row.class_name
            else:
                empty: dict[str, Any] = {"bbox": [], "categories": []}
                objects = records[row.path].setdefault("objects", empty)
                objects["bbox"].append([*row.box.pixels(picture_size(row))])
                objects["categories"].append(row.class_name)
        for part, records in lines.items():
            text = "".join(json_line(one) + "\n" for one in records.values())
            (new / part / METADATA).write_text(text, encoding="utf-8")
