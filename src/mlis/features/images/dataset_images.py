"""A dataset's photographs, seen by another image model: the same rows, labels and split."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlis.data.dataset import GZSLDataset
from mlis.data.io.feature_folder import IMAGES
from mlis.data.io.folder import SOURCES, write_folder
from mlis.data.io.text_table import find_column, read_table
from mlis.errors import DataError
from mlis.features.backbones.base import Backbone
from mlis.features.images.extract import Progress, extract
from mlis.features.images.files import Found, ImageFile
from mlis.storage.atomic import strict_json, write_json
from mlis.storage.folders import replaced_together
from mlis.storage.locks import held


def with_features_of(
    data: GZSLDataset,
    folder: Path,
    backbone: Backbone,
    output: Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> GZSLDataset:
    """The dataset with features of another image model.

    Args:
        data: the dataset.
        folder: of the dataset, with the list of photographs that `mlis data build` wrote.
        backbone: the model.
        output: keeps finished shards (:func:`mlis.features.images.extract.extract`).
        workers, progress: as of `extract`.

    Raises:
        DataError: the photographs of the rows are unknown, or one has changed or cannot be read.
    """
    found, hashes = photographs(folder, len(data.labels))
    result = extract(found, backbone, output, workers=workers, progress=progress)
    if result.bad:
        raise DataError(
            f"{found.root}: {len(result.bad)} of {len(hashes)} photographs of {folder} cannot be "
            f"read; the first is {result.bad[0].path}: {result.bad[0].reason}. Restore them, or "
            "build the dataset again."
        )
    changed = [
        image.path
        for image, now, then in zip(found.images, result.images.hashes, hashes, strict=True)
        if now != then
    ]
    if changed:
        raise DataError(
            f"{found.root / changed[0]}: expected the photograph of which {folder} was built, got "
            "another file. Build the dataset again."
        )
    spec = dict(result.images.backbone)
    old = data.provenance
    return replace(
        data,
        features=np.ascontiguousarray(result.images.features),
        provenance=replace(
            old, features=str(backbone.identity), sources={**old.sources, "backbone": spec}
        ),
    )


def save_beside_photographs(data: GZSLDataset, folder: Path, output: Path) -> None:
    """Save a dataset made of that of `folder`, with the list of its photographs, if it has one.

    Raises:
        OSError: the folder cannot be written.
        SettingsError: it is in use by another process.
    """
    with held(output), replaced_together(output) as new:
        write_folder(data, new)
        if (folder / IMAGES).exists():
            shutil.copyfile(folder / IMAGES, new / IMAGES)
        if (folder / SOURCES).exists():
            known = strict_json((folder / SOURCES).read_text(encoding="utf-8"))
            write_json(new / SOURCES, {**known, **data.provenance.sources})


def photographs(folder: Path, rows: int) -> tuple[Found, tuple[str, ...]]:
    """The photographs of a dataset's rows, in their order, and the SHA-256 of each.

    Args:
        folder: of a dataset that `mlis data build` wrote.
        rows: their number.

    Raises:
        DataError: they are unknown.
    """
    table = folder / IMAGES
    try:
        root = Path(strict_json((folder / SOURCES).read_text(encoding="utf-8"))["root"])
        columns = read_table(table)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{folder}: the photographs of its rows are unknown ({error}). Build the dataset from "
            "photographs (`mlis data build --images DIR`), which writes the list."
        ) from error
    paths, hashes = find_column(table, columns, "path"), find_column(table, columns, "sha256")
    if len(paths) != rows:
        raise DataError(
            f"{table}: expected one line for each of {rows} rows, got {len(paths)}. Build the "
            "dataset again."
        )
    return Found(root, tuple(ImageFile(path, root / path) for path in paths)), hashes
