"""Photographs named on the command line: files, folders, patterns, or a list on standard input."""

import glob
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)

LIST = "-"


def is_image_input(inputs: Sequence[Path]) -> bool:
    """Whether the arguments are photographs, and not one file or folder of features."""
    from mlis.data.io.feature_rows import is_features

    return len(inputs) != 1 or not is_features(inputs[0])


def find_pictures(inputs: Sequence[Path]) -> list[str]:
    """Paths of all photographs that the arguments name, each once, in the arguments' order.

    A folder gives all its files but hidden ones, sorted, those of its folders too; a pattern
    (`*`, `?`, `[…]`, `**`) what it matches; `-` the lines of standard input. A file that is not
    there stays in: it is reported with the others that cannot be read.

    Raises:
        DataError: a folder without files, or a pattern that matches none.
    """
    found: dict[str, None] = {}
    for path in inputs:
        if str(path) == LIST:
            found |= dict.fromkeys(line for line in _given() if line.strip())
        elif path.is_dir():
            found |= dict.fromkeys(_in_folder(path))
        elif glob.has_magic(str(path)) and not path.exists():
            found |= dict.fromkeys(_matching(str(path)))
        else:
            found[str(path)] = None
    if not found:
        raise DataError("no image is named: the list on standard input is empty.")
    return list(found)


def _given() -> list[str]:
    """Lines of standard input; a name may be of any bytes."""
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is None:
        return sys.stdin.read().splitlines()
    return [os.fsdecode(line) for line in buffer.read().splitlines()]


def _in_folder(folder: Path) -> list[str]:
    from mlis.features.images.files import find_images

    found = find_images(folder)
    for each in found.bad:
        logger.warning("%s: %s", f"{folder}/{each.path}", each.reason)
    return [str(image.source) for image in found.images]


def _matching(pattern: str) -> list[str]:
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if not Path(path).is_dir())  # noqa: PTH207
    if not paths:
        raise DataError(f"{pattern}: matches no file.")
    return paths
