"""Label Studio: a JSON list of tasks, as its export "JSON" writes and its import takes.

A task has `data.image`, and `annotations` or `predictions` with a `result` of `choices`, or of
`rectanglelabels` in per cent of the picture (https://labelstud.io/guide/task_format). Beyond the
format, `data.split` is the part of a split; Label Studio keeps further entries of `data`.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, quote, unquote, urlsplit

from mlis.data.labels import normal
from mlis.escape import html
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
    size_of,
)
from mlis.storage.atomic import atomic_write, write_json

URL = "/data/local-files/?d="
"""Of files in a "Local files" storage, by path from the storage's document root."""
_CLASS, _IMAGE, _BOX = "class", "image", "box"  # names of the tags in the labeling interface
_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # before the name of an uploaded file


def matches(content: Any) -> bool:
    """Whether the content of a JSON file is of this format."""
    tasks = cast(list[Any], content) if isinstance(content, list) else []
    return bool(tasks) and all(isinstance(one, dict) and "data" in one for one in tasks)


def read(path: Path, content: Any, root: Path) -> Rows:
    """The choice of each task, or its boxes: of the ground truth, else of the last annotation.

    Predictions, and annotations that were cancelled, are not read.
    """

    def of_task(task: Any, place: str) -> Rows:
        data = field(task, "data", dict)
        name = _file(field(data, "image", str), root)
        done = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
        if not done:
            raise RecordError(f"{name}: not annotated")
        chosen = next((one for one in done if one.get("ground_truth")), done[-1])
        regions: dict[str, list[Any]] = {}
        for number, one in enumerate(field(chosen, "result", list)):
            value = field(one, "value", dict)
            key = str(one.get("id", number)) if "x" in value or _is_of_region(one, chosen) else ""
            regions.setdefault(key, []).append(one)
        if len(regions) > 1:  # with boxes, choices are about the whole picture
            regions.pop("", None)
        image = {"path": name, "source": root / name, "mark": data.get("split", "")}

        def region(results: Any, place: str) -> Rows:
            box, size = _box(results)
            label = normal(_label(results))
            yield Annotated(**image, class_name=label, box=box, size=size, where=place)

        if not regions:
            raise RecordError(f"{name}: no choice and no rectangle")
        yield from each(numbered(f"{place}.result", regions.values()), region)

    return each(numbered(str(path), content), of_task)


def _is_of_region(one: Any, annotation: Any) -> bool:
    """Whether a choice is about a box, which then has the same id."""
    same = [other for other in annotation["result"] if other.get("id") == one.get("id") is not None]
    return any("x" in other.get("value", {}) for other in same)


def _box(results: Sequence[Any]) -> tuple[Any, tuple[int, int] | None]:
    one = next((one for one in results if "x" in one["value"]), None)
    if one is None:
        return None, None
    value = one["value"]
    if value.get("rotation"):
        raise RecordError(f"box: expected no rotation, got {value['rotation']}")
    found = box_of([value.get(side) for side in ("x", "y", "width", "height")])
    box = box_of(
        [found.x / 100, found.y / 100, found.width / 100, found.height / 100], relative=True
    )
    return box, size_of(one, "original_width", "original_height")


def _label(results: Sequence[Any]) -> str:
    labels = {
        str(label)
        for one in results
        for kind in ("choices", "rectanglelabels", "labels")
        for label in one["value"].get(kind) or []
    }
    if len(labels) != 1:
        raise RecordError(f"expected one class, got {', '.join(sorted(labels)) or 'none'}")
    return labels.pop()


def _file(url: str, root: Path) -> str:
    """The file in `root` with the longest ending of the address's path."""
    parts = urlsplit(url)
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    names = checked_path(path.lstrip("/")).split("/")
    if "upload" in names[:-1]:
        names.append(_UPLOAD.sub("", names.pop(), count=1))
    for start in range(len(names)):
        if (root / (name := "/".join(names[start:]))).is_file():
            return name
    raise RecordError(f"no file of {url[:80]!r} in {root}")


def write(rows: Sequence[Annotated], path: Path, *, prefix: str = URL, model: str = "") -> None:
    """Write tasks, and beside them FILE.xml, the labeling interface that they are made for.

    Args:
        rows: images with classes become annotations, images with scores predictions.
        path: of the tasks.
        prefix: of the addresses of images, before the quoted path.
        model: name and version of the model that predicted.

    Raises:
        DataError: the size of a picture with a box cannot be read.
    """
    tasks: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    kinds, likely = {row.box is not None for row in rows}, any(row.scores for row in rows)
    for row in rows:
        task = tasks.setdefault(row.path, {"data": {"image": prefix + quote(row.path)}})
        task["data"] |= {"split": row.mark} if row.mark else {}
        if likely:
            said = ", ".join(f"{name} {score:.0%}" for name, score in row.scores)
            task["data"]["likely"] = said
        label = row.class_name or (row.scores[0][0] if row.scores else "")
        if not label:
            continue
        names.update({label}, (name for name, _ in row.scores))
        if row.scores:
            result = [_result(row, label, 0)]
            score = row.scores[0][1]
            task["predictions"] = [{"model_version": model, "score": score, "result": result}]
        else:
            results = task.setdefault("annotations", [{"result": []}])[0]["result"]
            results.append(_result(row, label, len(results)))
    write_json(path, list(tasks.values()))
    with atomic_write(path.with_suffix(".xml")) as temporary:
        temporary.write_text(_interface(sorted(names), kinds, likely), encoding="utf-8")


def _result(row: Annotated, label: str, number: int) -> dict[str, Any]:
    """The class of a picture, or a box and its class."""
    if row.box is None:
        choice = {"from_name": _CLASS, "to_name": _IMAGE, "type": "choices"}
        return {**choice, "value": {"choices": [label]}}
    width, height = picture_size(row)
    x, y, w, h = row.box.pixels((width, height))
    value = {"x": 100 * x / width, "y": 100 * y / height}
    value |= {"width": 100 * w / width, "height": 100 * h / height, "rotation": 0}
    return {
        **{"id": f"box-{number}", "from_name": _BOX, "to_name": _IMAGE, "type": "rectanglelabels"},
        **{"original_width": width, "original_height": height},
        "value": value | {"rectanglelabels": [label]},
    }


def _interface(names: Sequence[str], kinds: Collection[bool], likely: bool) -> str:
    """The labeling interface: an image, and its classes or (True) those of its boxes."""
    lines = [f'  <Image name="{_IMAGE}" value="$image"/>']
    lines += ['  <Text name="likely" value="$likely"/>'] if likely else []
    tags = ((False, "Choices", "Choice", _CLASS), (True, "RectangleLabels", "Label", _BOX))
    for kind, tag, one, name in tags:
        if kind in kinds:
            labels = [f'    <{one} value="{html(label)}"/>' for label in names]
            lines += [f'  <{tag} name="{name}" toName="{_IMAGE}">', *labels, f"  </{tag}>"]
    return "\n".join(["<View>", *lines, "</View>", ""])
