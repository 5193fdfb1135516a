"""Whether the folders that images came from agree with the names of the classes they are labelled.

Labels of a features file index the columns of the split file's `att`. In CUB that order is not the
order of the folders (`allclasses_names` begins with "002.Laysan_Albatross"), so whoever computes
features from the images and numbers the folders gives every class another one's descriptor. Where
folders are named as classes are, this can be seen.
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
_DEPTH = 3  # folders that a class's name may be spread over: SUN has bakery/kitchen


def read_folders(path: Path, labels: np.ndarray) -> np.ndarray:
    """Folders of the first, a middle and the last image of each class, for `folder_fault`.

    Args:
        path: of the features file; one without `image_files`, or with another number of them, has
            no folders.
        labels: (N,) int64, counting from 1.

    Returns:
        (n,) int64, what `pack` makes of the pairs of label and folder.
    """
    pairs: set[tuple[int, str]] = set()
    if sorted(field_shapes(path).get(FIELD, ())) == [1, len(labels)]:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        rows = np.unique([rows[at] for rows in groups for at in (0, len(rows) // 2, -1)])
        try:
            files = read_strings(path, FIELD, rows)
        except DataError:  # nothing depends on this field
            files = ()
        for row, file in zip(rows, files, strict=False):
            pairs.add((int(labels[row]), re.sub(r"[/\\]?[^/\\]*$", "", file)))
    return pack(pairs)


def pack(pairs: Iterable[tuple[int, str]]) -> np.ndarray:
    """Pairs of label and folder as (n,) int64: JSON, in whole numbers as the cache keeps them."""
    text = json.dumps(sorted(pairs)).encode()
    return np.frombuffer(text + b" " * (-len(text) % 8), dtype="<i8").astype(np.int64)


def folder_fault(folders: np.ndarray, class_names: Sequence[str]) -> str | None:
    """What disagrees, in words; None where nothing does or folders are not named as classes are.

    A folder disagrees with a class when it bears the name of another class and not of this one;
    upper case, punctuation and a number in front do not count. Nothing is said unless half of the
    folders bear the name of some class.
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
    return (
        f"{len(wrong)} of {len(class_names)} classes have images of another class's folder: {shown}"
    )


def _forms(name: str) -> set[str]:
    """A name without case and punctuation, with and without the number in front of it."""
    return {plain(name), plain(re.sub(r"^\W*\d+\W+", "", name))} - {""}
