"""The dataset, validated on construction, and its views for training and testing."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mlis.data.checks import check_dataset
from mlis.data.labels import class_indices, label_text, match_labels, shorten, warn_of_similar
from mlis.data.missing import warn_of_minus_one
from mlis.data.out_of_core.arrays import as_float32, update_hash
from mlis.data.out_of_core.stored import StoredRows, choose_rows
from mlis.data.splits import Split, add_validation, choose_unseen, split_rows
from mlis.errors import DataError
from mlis.escape import html_table

DISPLAYED = "display_names"
"""Key of `Provenance.sources`."""


@dataclass(frozen=True)
class Provenance:
    """Origin of a dataset; error messages name these files.

    `sources` holds JSON values, each if known: `backbone`, the image model of the features, whose
    `regions` says of how many regions each row is; `descriptors`, how class descriptors were
    computed, whose `phrases` are vectors of the names of attributes and classes; and
    `display_names`, by class name, what people read in its place. A trained model stores all but
    the phrases in order to recognise photographs and to add classes.
    """

    name: str  # "FLO", "letters", "my-data"
    features: str = ""  # description or file of the features: "efficientnet_lite2.mat"
    descriptors: str = ""  # "att_splits.mat:att"
    files: Mapping[str, str] = field(default_factory=dict[str, str])  # file name -> SHA-256
    notes: tuple[str, ...] = ()  # "validation split made by seed 0, …", "stand-in"
    sources: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def regions(self) -> int:
        """R, number of regions of an image whose features are joined in a row."""
        return int(_part(self.sources, "backbone").get("regions", 1))

    @property
    def shared_text(self) -> int:
        """Length of the text that each descriptor begins with, by the model of the features; or 0.

        Of one image-text model, images and texts can be compared; not without the texts' mean.
        """
        described = _part(self.sources, "descriptors")
        text, image = _part(described, "text"), _part(self.sources, "backbone")
        same = "name" in text and text["name"] == image.get("name")
        return int(text["size"]) if same and "text_mean" not in described else 0

    @property
    def phrases(self) -> Mapping[str, Any]:
        """`attributes`, a vector of the name of each, and `classes`, one by name; empty if none."""
        return _part(_part(self.sources, "descriptors"), "phrases")

    @property
    def model_sources(self) -> dict[str, Any]:
        """What a trained model stores: `sources` without the phrases, which only training needs."""
        made = _part(self.sources, "descriptors")
        if "phrases" not in made:
            return dict(self.sources)
        kept = {name: value for name, value in made.items() if name != "phrases"}
        return {**self.sources, "descriptors": kept}


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object inside another one; empty where it is not there."""
    found: Mapping[str, Any] | None = values.get(name)
    return found or dict[str, Any]()


@dataclass(frozen=True, eq=False)
class TrainingSplit:
    """Input of training code: rows of seen classes, descriptors of all classes."""

    features: np.ndarray | StoredRows  # (n, Dx) float32, rows of seen classes only
    labels: np.ndarray  # (n,) int64, numbering of `descriptors`
    descriptors: np.ndarray  # (C, Da) float32 of all classes, seen and unseen
    class_names: tuple[str, ...]
    seen_mask: np.ndarray  # (C,) bool
    class_ids: np.ndarray  # (C,) int64, index of each class in the whole dataset
    regions: int = 1  # R; a row is the Dx / R numbers of each region, one region after the other
    attribute_vectors: np.ndarray | None = None  # (Da, k) float32 of the attributes' names
    name_vectors: np.ndarray | None = None  # (C, k) float32 of the classes' names

    @cached_property
    def key(self) -> str:
        """SHA-256 of the content, computed on first use: only cache and snapshots need it."""
        names = ("features", "labels", "descriptors", "attribute_vectors", "name_vectors")
        arrays = {name: getattr(self, name) for name in names}
        if self.regions > 1:
            arrays["regions"] = np.array([self.regions])
        return content_hash(self.class_names, {k: v for k, v in arrays.items() if v is not None})


