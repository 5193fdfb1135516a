"""Labelled rows to measure a trained model on: photographs or features, with no training row.

- A folder of photographs, `CLASS/*.jpg`, or one with a table of paths and classes.
- A `.csv`, `.tsv` or `.parquet` table of photographs: a column `path`, one of classes.
- A folder of features (:mod:`mlis.data.io.feature_folder`), or a file of features with labels.
- A dataset folder whose rows are all for testing.

Where rows are marked (`split`), those marked `test` are used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlis.data.dataset import TestSplit
from mlis.data.io.csv_file import read_csv
from mlis.data.io.feature_folder import is_feature_folder, read_feature_folder
from mlis.data.io.folder import WORDS
from mlis.data.io.tables import LABEL, SPLIT, read_rows
from mlis.data.labels import match_labels, normal, shorten, suggestion
from mlis.data.out_of_core.stored import StoredRows, choose_rows
from mlis.errors import DataError
from mlis.features.descriptors.text_tables import find_column, read_table
from mlis.features.images.embed import embed
from mlis.features.images.walk import PATHS, Bad, ImageFile, find_images

if TYPE_CHECKING:
    from mlis.features.backbones.base import Backbone
    from mlis.model.recognizer import Recognizer

CLASS_COLUMNS = ("class", LABEL)
_TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Features of N rows and what they are of.

    Attributes:
        name: for messages.
        features: (N, Dx).
        labels: N class names, or numbers that count a model's classes from 0.
        backbone: the image model of the features, where it is known.
        bad: photographs without a row.
    """

    name: str
    features: np.ndarray | StoredRows
    labels: Sequence[str] | np.ndarray
    backbone: Mapping[str, Any] = field(default_factory=dict[str, Any])
    bad: tuple[Bad, ...] = ()

    def for_model(self, recognizer: "Recognizer") -> TestSplit:
        """The rows in the class numbering of a model; which classes are seen is the model's word.

        Raises:
            DataError: the model has no class of some name, or takes features of another length.
        """
        if self.features.shape[1] != recognizer.num_features:
            raise DataError(
                f"{self.name}: {self.features.shape[1]} features per row, expected "
                f"{recognizer.num_features}, as the model takes. Use features of its image model."
            )
        return TestSplit(
            features=self.features,
            labels=self._numbers(recognizer.class_names),
            seen_mask=np.array(recognizer.seen_mask),
            class_names=recognizer.class_names,
        )

    def _numbers(self, names: tuple[str, ...]) -> np.ndarray:
        place = {normal(name): number for number, name in enumerate(names)}
        place |= {name: number for number, name in enumerate(names)}
        labels = self.labels
        if isinstance(labels, np.ndarray) and labels.dtype.kind not in "OUST":
            return match_labels(labels, names, f"{self.name}: labels")
        words = [str(label) for label in labels]
        words = [word if word in place else normal(word) for word in words]
        unknown = sorted(set(words) - place.keys())
        if len(unknown) == len(set(words)) and all(word.isdecimal() for word in words):
            return match_labels([int(word) for word in words], names, f"{self.name}: labels")
        if unknown:
            count = sum(word in set(unknown) for word in words)
            raise DataError(
                f"{self.name}: {count} rows are of classes that the model does not know: "
                f"{shorten(unknown)}.{suggestion(unknown[0], names)} Correct the names, add the "
                "classes (mlis add-classes), or leave these rows out."
            )
        return np.array([place[word] for word in words], dtype=np.int64)


def is_photographs(path: Path) -> bool:
    """Whether `path` is a folder of photographs or a table that lists some."""
    if path.is_dir():
        return not is_feature_folder(path) and not (path / WORDS).exists()
    if path.suffix.casefold() == ".csv":
        return bool(set(PATHS) & set(read_csv(path)[0]))
    return path.suffix.casefold() in _TABLES and bool(set(PATHS) & read_table(path).keys())


