"""Labelled rows for evaluating a trained model: photographs or features.

- A folder of photographs, `CLASS/*.jpg`, or any folder with a table of paths and classes.
- A `.csv`, `.tsv` or `.parquet` table of photographs with a column `path` and one of classes.
- A feature folder (:mod:`mlis.data.io.feature_folder`), or a file of features with labels.
- A dataset folder with test rows only.

If rows are marked (`split`), those marked `test` are used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlis.data.dataset import TestSplit
from mlis.data.io.csv_file import LABEL, SPLIT, read_csv
from mlis.data.io.feature_folder import is_feature_folder, read_feature_folder
from mlis.data.io.folder import METADATA
from mlis.data.io.joined import joined_name, read_joined_rows
from mlis.data.io.text_table import find_column, read_table
from mlis.data.labels import match_labels, normal, shorten, suggestion
from mlis.data.out_of_core.stored import StoredRows, choose_rows
from mlis.errors import DataError
from mlis.features.images.embed import embed
from mlis.features.images.files import PATHS, Bad, ImageFile, check_no_boxes, find_images

if TYPE_CHECKING:
    from mlis.features.backbones.base import Backbone
    from mlis.model.recognizer import Recognizer

CLASS_COLUMNS = ("class", LABEL)
_TABLES = (".csv", ".tsv", ".parquet")
Marks = Sequence[Any] | np.ndarray | None


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Features and labels of N rows.

    Attributes:
        name: for messages.
        features: (N, Dx).
        labels: N class names, or indices of a model's classes.
        backbone: `BackboneSpec.to_dict` of the backbone, if known.
        bad: photographs without a row.
        files: photograph of each row; empty if they are not known.
    """

    name: str
    features: np.ndarray | StoredRows
    labels: Sequence[str] | np.ndarray
    backbone: Mapping[str, Any] = field(default_factory=dict[str, Any])
    bad: tuple[Bad, ...] = ()
    files: tuple[Path, ...] = ()

    def for_model(self, recognizer: "Recognizer") -> TestSplit:
        """The rows in the class numbering of a model, which also defines the seen classes.

        Raises:
            DataError: a label is not a class of the model, or the number of features differs.
        """
        if self.features.shape[1] != recognizer.num_features:
            raise DataError(
                f"{self.name}: expected {recognizer.num_features} features per row, as in "
                f"training, got {self.features.shape[1]}. Use features of the model's backbone."
            )
        return TestSplit(
            features=self.features,
            labels=self._numbers(recognizer.class_names),
            seen_mask=recognizer.seen_mask.numpy(force=True),
            class_names=recognizer.class_names,
        )

    def by_class(self, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Features (n, Dx) by class name, in the order of the rows.

        Numbers that are not names are indices of the classes `names`; other labels are class names,
        known or new.

        Raises:
            DataError: an index is out of range.
        """
        labels = [str(label) for label in self.labels]
        if all(text.isdecimal() for text in labels):
            numbers = match_labels(labels, names, f"{self.name}: labels")
            labels = [names[number] for number in numbers]
        labels = [normal(label) for label in labels]
        if "" in labels:
            raise DataError(
                f"{self.name}: row {labels.index('')}: expected a class name, got an empty label. "
                "Name the class, or leave the row out."
            )
        features, place = np.asarray(self.features), np.array(labels, dtype=object)
        return {name: features[place == name] for name in dict.fromkeys(labels)}

    def _numbers(self, names: tuple[str, ...]) -> np.ndarray:
        place = {normal(name): number for number, name in enumerate(names)}
        place |= {name: number for number, name in enumerate(names)}
        labels = self.labels
        if isinstance(labels, np.ndarray) and labels.dtype.kind not in "OUST":
            return match_labels(labels, names, f"{self.name}: labels")
        texts = [str(label) for label in labels]
        texts = [text if text in place else normal(text) for text in texts]
        unknown = sorted(set(texts) - place.keys())
        if len(unknown) == len(set(texts)) and all(text.isdecimal() for text in texts):
            return match_labels([int(text) for text in texts], names, f"{self.name}: labels")
        if unknown:
            count = sum(text in set(unknown) for text in texts)
            raise DataError(
                f"{self.name}: expected classes of the model, got {count} rows of other classes: "
                f"{shorten(unknown)}.{suggestion(unknown[0], names)} Correct the names, add the "
                "classes (mlis add-classes), or omit these rows."
            )
        return np.array([place[text] for text in texts], dtype=np.int64)


def is_photographs(path: Path) -> bool:
    """Whether `path` is a folder or table of photographs."""
    if path.is_dir():
        return not is_feature_folder(path) and not (path / METADATA).exists()
    if path.suffix.casefold() == ".csv":
        return bool(set(PATHS) & set(read_csv(path)[0]))
    return path.suffix.casefold() in _TABLES and bool(set(PATHS) & read_table(path).keys())


def find_labelled(path: Path, table: Path | None = None, column: str = "") -> list[ImageFile]:
    """The photographs of a folder or table, with their classes.

    Args:
        path: a folder, where the class of `a/b.jpg` is `a`; or a table.
        table: for a folder, the classes by relative path.
        column: of classes; default `class` or `label`.

    Raises:
        DataError: there are no photographs, or the table is invalid.
    """
    if path.is_dir() and table is None:
        return list(find_images(path).images)
    table, root = (table, path) if table is not None else (path, path.parent)
    columns = read_table(table)
    check_no_boxes(table, columns)
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
    return list(compress(images, chosen_rows(columns.get(SPLIT), table, len(images), testing=True)))


def embed_labelled(
    name: str,
    images: Sequence[ImageFile],
    backbone: "Backbone",
    *,
    workers: int | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> LabelledRows:
    """Features of labelled photographs; those that cannot be read or have no class are in `bad`.

    Raises:
        DataError: no photograph can be used.
    """
    bad = [Bad(one.path, "no class folder") for one in images if not one.class_name]
    images = [one for one in images if one.class_name]
    features: list[np.ndarray] = []
    used: list[ImageFile] = []
    numbered = iter(images)
    for batch in embed([one.source for one in images], backbone, workers=workers):
        for item in batch:
            image = next(numbered)
            if item.features is None:
                bad.append(Bad(image.path, item.reason))
            else:
                features.append(item.features)
                used.append(image)
        done(len(batch))
    if not features:
        first = f"; the first is {bad[0].path}: {bad[0].reason}" if bad else ""
        raise DataError(f"{name}: expected labelled photographs, got {len(bad)} unusable{first}.")
    return LabelledRows(
        *(name, np.stack(features), [one.class_name for one in used]),
        *(backbone.identity.to_dict(), tuple(bad), tuple(one.source for one in used)),
    )


def read_labelled(
    paths: Sequence[Path],
    labels: Path | None = None,
    column: str = "",
    *,
    testing: bool = True,
) -> LabelledRows:
    """Features and labels from a feature folder or a file, or from several, joined by columns.

    Args:
        paths: feature folders, `.npz`, `.csv`, `.parquet`, or `.npy` with `labels`.
        labels: file of the labels of a `.npy` file.
        column: of labels, in `.csv` and `.parquet`.
        testing: whether rows marked test are read, or those that are not.

    Raises:
        DataError: names the file, and the row or column.
    """
    path = paths[0]
    name = joined_name([str(path) for path in paths])
    if len(paths) == 1 and is_feature_folder(path) and labels is None:
        images = read_feature_folder(path)
        kept = chosen_rows(images.marks, path, len(images.paths), testing=testing)
        without = np.array([not name for name in images.classes], dtype=bool)
        bad = [Bad(images.paths[i], "no class") for i in np.flatnonzero(kept & without)]
        kept &= ~without
        if not kept.any():
            raise DataError(f"{path}: expected rows with a class, got none.")
        chosen = images.choose(kept.tolist())
        files = tuple(Path(images.root) / one for one in chosen.paths)
        return LabelledRows(
            name, chosen.features, chosen.classes, images.backbone, tuple(bad), files
        )
    rows = read_joined_rows(paths, labels, column or LABEL)
    kept = np.flatnonzero(chosen_rows(rows.marks, path, len(rows.features), testing=testing))
    found = rows.labels
    found = found if isinstance(found, np.ndarray) else np.array(found, dtype=object)
    if len(found) != len(rows.features):
        raise DataError(
            f"{labels or path}: expected {len(rows.features)} labels, one per row, got "
            f"{len(found)}."
        )
    return LabelledRows(name, choose_rows(rows.features, kept), found[kept])


def chosen_rows(marks: Marks, path: Path, count: int, *, testing: bool) -> np.ndarray:
    """(N,) bool: rows marked test, or those that are not; all if rows are not marked.

    Raises:
        DataError: there is none.
    """
    if marks is None:
        return np.ones(count, dtype=bool)
    kept = np.array([_is_test(mark) == testing for mark in marks], dtype=bool)
    if not kept.any():
        which, remedy = (
            ("marked", "Mark the rows to evaluate, or omit the column to evaluate all.")
            if testing
            else ("that are not marked", "Test rows are never trained on: give other rows.")
        )
        raise DataError(f"{path}: {SPLIT}: expected rows {which} test, got none. {remedy}")
    return kept


def _is_test(mark: Any) -> bool:
    return str(mark).strip().casefold().startswith("test")