@dataclass(frozen=True, eq=False)
class TestSplit:
    """Rows to classify, in the class numbering of the corresponding training split."""

    __test__ = False  # not a test case for pytest

    features: np.ndarray | StoredRows  # (n, Dx) float32, rows of seen and unseen classes
    labels: np.ndarray  # (n,) int64
    seen_mask: np.ndarray  # (C,) bool
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class GZSLDataset:
    """Features, labels, one descriptor per class, and a split, validated on construction.

    Seen classes are those with `split.trainval` rows; all others are unseen.

    Raises:
        DataError: an attribute does not meet the requirements of :mod:`mlis.data.checks`.

    >>> rng = np.random.default_rng(0)
    >>> data = GZSLDataset.from_arrays(
    ...     rng.random((60, 4)), np.repeat(np.arange(6), 10), np.eye(6), unseen_classes=[5]
    ... )
    >>> data.seen_classes, data.unseen_classes, data.for_training().features.shape
    (array([0, 1, 2, 3, 4]), array([5]), (40, 4))
    """

    features: np.ndarray  # (N, Dx) float32, C order, possibly np.memmap
    labels: np.ndarray  # (N,) int64 in 0..C-1
    descriptors: np.ndarray  # (C, Da) float32
    class_names: tuple[str, ...]  # C, unique
    split: Split
    provenance: Provenance = field(default_factory=lambda: Provenance("arrays"))

    def __post_init__(self) -> None:
        check_dataset(self)

    def __repr__(self) -> str:
        seen, unseen = len(self.seen_classes), len(self.unseen_classes)
        return (
            f"GZSLDataset({self.provenance.name!r}: {len(self.labels)} rows of "
            f"{self.features.shape[1]} features, {seen} seen and {unseen} unseen classes)"
        )

    def _repr_html_(self) -> str:
        """A table of sizes and origins, for notebooks."""
        split, origin = self.split, self.provenance
        pairs = zip(self.class_names, self.seen_mask, strict=True)
        names = [name for name, is_seen in pairs if not is_seen]
        seen, unseen = len(self.seen_classes), len(names)
        return html_table(
            origin.name,
            [
                [
                    "classes",
                    f"{seen} with training images (seen), {unseen} described only (unseen)",
                ],
                ["described only", shorten(names)],
                ["training images", len(split.trainval)],
                ["test images", f"{len(split.test_seen)} seen, {len(split.test_unseen)} unseen"],
                ["features", f"{self.features.shape[1]} numbers  {origin.features}"],
                ["descriptors", f"{self.descriptors.shape[1]} numbers  {origin.descriptors}"],
                *(["note", note] for note in origin.notes),
            ],
        )

    @property
    def num_classes(self) -> int:
        """C, seen and unseen."""
        return len(self.descriptors)

    @cached_property
    def seen_mask(self) -> np.ndarray:
        """(C,) bool: classes with training rows."""
        mask = np.zeros(self.num_classes, dtype=bool)
        mask[self.labels[self.split.trainval]] = True
        return mask

    @property
    def seen_classes(self) -> np.ndarray:
        """(S,) int64."""
        return np.flatnonzero(self.seen_mask)

    @property
    def unseen_classes(self) -> np.ndarray:
        """(U,) int64."""
        return np.flatnonzero(~self.seen_mask)

    @cached_property
    def sha256(self) -> str:
        """Hash of features, labels, descriptors, names and split, without the provenance."""
        arrays = {name: getattr(self, name) for name in ("features", "labels", "descriptors")}
        return content_hash(self.class_names, arrays, self.split)

    @classmethod
    def from_arrays(
        cls,
        features: ArrayLike,
        labels: Sequence[int | str] | np.ndarray,
        descriptors: ArrayLike,
        *,
        class_names: Sequence[str] | None = None,
        unseen_classes: Iterable[int | str] | np.ndarray | None = None,
        split: Split | None = None,
        seed: int = 0,
        test_fraction: float = 0.2,
        name: str = "arrays",
        provenance: Provenance | None = None,
    ) -> "GZSLDataset":
        """Dataset from arrays; missing parts of the split are drawn with `seed`.

        Args:
            features: (N, Dx) real numbers; float32 arrays in C order (also memory maps) are not
                copied.
            labels: N names from `class_names`; if none of them is a name, class indices 0..C-1
                (see :mod:`mlis.data.labels`).
            descriptors: (C, Da) real numbers, one row per class.
            class_names: C unique names; default `class_000`, ….
            unseen_classes: indices or names of the classes without training rows. Default: the
                classes without any row; if all classes have rows, a random fifth of them.
            split: complete split, instead of `unseen_classes`; an empty validation part is
                filled in.
            seed: of all random choices made here.
            test_fraction: fraction of each seen class's rows held out for testing; 0 to train on
                all of them.
            name: used in messages and reports.
            provenance: instead of `name`.

        Raises:
            DataError: names field and row.
        """
        provenance = provenance or Provenance(name)
        origin = provenance.features or provenance.name
        descriptors = as_float32(descriptors, f"{origin}: descriptors")
        if class_names is None:
            class_names = [f"class_{i:03d}" for i in range(len(descriptors))]
        names = tuple(class_names)
        warn_of_minus_one(descriptors, f"{origin}: descriptors", names)
        unseen = None
        if unseen_classes is not None:
            unseen = class_indices(unseen_classes, names, f"{origin}: unseen_classes")
        known = () if unseen is None else unseen.tolist()
        return cls.from_indices(
            features,
            match_labels(labels, names, f"{origin}: labels", unseen=known),
            descriptors,
            names,
            unseen=unseen,
            split=split,
            seed=seed,
            test_fraction=test_fraction,
            provenance=provenance,
        )

    @classmethod
    def from_indices(
        cls,
        features: ArrayLike,
        indices: np.ndarray,
        descriptors: ArrayLike,
        class_names: Sequence[str],
        *,
        unseen: np.ndarray | None = None,
        split: Split | None = None,
        seed: int = 0,
        test_fraction: float = 0.2,
        provenance: Provenance,
    ) -> "GZSLDataset":
        """As `from_arrays`, with labels that are class indices.

        Args:
            indices: (N,) int64, 0..C-1.
            unseen: (U,) int64.
        """
        origin = provenance.features or provenance.name
        names = tuple(map(label_text, class_names))
        warn_of_similar(names, origin)
        notes: list[str] = []
        if split is None:
            if unseen is None:
                unseen, note = _default_unseen(indices, len(names), seed)
                notes.append(note)
            split = split_rows(indices, unseen, test_fraction=test_fraction, seed=seed)
        features = as_float32(features, f"{origin}: features")
        descriptors = as_float32(descriptors, f"{origin}: descriptors")
        if not split.has_validation and np.isin(split.trainval, np.arange(len(indices))).all():
            split, note = add_validation(split, indices, seed=seed)
            notes.append(note)
        provenance = replace(provenance, notes=(*provenance.notes, *notes))
        return cls(features, indices, descriptors, names, split, provenance)

    def for_training(self) -> TrainingSplit:
        """Training rows, descriptors of all classes; no test row."""
        return self._training(self.split.trainval, np.arange(self.num_classes))

    def for_testing(self) -> TestSplit:
        """The test rows, seen and unseen, in the class numbering of `for_training`."""
        rows = np.concatenate([self.split.test_seen, self.split.test_unseen])
        return self._test(rows, np.arange(self.num_classes), self.seen_mask)

    def for_validation(self) -> tuple[TrainingSplit, TestSplit]:
        """The corresponding pair of training rows only; classes are renumbered 0..C'-1.

        Raises:
            DataError: the dataset has too few classes for a validation split.
        """
        split = self.split
        if not split.has_validation:
            raise DataError(
                f"{self.provenance.name}: no validation split: expected at least "
                f"3 seen classes, got {len(self.seen_classes)}. Mark rows as val, or add classes."
            )
        classes = np.unique(self.labels[np.concatenate([split.train, split.val_unseen])])
        training = self._training(split.train, classes)
        rows = np.concatenate([split.val_seen, split.val_unseen])
        return training, self._test(rows, classes, training.seen_mask)

    def _training(self, rows: np.ndarray, classes: np.ndarray) -> TrainingSplit:
        labels = np.searchsorted(classes, self.labels[rows])
        seen_mask = np.zeros(len(classes), dtype=bool)
        seen_mask[labels] = True
        names = tuple(self.class_names[int(i)] for i in classes)
        return TrainingSplit(
            features=choose_rows(self.features, rows),
            labels=labels,
            descriptors=self.descriptors[classes],
            class_names=names,
            seen_mask=seen_mask,
            class_ids=classes,
            regions=self.provenance.regions,
            attribute_vectors=self._attribute_vectors(),
            name_vectors=self._name_vectors(names),
        )

    def _attribute_vectors(self) -> np.ndarray | None:
        """(Da, k), where each descriptor column is an attribute whose name has a vector."""
        found: Sequence[Sequence[float]] = self.provenance.phrases.get("attributes", ())
        if len(found) != self.descriptors.shape[1]:
            return None
        return as_float32(found, f"{self.provenance.name}: phrases: attributes")

    def _name_vectors(self, names: Sequence[str]) -> np.ndarray | None:
        """(C, k), where the name of every class has a vector."""
        found: Mapping[str, Sequence[float]] = _part(self.provenance.phrases, "classes")
        if not set(names) <= set(found):
            return None
        return as_float32([found[name] for name in names], f"{self.provenance.name}: phrases")

    def _test(self, rows: np.ndarray, classes: np.ndarray, seen_mask: np.ndarray) -> TestSplit:
        return TestSplit(
            features=choose_rows(self.features, rows),
            labels=np.searchsorted(classes, self.labels[rows]),
            seen_mask=seen_mask.copy(),
            class_names=tuple(self.class_names[int(i)] for i in classes),
        )


def content_hash(
    class_names: Sequence[str],
    arrays: Mapping[str, np.ndarray | StoredRows],
    split: Split | None = None,
) -> str:
    """SHA-256 of a dataset; `arrays` are features, labels and descriptors, in this order."""
    hasher = hashlib.sha256(b"mlis dataset 1:")
    hasher.update(json.dumps(class_names).encode())
    for name, array in arrays.items():
        update_hash(hasher, name, array)
    for name in () if split is None else split.__dataclass_fields__:
        update_hash(hasher, name, getattr(split, name))
    return hasher.hexdigest()


def _default_unseen(labels: np.ndarray, num_classes: int, seed: int) -> tuple[np.ndarray, str]:
    """Classes without rows, or else a random fifth of all classes; and a note on the choice."""
    without_rows = np.setdiff1d(np.arange(num_classes), labels)
    if without_rows.size:
        return without_rows, "unseen classes: those without rows"
    chosen = choose_unseen(np.arange(num_classes), np.random.default_rng([seed, 0]))
    return chosen, f"unseen classes chosen by seed {seed}"
