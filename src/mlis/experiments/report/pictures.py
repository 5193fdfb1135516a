"""Thumbnails of a dataset's rows, where it is known which file each came from.

Known are the embedded letters, dataset folders of `mlis data build` (`images.csv`, `sources.json`),
and files of the benchmarks' format together with a folder that holds the photographs that their
`image_files` names.
"""

import csv
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlis.data.dataset import GZSLDataset
from mlis.data.io.benchmarks import benchmark_name, features_path_of
from mlis.data.io.matlab import field_shapes, read_strings
from mlis.errors import DataError
from mlis.features.build import IMAGES, SOURCES
from mlis.features.images.decode import ImageError, decode, quiet_pillow, read_file
from mlis.pages import data_uri
from mlis.storage.atomic import strict_json

logger: logging.Logger = logging.getLogger(__name__)

SIDE, QUALITY = 96, 70  # pixels of a thumbnail, and of JPEG: some 3 kB
FILES = 2_000_000  # looked at in a folder of photographs


@dataclass(frozen=True, eq=False)
class Pictures:
    """Thumbnails by row.

    Attributes:
        has: (N,) bool, rows whose file is there; None where nothing is known.
        problem: why not, if so.
        open: row → a picture; raises ImageError.
    """

    has: np.ndarray | None
    problem: str = ""
    open: Callable[[int], Image.Image] | None = None

    def thumbnail(self, row: int) -> str | None:
        """A small JPEG as a data URI; None where there is none or it cannot be read."""
        if self.open is None or self.has is None or not self.has[row]:
            return None
        try:
            with quiet_pillow():
                image = self.open(row)
        except ImageError as error:
            logger.warning("the picture of row %d is left out: %s", row, error)
            return None
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        square.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return data_uri(square.convert("RGB"), "jpeg", quality=QUALITY)


NO_PICTURES = Pictures(None, "the data were not read")


def no_pictures(problem: str) -> Pictures:
    """None, and why."""
    return Pictures(None, problem)


def pictures_of(
    arguments: Mapping[str, Any], dataset: GZSLDataset, images: Path | None
) -> Pictures:
    """Pictures of a dataset's rows.

    Args:
        arguments: of `load_dataset`, which gave `dataset`.
        dataset: whose rows.
        images: folder that holds the photographs; instead of the one that the data name.
    """
    name = str(arguments.get("name_or_path", ""))
    try:
        if name.casefold() == "letters":
            return _letters(int(arguments.get("seed", 0)), dataset)
        folder = Path(name)
        if name and (folder / IMAGES).is_file() and (folder / SOURCES).is_file():
            return _built(folder, len(dataset.labels), images)
        return _named(arguments, len(dataset.labels), images)
    except (DataError, OSError, ValueError) as error:
        return no_pictures(f"which pictures the rows are of cannot be read: {error}")


def _letters(seed: int, dataset: GZSLDataset) -> Pictures:
    @functools.cache
    def images() -> np.ndarray:
        from mlis.data.letters.render import load_letters

        return load_letters(seed=seed).images

    return Pictures(
        np.ones(len(dataset.labels), dtype=bool),
        open=lambda row: Image.fromarray(255 - images()[row], "L"),
    )


def _built(folder: Path, count: int, images: Path | None) -> Pictures:
    with (folder / IMAGES).open(encoding="utf-8", newline="") as handle:
        paths = [row["path"] for row in csv.DictReader(handle) if row.get("path")]
    if len(paths) != count:
        return no_pictures(f"{folder / IMAGES} names {len(paths)} images, there are {count} rows")
    record = strict_json((folder / SOURCES).read_text(encoding="utf-8"))
    root = images or Path(str(record.get("root", "")) if isinstance(record, dict) else "")
    return _files([root / path for path in paths], f"the photographs are not in {root}")


def _named(arguments: Mapping[str, Any], count: int, images: Path | None) -> Pictures:
    if images is None:
        return no_pictures("no picture of a row is known; --images names a folder of photographs")
    path = _features_path(arguments)
    if path is None or sorted(field_shapes(path).get("image_files", ())) != [1, count]:
        return no_pictures("the features file does not name the images (image_files)")
    names = read_strings(path, "image_files", np.arange(count))
    there = _index(images)
    found = [_best(name, there.get(_last(name), ())) for name in names]
    return _files(found, f"{images} holds none of the images that {path.name} names")


def _features_path(arguments: Mapping[str, Any]) -> Path | None:
    """The MATLAB file that the features were read from."""
    name = benchmark_name(str(arguments.get("name_or_path", "")))
    given = arguments.get("features_file")
    if name and "data_root" in arguments:
        return features_path_of(name, arguments["data_root"], given)
    return Path(given) if given and str(given).endswith(".mat") else None


def _index(images: Path) -> dict[str, list[Path]]:
    """All files by their last name."""
    found: dict[str, list[Path]] = {}
    for number, path in enumerate(images.rglob("*")):
        if number >= FILES:
            logger.warning("%s: more than %d files, the rest is not looked at", images, FILES)
            break
        found.setdefault(path.name, []).append(path)
    return found


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _best(name: str, paths: list[Path] | tuple[Path, ...]) -> Path | None:
    """The file whose folders agree with the name; of several that agree alike none."""
    wanted = name.replace("\\", "/").split("/")[::-1]

    def agreeing(path: Path) -> int:
        pairs = zip(wanted, path.parts[::-1], strict=False)
        agree = [a == b for a, b in pairs]
        return agree.index(False) if False in agree else len(agree)

    scores = sorted((agreeing(path) for path in paths), reverse=True)
    if not scores or (len(scores) > 1 and scores[0] == scores[1]):
        return None
    return max(paths, key=agreeing)


def _files(paths: list[Path | None] | list[Path], missing: str) -> Pictures:
    has = np.array([path is not None and path.is_file() for path in paths])
    if not has.any():
        return no_pictures(missing)

    def read(row: int) -> Image.Image:
        path = paths[row]
        assert path is not None
        return decode(read_file(path, time.time_ns()).data, enough=SIDE)

    return Pictures(has, open=read)
