"""Datasets from image features and class descriptors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.dataset import DISPLAYED, GZSLDataset, Provenance
from mlis.data.io.csv_file import write_csv
from mlis.data.io.feature_folder import IMAGES, ImageFeatures, images_table
from mlis.data.io.folder import SOURCES
from mlis.data.labels import closest, match_labels, shorten
from mlis.data.row_marks import read_marks, split_by_marks
from mlis.errors import DataError
from mlis.features.backbones.base import BackboneSpec
from mlis.features.descriptors.describe import Descriptors
from mlis.features.images.files import Bad, Found
from mlis.storage.atomic import write_json

UNMATCHED = "unmatched.csv"


@dataclass(frozen=True)
class Unmatched:
    """A class name that has images or a description, but not both.

    Attributes:
        name: of the class.
        lacks: "description" or "images".
        near: the closest unmatched name on the other side; empty if there is none.
    """

    name: str
    lacks: str
    near: str


def unmatched(with_images: Sequence[str], described: Sequence[str]) -> list[Unmatched]:
    """Names that are not equal to one on the other side; those with images first.

    >>> unmatched(["daisy", "Rose"], ["rose", "daisy", "tulip"])[0]
    Unmatched(name='Rose', lacks='description', near='rose')
    """
    images, words = set(with_images), set(described)
    only_images, only_words = sorted(images - words), sorted(words - images)
    return [
        *(Unmatched(name, "description", closest(name, only_words)) for name in only_images),
        *(Unmatched(name, "images", closest(name, only_images)) for name in only_words),
    ]


def write_unmatched(found: Sequence[Unmatched], folder: Path) -> None:
    """Write `unmatched.csv`."""
    rows = [(each.name, each.lacks, each.near) for each in found]
    write_csv(folder / UNMATCHED, ("name", "lacks", "near"), rows)


def _check_described(what: str, found: Sequence[Unmatched], remedy: str) -> None:
    """Raise `DataError` if classes with images have no description."""
    lost = [each for each in found if each.lacks == "description"]
    if lost:
        near = [f"{each.name!r} may be {each.near!r}" for each in lost if each.near]
        hint = f" ({'; '.join(near[:6])}{'; …' if len(near) > 6 else ''})" if near else ""
        names = shorten([each.name for each in lost])
        raise DataError(
            f"{what}: expected a description for each class with images, got none for {len(lost)} "
            f"classes: {names}{hint}. {remedy}"
        )


def described_images(found: Found, names: Sequence[str], *, skip: bool) -> Found:
    """The images of described classes; the others are added to the bad files.

    Args:
        found: images of a folder.
        names: of the described classes.
        skip: omit classes without a description instead of raising an error.

    Raises:
        DataError: lists the classes without a description and the closest names; or no image is of
            a described class.
    """
    if not skip:
        _check_described(
            str(found.root),
            unmatched(found.class_names, names),
            "Names must be equal: correct them, describe these classes, or omit their images with "
            "--skip-undescribed.",
        )
    known = set(names)
    kept = tuple(image for image in found.images if image.class_name in known)
    if not kept:
        raise DataError(
            f"{found.root}: expected images of the described classes {shorten(names)}, got none."
        )
    left = [
        Bad(image.path, "its class is not described" if image.class_name else "no class folder")
        for image in found.images
        if image.class_name not in known
    ]
    return replace(found, images=kept, bad=(*found.bad, *left))


def check_seen(descriptors: Descriptors, with_images: Sequence[str]) -> None:
    """Raise `DataError` if a class marked as seen has no images."""
    if descriptors.split is None:
        return
    present = set(with_images)
    pairs = zip(descriptors.names, descriptors.split, strict=True)
    missing = [name for name, part in pairs if part == "seen" and name not in present]
    if missing:
        raise DataError(
            f"{_table(descriptors)}: {len(missing)} classes are marked as "
            f"seen, but have no images: {shorten(missing)}. Add images, or mark them as unseen."
        )


def build(
    images: ImageFeatures,
    descriptors: Descriptors,
    *,
    name: str,
    seed: int = 0,
    test_fraction: float = 0.2,
) -> GZSLDataset:
    """Dataset from image features and class descriptors.

    Unseen classes are those marked in the table of classes; without marks, those without images
    (without training images, if rows are marked); if there are none, a random fifth.

    Args:
        images: each of a described class.
        descriptors: of all classes.
        name: of the dataset.
        seed: of all random choices: held-out rows, unseen classes, validation split.
        test_fraction: fraction of each seen class's images held out for testing; ignored if rows
            are marked.

    Raises:
        DataError: a seen class has no image, or marks of rows and classes disagree.
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
            features=str(BackboneSpec.from_dict(images.backbone)) if images.backbone else "",
            descriptors=descriptors.kind,
            files=_files(descriptors),
            notes=descriptors.notes,
            sources=_sources(images, descriptors),
        ),
    )


def redescribe(data: GZSLDataset, descriptors: Descriptors, *, name: str) -> GZSLDataset:
    """The same rows, labels and split with other descriptors.

    Args:
        data: provides everything except the descriptors.
        descriptors: of all its classes, in any order; others are ignored.
        name: of the new dataset.

    Raises:
        DataError: a class has no description, or is marked as seen or unseen unlike in the dataset.
    """
    lacking = unmatched(data.class_names, descriptors.names)
    _check_described(data.provenance.name, lacking, "Describe these classes.")
    place = {class_name: i for i, class_name in enumerate(descriptors.names)}
    rows = np.array([place[class_name] for class_name in data.class_names])
    for class_name, row, seen in zip(data.class_names, rows, data.seen_mask, strict=True):
        expected = "seen" if seen else "unseen"
        got = expected if descriptors.split is None else descriptors.split[row]
        if got != expected:
            raise DataError(
                f"{_table(descriptors)}: class {class_name!r}: expected "
                f"{expected}, as in {data.provenance.name}, got {got}. The split of the dataset is "
                "kept: correct the column, or omit it."
            )
    old = data.provenance
    return replace(
        data,
        descriptors=np.ascontiguousarray(descriptors.vectors[rows], dtype=np.float32),
        provenance=Provenance(
            name=name,
            features=old.features or old.name,
            descriptors=descriptors.kind,
            files=_files(descriptors),
            notes=(*old.notes, *descriptors.notes),
            sources={**old.sources, **_described(descriptors)},
        ),
    )


def write_sources(images: ImageFeatures, descriptors: Descriptors, folder: Path) -> None:
    """Write `images.csv`, with the image of each row, and `sources.json` beside a new dataset.

    `sources.json` contains the root of the paths, the backbone, and how descriptors were computed.
    """
    (folder / IMAGES).write_text(images_table(images), encoding="utf-8")
    write_json(folder / SOURCES, {"root": images.root, **_sources(images, descriptors)})


def _sources(images: ImageFeatures, descriptors: Descriptors) -> dict[str, Any]:
    return {"backbone": dict(images.backbone), **_described(descriptors)}


def _described(descriptors: Descriptors) -> dict[str, Any]:
    shown = {DISPLAYED: dict(descriptors.display)} if descriptors.display else {}
    return {"descriptors": dict(descriptors.record), **shown}


def _files(descriptors: Descriptors) -> dict[str, str]:
    source = descriptors.record["source"]
    return {source["name"]: source["sha256"]} if source else {}


def _table(descriptors: Descriptors) -> str:
    return descriptors.record["source"].get("name", "classes")
