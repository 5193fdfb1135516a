"""From features of images and descriptors of classes to a dataset."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.dataset import GZSLDataset, Provenance
from mlis.data.io.feature_folder import ImageFeatures, images_table
from mlis.data.io.folder import SOURCES
from mlis.data.labels import match_labels, shorten
from mlis.data.row_marks import read_marks, split_by_marks
from mlis.errors import DataError
from mlis.features.backbones.base import Identity
from mlis.features.descriptors.describe import Descriptors, record_of
from mlis.features.images.walk import Bad, Found
from mlis.features.matching import Unmatched, unmatched, without_description
from mlis.storage.atomic import write_json

logger: logging.Logger = logging.getLogger(__name__)

IMAGES, UNMATCHED = "images.csv", "unmatched.csv"


def described_images(found: Found, names: Sequence[str], *, skip: bool) -> Found:
    """The images whose class is described; the others are listed as bad.

    Args:
        found: images of a folder.
        names: of the described classes.
        skip: leave out classes without a description; else they are an error.

    Raises:
        DataError: names the classes without a description and those they may be meant for, or says
            that no image has a class.
    """
    lost = without_description(unmatched(found.class_names, names))
    if lost and not skip:
        raise DataError(
            f"{found.root}: {lost}. Names must agree letter for letter: correct them, describe "
            "these classes, or leave their images out with --skip-undescribed."
        )
    known = set(names)
    kept = tuple(image for image in found.images if image.class_name in known)
    if not kept:
        raise DataError(f"{found.root}: no image is of a described class: {shorten(names)}.")
    left = [
        Bad(
            image.path,
            "its class is not described" if image.class_name else "no class: it is in no folder",
        )
        for image in found.images
        if image.class_name not in known
    ]
    return replace(found, images=kept, bad=(*found.bad, *left))


def check_seen(descriptors: Descriptors, with_images: Sequence[str]) -> None:
    """Raise `DataError` where a class is said to be seen and has no image."""
    if descriptors.split is None:
        return
    pairs = zip(descriptors.names, descriptors.split, strict=True)
    missing = [name for name, part in pairs if part == "seen" and name not in set(with_images)]
    if missing:
        raise DataError(
            f"{descriptors.source.get('name', 'classes')}: {len(missing)} classes are seen, but "
            f"have no images: {shorten(missing)}. Give them images, or say unseen."
        )


def build(
    images: ImageFeatures,
    descriptors: Descriptors,
    *,
    name: str,
    seed: int = 0,
    test_fraction: float = 0.2,
) -> GZSLDataset:
    """A dataset of the images' features and the classes' descriptors.

    Unseen are the classes that the descriptors' table says, else those without images (without
    training images, where rows are marked), else a fifth by seed.

    Args:
        images: each of a described class.
        descriptors: of all classes.
        name: of the dataset.
        seed: of what is chosen here: held-out rows, unseen classes, validation split.
        test_fraction: share of each seen class's images held out; not used where rows are marked.

    Raises:
        DataError: a class is seen and has no image, or what marks and classes disagree on.
    """
    check_seen(descriptors, images.classes)
    labels = match_labels(images.classes, descriptors.names, f"{name}: images", rows=False)
    unseen = None
    if descriptors.split is not None:
        unseen = np.flatnonzero(np.array(descriptors.split) == "unseen")
    split = None
    if images.marks is not None:
        what = f"{name}: split of the images"
        marks = read_marks(images.marks, what)
        split = split_by_marks(marks, labels, descriptors.names, unseen, what, seed=seed)
    source = descriptors.source
    return GZSLDataset.from_indices(
        images.features,
        labels,
        descriptors.vectors,
        descriptors.names,
        unseen=unseen,
        split=split,
        seed=seed,
        test_fraction=test_fraction,
        provenance=Provenance(
            name=name,
            features=_model_text(images),
            descriptors=descriptors.kind,
            files={source["name"]: source["sha256"]} if source else {},
            notes=descriptors.notes,
            sources=sources_of(images, descriptors),
        ),
    )


def redescribe(data: GZSLDataset, descriptors: Descriptors, *, name: str) -> GZSLDataset:
    """The same rows, labels and split with other descriptors.

    Args:
        data: gives all but the descriptors.
        descriptors: of all its classes, in any order; further ones are left out.
        name: of the new dataset.

    Raises:
        DataError: a class is not described, or the table calls a class seen or unseen that the
            dataset does not.
    """
    lost = without_description(unmatched(data.class_names, descriptors.names))
    if lost:
        raise DataError(f"{data.provenance.name}: {lost}. Describe these classes.")
    place = {class_name: i for i, class_name in enumerate(descriptors.names)}
    rows = np.array([place[class_name] for class_name in data.class_names])
    for class_name, row, seen in zip(data.class_names, rows, data.seen_mask, strict=True):
        kind = "seen" if seen else "unseen"
        said = kind if descriptors.split is None else descriptors.split[row]
        if said != kind:
            raise DataError(
                f"{descriptors.source.get('name', 'classes')}: class {class_name!r}: expected "
                f"{kind}, as in {data.provenance.name}, got {said}. The split stays the dataset's: "
                "correct the column, or leave it out."
            )
    old, source = data.provenance, descriptors.source
    return replace(
        data,
        descriptors=np.ascontiguousarray(descriptors.vectors[rows], dtype=np.float32),
        provenance=Provenance(
            name=name,
            features=old.features or old.name,
            descriptors=descriptors.kind,
            files={source["name"]: source["sha256"]} if source else {},
            notes=(*old.notes, *descriptors.notes),
            sources={**old.sources, "descriptors": record_of(descriptors)},
        ),
    )


def _model_text(images: ImageFeatures) -> str:
    return str(Identity.from_dict(images.backbone)) if images.backbone else ""


def write_sources(images: ImageFeatures, descriptors: Descriptors, folder: Path) -> None:
    """Beside a new dataset: `images.csv`, the picture of each row, and `sources.json`.

    `sources.json` holds the folder that the paths begin in, the image model and how descriptors
    were made: what is needed to compute the same of other images and classes.
    """
    (folder / IMAGES).write_text(images_table(images), encoding="utf-8")
    write_json(folder / SOURCES, {"root": images.root, **sources_of(images, descriptors)})


def sources_of(images: ImageFeatures, descriptors: Descriptors) -> dict[str, Any]:
    """How features and descriptors were made, for a dataset's provenance."""
    return {"backbone": dict(images.backbone), "descriptors": record_of(descriptors)}


def unmatched_rows(found: Sequence[Unmatched]) -> list[tuple[str, str, str]]:
    """Lines of `unmatched.csv`: name, what it lacks, the name it may be meant for."""
    lacks = {"images": "description", "words": "images"}
    return [(each.name, lacks[each.side], each.near) for each in found]
