"""Class descriptors from sentences, attributes or both.

Both parts are L2-normalised, weighted by √(1−w) (sentences) and √w (attributes), and concatenated.
The cosine of two classes is then 1−w times that of their sentences plus w times that of their
attributes.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.cache import file_sha256
from mlis.data.io.classes_file import read_classes
from mlis.data.io.csv_file import DISPLAY, NAME, SPLIT
from mlis.data.labels import shorten
from mlis.data.missing import warn_of_minus_one
from mlis.errors import DataError, SettingsError
from mlis.features.descriptors.attributes import (
    BINARY,
    CATEGORY,
    NUMBER,
    PER_CENT,
    Column,
    class_values,
    fit_categories,
    fit_column,
)
from mlis.features.descriptors.class_descriptions import ClassDescriptions
from mlis.features.descriptors.text_model import TextModel, without_common
from mlis.storage.atomic import write_json
from mlis.storage.folders import read_versioned, replaced_together

FORMAT, VERSION = "mlis-descriptors", 1
TABLE, RECORD = "classes.csv", "descriptors.json"
WEIGHT = 0.5


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Vectors of C classes.

    Attributes:
        names: C.
        vectors: (C, Da) float32.
        split: C of seen or unseen, or None.
        record: how the vectors were computed, as JSON values, sufficient to describe new classes in
            the same way: `text`, `BackboneSpec.to_dict` of the text model; `sentences`, the columns
            of sentences; `texts`, the sentences of each class, if any; `attributes`,
            each a `Column`; `attribute_weight`; `missing`, cells read as missing; `text_mean`, if
            it was subtracted; `kind`, a short description; `notes`; `source`, name and SHA-256 of
            the table; `phrases`, if they were asked for, vectors of names: `attributes`, one of
            each column, and `classes`, by name.
        display: name → display name, where there is one.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    split: tuple[str, ...] | None
    record: Mapping[str, Any]
    display: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def kind(self) -> str:
        """Short description."""
        return self.record["kind"]

    @property
    def notes(self) -> tuple[str, ...]:
        """On omitted and filled-in values."""
        return tuple(self.record["notes"])


def describe(
    table: ClassDescriptions,
    model: TextModel | None,
    *,
    weight: float = WEIGHT,
    subtract_mean: bool = False,
    phrases: bool = False,
) -> Descriptors:
    """Descriptors of all classes of a table.

    Args:
        table: the classes.
        model: for sentences and phrases; may be None if there are none.
        weight: w of the attributes, if there are both.
        subtract_mean: subtract the mean of all classes' text vectors, which removes what all
            texts have in common.
        phrases: also embed the names of attributes and classes.

    Raises:
        SettingsError: the weight is not between 0 and 1, or the model is None.
        DataError: a class has no usable attribute.
    """
    if model is None and (table.has_sentences or phrases):
        raise SettingsError("model: expected a text model for sentences and phrases, got None")
    notes: list[str] = []
    parts: list[np.ndarray] = []
    columns: tuple[Column, ...] = ()
    mean = np.empty(0, dtype=np.float32)
    if model is not None and table.has_sentences:
        notes.append(f"read as sentences: {shorten(table.sentence_columns)}")
        vectors = _text(table, model, notes)
        if subtract_mean:
            mean = vectors.mean(axis=0)
            vectors = without_common(vectors, mean)
        parts.append(vectors)
    if table.attributes:
        numbers, columns = _attributes(table, notes, alone=not parts)
        parts.append(numbers)
    both = len(parts) == 2
    if both:
        _check_weight(weight)
    share = weight if both else float(bool(columns))
    vectors = concatenate(*parts, weight=share) if both else parts[0]
    text = model.identity.to_dict() if model is not None and table.has_sentences else None
    told = table.sentence_columns != (NAME,)  # names alone are known already
    texts = {n: list(t) for n, t in zip(table.names, table.sentences, strict=True) if t and told}
    record = {
        "format": FORMAT,
        "version": VERSION,
        "kind": _kind(text, len(columns), share, without_mean=subtract_mean),
        "size": vectors.shape[1],
        "text": text,
        "sentences": list(table.sentence_columns),
        **({"texts": texts} if texts else {}),
        "missing": list(table.missing),
        "attributes": [asdict(column) for column in columns],
        "attribute_weight": share,
        "notes": notes,
        "source": {"name": table.path.name, "sha256": file_sha256(table.path)},
        **({"text_mean": mean.tolist()} if mean.size else {}),
        **({"phrases": _phrases(columns, table.names, model)} if model and phrases else {}),
    }
    return Descriptors(table.names, vectors.astype(np.float32), table.split, record, table.display)


def reweighed(descriptors: Descriptors, weight: float) -> Descriptors:
    """The same descriptors with another weight w of the attributes.

    Raises:
        SettingsError: they are not of sentences and attributes, or the weight is not between 0
            and 1.
    """
    record, attributes = descriptors.record, len(descriptors.record["attributes"])
    if record["text"] is None or not attributes:
        raise SettingsError(
            "weight of attributes: expected descriptors of sentences and attributes, got "
            f"{descriptors.kind}. Describe the classes by both."
        )
    _check_weight(weight)
    text, numbers = np.split(descriptors.vectors, [-attributes], axis=1)
    vectors = concatenate(_unit(text), numbers, weight=weight).astype(np.float32)
    kind = _kind(record["text"], attributes, weight, without_mean="text_mean" in record)
    record = {**record, "kind": kind, "attribute_weight": weight}
    return replace(descriptors, vectors=vectors, record=record)


def _check_weight(weight: float) -> None:
    if not 0 < weight < 1:
        raise SettingsError(
            f"weight of attributes: expected a number between 0 and 1, got {weight}"
        )


def _kind(
    text: Mapping[str, Any] | None, attributes: int, weight: float, *, without_mean: bool
) -> str:
    parts = [f"{attributes} attributes"] if attributes else []
    if text is not None:
        mean = " without their mean" if without_mean else ""
        parts.insert(0, f"sentences by {text['name']}{mean}")
    return " and ".join(parts) + (f", weight {weight:g}" if len(parts) == 2 else "")


def _phrases(columns: Sequence[Column], names: Sequence[str], model: TextModel) -> dict[str, Any]:
    """Vectors of the names of attributes and classes, rounded to what JSON is to hold."""
    labels = [column.label.replace("=", " ") for column in columns]
    vectors = model.encode([*labels, *names]).astype(float).round(5).tolist()
    classes = dict(zip(names, vectors[len(labels) :], strict=True))
    return {
        "text": model.identity.to_dict(),
        "attributes": vectors[: len(labels)],
        "classes": classes,
    }


def _text(table: ClassDescriptions, model: TextModel, notes: list[str]) -> np.ndarray:
    flat = [text for texts in table.sentences for text in texts]
    cut = model.cut(flat)
    if cut:
        notes.append(
            f"{len(cut)} of {len(flat)} sentences are longer than {model.longest} tokens and were "
            f"truncated, such as {flat[cut[0]][:60]!r}"
        )
    return model.describe(table.sentences)


def _attributes(
    table: ClassDescriptions, notes: list[str], *, alone: bool
) -> tuple[np.ndarray, tuple[Column, ...]]:
    """(C, A) from 0 to 1, and the scaling of each column."""
    columns, values, constant = _fitted(table)
    if constant:
        notes.append(f"omitted, as equal for all classes: {shorten(constant)}")
    if not columns:
        raise DataError(f"{table.path}: expected attributes that distinguish classes, got none.")
    missing = np.isnan(np.stack(values, axis=1))
    silent = [name for name, gaps in zip(table.names, missing, strict=True) if gaps.all()]
    if silent and alone:
        raise DataError(
            f"{table.path}: expected attributes for each class, got none for {len(silent)}: "
            f"{shorten(silent)}. Fill them in, or remove these classes."
        )
    if missing.any():
        notes.append(
            f"{int(missing.sum())} of {missing.size} attribute values are missing and were "
            f"replaced by the mean of their column, in {int(missing.any(axis=0).sum())} columns"
        )
    numbers = [column.scale(said) for column, said in zip(columns, values, strict=True)]
    result = np.stack(numbers, axis=1)
    notes.extend(_column_notes(columns))
    warn_of_minus_one(np.stack(values, axis=1), f"{table.path}", table.names)
    zero = [name for name, row in zip(table.names, result, strict=True) if not row.any()]
    if zero and alone:
        raise DataError(
            f"{table.path}: expected an attribute above its minimum for each class, got none for "
            f"{len(zero)}: {shorten(zero)}. Add attributes that these classes have."
        )
    return result, tuple(columns)


def _fitted(table: ClassDescriptions) -> tuple[list[Column], list[np.ndarray], list[str]]:
    """Scaling of the attributes, their (C,) values, and the names of constant columns."""
    columns, values, constant = [], [], []
    for name, cells in table.attributes.items():
        what = f"{table.path}: column {name!r}"
        if name in table.categories:
            fitted, said = fit_categories(what, name, cells, table.owners, table.names)
        else:
            said = [class_values(what, cells, table.owners, len(table.names))]
            column = fit_column(name, cells, said[0])
            fitted = [] if column is None else [column]
        if not fitted:
            constant.append(name)
            continue
        columns.extend(fitted)
        values.extend(said)
    return columns, values, constant


def _column_notes(columns: Sequence[Column]) -> list[str]:
    """A note per kind of column."""
    named: dict[str, dict[str, list[str]]] = {}
    for column in columns:
        named.setdefault(column.kind, {}).setdefault(column.name, []).append(column.value)
    said = {kind: list(names) for kind, names in named.items()}
    categories = named.get(CATEGORY, {})
    said[CATEGORY] = [f"{name} ({shorten(values)})" for name, values in categories.items()]
    return [
        f"read as {title}: {shorten(said[kind])}"
        for kind, title in (
            (NUMBER, "numbers"),
            (PER_CENT, "percentages"),
            (BINARY, "yes or no"),
            (CATEGORY, "categories"),
        )
        if said.get(kind)
    ]


def concatenate(text: np.ndarray, attributes: np.ndarray, *, weight: float) -> np.ndarray:
    """(C, Dt + A) unit vectors from (C, Dt) sentences and (C, A) attributes from 0 to 1."""
    vectors = np.hstack([(1 - weight) ** 0.5 * text, weight**0.5 * _unit(attributes)])
    return _unit(vectors)  # has an effect if all attributes of a class are 0


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def write_descriptors(descriptors: Descriptors, folder: Path) -> None:
    """Write `classes.csv`, an input for --classes, and `descriptors.json`.

    Numbers are written with enough digits to restore float32 exactly.
    """
    columns = [Column.from_dict(one) for one in descriptors.record["attributes"]]
    text = descriptors.vectors.shape[1] - len(columns)
    header = [f"t{i:04d}" for i in range(text)] + [f"a:{c.label}" for c in columns]
    with replaced_together(folder) as new:
        with (new / TABLE).open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            columns = [SPLIT] if descriptors.split else []
            columns += [DISPLAY] if descriptors.display else []
            writer.writerow([NAME, *columns, *header])
            for i, name in enumerate(descriptors.names):
                cells = [descriptors.split[i]] if descriptors.split else []
                cells += [descriptors.display.get(name, "")] if descriptors.display else []
                writer.writerow([name, *cells, *(f"{v:.9g}" for v in descriptors.vectors[i])])
        write_json(new / RECORD, descriptors.record)


def read_descriptors(folder: Path) -> Descriptors:
    """Read a folder written by `write_descriptors`. Raises `DataError`."""
    path, again = folder / RECORD, "Compute the descriptors again."
    record = read_versioned(path, FORMAT, VERSION, again)
    kinds = {"kind": str, "notes": list, "source": dict, "attributes": list}
    if wrong := [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]:
        raise DataError(f"{path}: damaged: {', '.join(wrong)} missing. {again}")
    table, split = read_classes(folder / TABLE), None
    if table.unseen is not None:
        split = tuple("unseen" if i in table.unseen else "seen" for i in range(len(table.names)))
    return Descriptors(table.names, table.descriptors, split, record, table.display)
