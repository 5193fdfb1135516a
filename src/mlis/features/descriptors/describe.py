"""One vector a class, from its sentences, its attributes or both.

Both together: each part is brought to length one, the sentences are weighted by √(1−w) and the
attributes by √w. The vector has length one, and the cosine of two classes is 1−w times that of
their sentences plus w times that of their attributes: w is the share that attributes decide.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.cache import file_sha256
from mlis.data.io.tables import read_classes
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
    describe_column,
    fit_categories,
    fit_column,
)
from mlis.features.descriptors.class_table import SPLIT, Words
from mlis.features.descriptors.text_model import TextModel
from mlis.storage.atomic import strict_json, write_json
from mlis.storage.folders import recover, replaced_together

FORMAT, VERSION = "mlis-descriptors", 1
TABLE, RECORD = "classes.csv", "descriptors.json"
WEIGHT = 0.5


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Vectors of C classes, and all that is needed to describe another class in the same way.

    Attributes:
        names: C.
        vectors: (C, Da) float32.
        split: C of seen or unseen, or None.
        text: the text model as `Identity.to_dict` says, or None.
        columns: how attributes are read; empty without.
        weight: share of the attributes, 0 to 1.
        notes: what was left out or filled in, for people.
        source: name and SHA-256 of the table.
        said_in: the table's columns of sentences.
        missing: what was read as a missing attribute, besides empty cells.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    split: tuple[str, ...] | None
    text: Mapping[str, Any] | None
    columns: tuple[Column, ...]
    weight: float
    notes: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    said_in: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """In words."""
        text = "" if self.text is None else f"sentences by {self.text['name']}"
        if not self.columns:
            return text
        attributes = f"{len(self.columns)} attributes"
        return f"{text} and {attributes}, weight {self.weight:g}" if text else attributes


def describe(words: Words, model: TextModel | None, *, weight: float = WEIGHT) -> Descriptors:
    """Vectors of all classes of a table.

    Args:
        words: the classes.
        model: for their sentences; may be None where there are none.
        weight: share of the cosine that attributes decide, where there are sentences too.

    Raises:
        SettingsError: the weight is not between 0 and 1, or the model is missing.
        DataError: a class has no attribute that says anything.
    """
    notes: list[str] = []
    parts: list[np.ndarray] = []
    columns: tuple[Column, ...] = ()
    if words.has_sentences:
        if model is None:
            raise SettingsError("sentences need a text model")
        notes.append(f"read as sentences: {shorten(words.said_in)}")
        parts.append(_text(words, model, notes))
    if words.attributes:
        numbers, columns = _attributes(words, notes, alone=not parts)
        parts.append(numbers)
    both = len(parts) == 2
    if both and not 0 < weight < 1:
        raise SettingsError(f"the weight of attributes must be between 0 and 1, but got {weight}")
    share = weight if both else float(bool(columns))
    vectors = side_by_side(*parts, weight=share) if both else parts[0]
    return Descriptors(
        words.names,
        vectors.astype(np.float32),
        words.split,
        model.identity.to_dict() if model is not None and words.has_sentences else None,
        columns,
        share,
        tuple(notes),
        {"name": words.path.name, "sha256": file_sha256(words.path)},
        words.said_in,
        words.missing,
    )


def _text(words: Words, model: TextModel, notes: list[str]) -> np.ndarray:
    flat = [text for texts in words.sentences for text in texts]
    cut = model.cut(flat)
    if cut:
        notes.append(
            f"{len(cut)} of {len(flat)} sentences are longer than {model.longest} tokens and were "
            f"cut off, such as {flat[cut[0]][:60]!r}"
        )
    return model.describe(words.sentences)


def _attributes(
    words: Words, notes: list[str], *, alone: bool
) -> tuple[np.ndarray, tuple[Column, ...]]:
    """(C, A) from 0 to 1, and how they were read."""
    columns, values, dull = _fitted(words)
    if dull:
        notes.append(f"left out, as all classes have the same value: {shorten(dull)}")
    if not columns:
        raise DataError(f"{words.path}: no attribute tells one class from another.")
    missing = np.isnan(np.stack(values, axis=1))
    silent = [name for name, gaps in zip(words.names, missing, strict=True) if gaps.all()]
    if silent and alone:
        raise DataError(
            f"{words.path}: no attribute is given for {len(silent)} classes: {shorten(silent)}. "
            "Fill some in, or take them out."
        )
    if missing.any():
        notes.append(
            f"{int(missing.sum())} of {missing.size} attribute values are missing and became the "
            f"mean of their column, in {int(missing.any(axis=0).sum())} columns"
        )
    numbers = [column.numbers(said) for column, said in zip(columns, values, strict=True)]
    result = np.stack(numbers, axis=1)
    notes.extend(_columns_told(columns))
    warn_of_minus_one(np.stack(values, axis=1), f"{words.path}", words.names)
    zero = [name for name, row in zip(words.names, result, strict=True) if not row.any()]
    if zero and alone:
        raise DataError(
            f"{words.path}: all attributes of {len(zero)} classes are at their lowest: "
            f"{shorten(zero)}. A class must have something; add attributes that it has."
        )
    return result, tuple(columns)


def _fitted(words: Words) -> tuple[list[Column], list[np.ndarray], list[str]]:
    """How attributes are read, their (C,) values, and columns that say nothing."""
    columns, values, dull = [], [], []
    for name, cells in words.attributes.items():
        what = f"{words.path}: column {name!r}"
        if name in words.categories:
            fitted, said = fit_categories(what, name, cells, words.owners, words.names)
        else:
            said = [class_values(what, cells, words.owners, len(words.names))]
            column = fit_column(name, cells, said[0])
            fitted = [] if column is None else [column]
        if not fitted:
            dull.append(name)
            continue
        columns.extend(fitted)
        values.extend(said)
    return columns, values, dull


def _columns_told(columns: Sequence[Column]) -> list[str]:
    """Which column was read as what, a line for each kind."""
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
            (PER_CENT, "per cent"),
            (BINARY, "yes or no"),
            (CATEGORY, "categories"),
        )
        if said.get(kind)
    ]


def side_by_side(text: np.ndarray, attributes: np.ndarray, *, weight: float) -> np.ndarray:
    """(C, Dt + A) of length one, of (C, Dt) sentences and (C, A) attributes from 0 to 1."""
    vectors = np.hstack([(1 - weight) ** 0.5 * text, weight**0.5 * _unit(attributes)])
    return _unit(vectors)  # of a class that has none of the attributes, too


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def write_descriptors(descriptors: Descriptors, folder: Path) -> None:
    """Write `classes.csv`, which every command takes as --classes, and `descriptors.json`.

    The numbers are written so that reading them gives the same float32.
    """
    width = descriptors.vectors.shape[1]
    text = width - len(descriptors.columns)
    header = [f"t{i:04d}" for i in range(text)] + [f"a:{c.label}" for c in descriptors.columns]
    with replaced_together(folder) as new:
        with (new / TABLE).open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["name", *([SPLIT] if descriptors.split else []), *header])
            for i, name in enumerate(descriptors.names):
                split = [descriptors.split[i]] if descriptors.split else []
                writer.writerow([name, *split, *(f"{v:.9g}" for v in descriptors.vectors[i])])
        write_json(new / RECORD, record_of(descriptors))


def record_of(descriptors: Descriptors) -> dict[str, Any]:
    """How the vectors were made, for JSON."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": descriptors.kind,
        "size": descriptors.vectors.shape[1],
        "text": None if descriptors.text is None else dict(descriptors.text),
        "sentences": list(descriptors.said_in),
        "missing": list(descriptors.missing),
        "attributes": [describe_column(column) for column in descriptors.columns],
        "attribute_weight": descriptors.weight,
        "notes": list(descriptors.notes),
        "source": dict(descriptors.source),
    }


def read_descriptors(folder: Path) -> Descriptors:
    """Read a folder that `write_descriptors` wrote. Raises `DataError`."""
    path = folder / RECORD
    try:
        recover(folder)
        record = strict_json(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["version"] != VERSION:
            raise DataError(f"{path}: not descriptors that this mlis reads: make them again.")
        columns = tuple(Column.from_dict(values) for values in record["attributes"])
        words = (record["text"], columns, float(record["attribute_weight"]))
        notes, source = tuple(record["notes"]), dict(record["source"])
        said_in = (tuple(record.get("sentences", ())), tuple(record.get("missing", ())))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: not a folder of descriptors.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error!r}. Make them again.") from error
    table = read_classes(folder / TABLE)
    unseen = set(() if table.unseen is None else table.unseen.tolist())
    split = tuple("unseen" if i in unseen else "seen" for i in range(len(table.names)))
    return Descriptors(
        table.names,
        table.descriptors,
        None if table.unseen is None else split,
        *words,
        notes,
        source,
        *said_in,
    )
