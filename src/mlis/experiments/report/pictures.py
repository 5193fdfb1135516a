"""Thumbnails of a dataset's rows, where it is known which file each came from.

Known are the embedded letters, dataset folders of `mlis data build` (`images.csv`, `sources.json`),
and files of the benchmarks' format together with a folder that holds the photographs that their
`image_files` names.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from mlis.data.dataset import GZSLDataset
from mlis.data.io.benchmarks import benchmark_name, features_paths_of
from mlis.data.io.feature_folder import IMAGES
from mlis.data.io.folder import SOURCES
from mlis.data.io.image_folders import image_files
from mlis.data.io.joined import file_paths
from mlis.data.letters.dataset import load_letters
from mlis.errors import DataError
from mlis.features.decode import ImageError, decode, quiet_pillow, read_file
from mlis.features.images.dataset_images import photographs
from mlis.pages import data_uri

logger: logging.Logger = logging.getLogger(__name__)

SIDE, QUALITY = 96, 70  # pixels of a thumbnail, and of JPEG: some 3 kB


@dataclass(frozen=True, eq=False)
class Pictures:
    """Thumbnails by row.

    Attributes:
        has: (N,) bool, rows whose file is there.
        open: row → a picture; raises ImageError.
        problem: why there are none, or empty.
    """

    has: np.ndarray
    open: Callable[[int], Image.Image] | None = None
    problem: str = ""

    def of(self, rows: np.ndarray) -> "Pictures":
        """Those of (n,) rows, re-indexed."""
        if (found := self.open) is None:
            return Pictures(np.zeros(len(rows), dtype=bool), problem=self.problem)
        return Pictures(self.has[rows], lambda row: found(int(rows[row])))

    def thumbnail(self, row: int) -> str | None:
        """A small JPEG as a data URI; None where there is none or it cannot be read."""
        if self.open is None or not self.has[row]:
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


def pictures_of(
    arguments: Mapping[str, Any], dataset: GZSLDataset, images: Path | None
) -> Pictures:
    """Pictures of a dataset's rows.

    Args:
        arguments: of `load_dataset`, which gave `dataset`.
        dataset: whose rows.
        images: folder that holds the photographs; instead of the one that the data name.
    """
    name, count = str(arguments.get("name_or_path", "")), len(dataset.labels)
    try:
        if name.casefold() == "letters":
            shown = 255 - load_letters(seed=int(arguments.get("seed", 0))).images
            return Pictures(
                np.ones(count, dtype=bool), lambda row: Image.fromarray(shown[row], "L")
            )
        folder = Path(name)
        if name and (folder / IMAGES).is_file() and (folder / SOURCES).is_file():
            found, _ = photographs(folder, count)
            return _known([(images or found.root) / one.path for one in found.images])
        return _known(_named(arguments, count, images))
    except (DataError, OSError, ValueError) as error:
        return Pictures(np.zeros(count, dtype=bool), problem=str(error))


def _named(arguments: Mapping[str, Any], count: int, images: Path | None) -> list[Path | None]:
    """Files in `images` that have the names of `image_files`, and if need be their folder's."""
    if images is None:
        raise DataError("no picture of a row is known; --images names a folder of photographs")
    path = _features_path(arguments)
    names = () if path is None else image_files(path, count)
    if not names:
        raise DataError("the features file does not name the images (image_files)")
    there: dict[str, list[Path]] = {}
    for file in images.rglob("*"):
        there.setdefault(file.name, []).append(file)
    wanted = [PurePosixPath(name.replace("\\", "/")) for name in names]
    return [_only(name, there.get(name.name, [])) for name in wanted]


def _only(name: PurePosixPath, files: Sequence[Path]) -> Path | None:
    """The file of that name; of several the one in a folder of the same name."""
    if len(files) > 1:
        files = [file for file in files if file.parent.name == name.parent.name]
    return files[0] if len(files) == 1 else None


def _features_path(arguments: Mapping[str, Any]) -> Path | None:
    """The MATLAB file that the features were read from."""
    name = benchmark_name(str(arguments.get("name_or_path", "")))
    given = arguments.get("features_file")
    if name and "data_root" in arguments:
        return features_paths_of(name, arguments["data_root"], given)[0]
    first = file_paths(given)[0] if given else None  # joined files have the same rows
    return first if first is not None and first.suffix == ".mat" else None


def _known(paths: Sequence[Path | None]) -> Pictures:
    """Pictures by the file of each row.

    Raises:
        DataError: none of the files is there.
    """
    found = pictures_of_files(paths)
    if not found.has.any():
        first = next((path for path in paths if path is not None), "of the names in image_files")
        raise DataError(f"none of the photographs is there, such as {first}")
    return found


def pictures_of_files(paths: Sequence[Path | None]) -> Pictures:
    """Pictures by the file of each row."""
    has = np.array([path is not None and path.is_file() for path in paths], dtype=bool)

    def read(row: int) -> Image.Image:
        path = paths[row]
        assert path is not None
        return decode(read_file(path, time.time_ns()).data, enough=SIDE)

    return Pictures(has, read)