def find_labelled(path: Path, table: Path | None = None, column: str = "") -> list[ImageFile]:
    """The photographs of a folder or table, each with its class.

    Args:
        path: a folder, where the class of `a/b.jpg` is `a`; or a table.
        table: of a folder: the classes, by path below it.
        column: of classes; `class` or `label` where not given.

    Raises:
        DataError: there is none, or what is wrong with the table.
    """
    if path.is_dir() and table is None:
        return list(find_images(path).images)
    table, root = (table, path) if table is not None else (path, path.parent)
    columns = read_table(table)
    known = [name for name in PATHS if name in columns]
    paths = find_column(table, columns, known[0] if known else PATHS[0])
    named = [name for name in CLASS_COLUMNS if name in columns]
    classes = find_column(table, columns, column or (named[0] if named else CLASS_COLUMNS[0]))
    for row, name in enumerate(paths):
        if not name:
            raise DataError(f"{table}: row {row}: expected a path, got an empty cell.")
    images = [
        ImageFile(name, root / name, normal(label))
        for name, label in zip(paths, classes, strict=True)
    ]
    return list(compress(images, for_testing(columns.get(SPLIT), table, len(images))))


def embed_labelled(
    name: str,
    images: Sequence[ImageFile],
    backbone: "Backbone",
    *,
    workers: int | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> LabelledRows:
    """Features of labelled photographs; what cannot be read or has no class is in `bad`.

    Raises:
        DataError: no photograph is left.
    """
    bad = [Bad(one.path, "no class: it is in no folder") for one in images if not one.class_name]
    images = [one for one in images if one.class_name]
    features: list[np.ndarray] = []
    labels: list[str] = []
    numbered = iter(images)
    for batch in embed([one.source for one in images], backbone, workers=workers):
        for item in batch:
            image = next(numbered)
            if item.features is None:
                bad.append(Bad(image.path, item.reason))
            else:
                features.append(item.features)
                labels.append(image.class_name)
        done(len(batch))
    if not features:
        first = f"; the first is {bad[0].path}: {bad[0].reason}" if bad else ""
        raise DataError(f"{name}: expected labelled photographs, got {len(bad)} unusable{first}.")
    return LabelledRows(name, np.stack(features), labels, backbone.identity.to_dict(), tuple(bad))


def read_labelled(path: Path, labels: Path | None = None, column: str = "") -> LabelledRows:
    """Features and labels from a folder or a file.

    Args:
        path: a folder of features, `.npz`, `.csv`, `.parquet`, or `.npy` with `labels`.
        labels: file of the labels of a `.npy` file.
        column: of labels, in `.csv` and `.parquet`.

    Raises:
        DataError: with the file, and the row or column.
    """
    name = str(path)
    if is_feature_folder(path) and labels is None:
        images = read_feature_folder(path)
        kept = for_testing(images.marks, path, len(images.paths))
        without = np.array([not name for name in images.classes], dtype=bool)
        bad = [Bad(images.paths[i], "no class") for i in np.flatnonzero(kept & without)]
        kept &= ~without
        if not kept.any():
            raise DataError(f"{path}: expected rows with a class, got none.")
        chosen = images.choose(kept.tolist())
        return LabelledRows(name, chosen.features, chosen.classes, images.backbone, tuple(bad))
    features, found, marks = read_rows(path, labels, column or LABEL)
    kept = np.flatnonzero(for_testing(marks, path, len(features)))
    whole = found if isinstance(found, np.ndarray) else np.array(found, dtype=object)
    if len(whole) != len(features):
        raise DataError(
            f"{labels or path}: {len(whole)} labels, expected one for each of {len(features)} rows."
        )
    return LabelledRows(name, choose_rows(features, kept), whole[kept])


def for_testing(marks: Sequence[Any] | np.ndarray | None, path: Path, count: int) -> np.ndarray:
    """(N,) bool: rows marked test, or all where rows are not marked.

    Raises:
        DataError: rows are marked, and none of them test.
    """
    if marks is None:
        return np.ones(count, dtype=bool)
    kept = np.array([str(mark).strip().casefold().startswith("test") for mark in marks], dtype=bool)
    if not kept.any():
        raise DataError(
            f"{path}: {SPLIT}: expected rows marked test, got none. Mark the rows to evaluate, or "
            "leave the column out to evaluate all."
        )
    return kept
