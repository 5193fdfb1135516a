"""Check that the folder names of images agree with the names of their classes.

Labels of a features file index the columns of `att` in the split file. In CUB these are not in the
order of the image folders (`allclasses_names` begins with "002.Laysan_Albatross"): features
computed from images with labels numbered by folder would pair every class with the descriptor of
another one. If folders are named like classes, this is detected here.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mlis.data.io.matlab import field_shapes, read_strings
from mlis.data.labels import plain
from mlis.errors import DataError

FIELD = "image_files"
_DEPTH = 3  # nested folders that may form a class name: SUN has bakery/kitchen


def read_folders(path: Path, labels: np.ndarray) -> np.ndarray:
    """Folders of the first, a middle and the last image of each class, for `folder_mismatch`.

    Args:
        path: of the features file; without N `image_files`, the result contains no folders.
        labels: (N,) int64, counted from 1.

    Returns:
        (n,) int64: pairs of label and folder, encoded by `pack`.
    """
    pairs: set[tuple[int, str]] = set()
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rows = np.unique([rows[at] for rows in groups for at in (0, len(rows) // 2, -1)])
    for row, file in zip(rows, image_files(path, len(labels), rows), strict=False):
        pairs.add((int(labels[row]), re.sub(r"[/\\]?[^/\\]*$", "", file)))
    return pack(pairs)


def image_files(
    path: Path, count: int, rows: Sequence[int] | np.ndarray | None = None
) -> tuple[str, ...]:
    """Names of the images of `rows` (default: all); empty if the file does not have `count`."""
    try:
        there = sorted(field_shapes(path).get(FIELD, ())) == sorted((1, count))
        return read_strings(path, FIELD, rows) if there else ()
    except DataError:  # this field is optional
        return ()


def pack(pairs: Iterable[tuple[int, str]]) -> np.ndarray:
    """Encode pairs of label and folder as (n,) int64, the type that the cache stores."""
    text = json.dumps(sorted(pairs)).encode()
    return np.frombuffer(text + b" " * (-len(text) % 8), dtype="<i8").astype(np.int64)


def folder_mismatch(folders: np.ndarray, class_names: Sequence[str]) -> str | None:
    """Description of the mismatch; None if there is none, or folders are not named like classes.

    A folder mismatches a class if it has the name of another class and not of this one, ignoring
    case, punctuation and a leading number. At least half of the folders must have the name of some
    class.
    """
    pairs: list[tuple[int, str]] = json.loads(folders.astype("<i8").tobytes())
    owners: dict[str, set[int]] = {}
    for c, name in enumerate(class_names):
        for form in _forms(name):
            owners.setdefault(form, set()).add(c)
    agreeing, wrong = 0, {}
    for label, folder in pairs:
        parts = re.split(r"[/\\]", folder)
        named = [
            set().union(*(owners.get(form, ()) for form in _forms(" ".join(parts[-depth:]))))
            for depth in range(1, _DEPTH + 1)
        ]
        if any(label - 1 in classes for classes in named):
            agreeing += 1
        elif named[0]:
            wrong[label] = parts[-1]
    if not wrong or 2 * (agreeing + len(wrong)) < len(pairs):
        return None
    shown = "; ".join(
        f"label {label} is folder {folder!r} but class {class_names[label - 1]!r}"
        for label, folder in list(wrong.items())[:3]
    )
    count = f"{len(wrong)} of {len(class_names)} classes"
    return f"{count} have images from the folder of another class: {shown}"


def _forms(name: str) -> set[str]:
    """A name without case and punctuation, with and without its leading number."""
    return {plain(name), plain(re.sub(r"^\W*\d+\W+", "", name))} - {""}
