"""Descriptors of classes that come later, made exactly as those of the training were.

The text model must be the same one, each attribute is read with the statistics of the training's
classes (:class:`~mlis.features.descriptors.attributes.Column`), and both are weighted alike.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.labels import shorten
from mlis.errors import DataError
from mlis.features.backbones.base import Identity
from mlis.features.descriptors.attributes import BINARY, Column, class_values
from mlis.features.descriptors.class_table import NAME, SPLIT, Words, read_words
from mlis.features.descriptors.describe import FORMAT, VERSION, side_by_side
from mlis.features.descriptors.text_model import TextModel
from mlis.features.descriptors.text_tables import normal, read_table

Descriptions = Mapping[str, str | Sequence[str]]
"""Name of a class → its sentence or sentences."""


def describe_like(
    record: Mapping[str, Any],
    classes: str | Path | Descriptions,
    *,
    model: TextModel | None = None,
    name_column: str = NAME,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names (n) and descriptors (n, Da) float32 of further classes.

    Args:
        record: how the training's were made, `descriptors` of a dataset's sources.
        classes: a table with the columns that the training's had (a column of attributes may be
            absent: all is missing in it), or a mapping from names to sentences.
        model: the text model, where it is loaded already.
        name_column: column of the class names.

    Raises:
        DataError: the record is of another version, or what is wrong with the table: the column,
            the row and the class.
        SettingsError: the text model cannot be had.
    """
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise DataError("the model does not know how its descriptors were made from words")
    columns = tuple(Column.from_dict(values) for values in record["attributes"])
    if isinstance(classes, Mapping):
        words = _spoken(classes)
    else:
        words = _words(Path(classes), record, columns, name_column)
    parts: list[np.ndarray] = []
    if record["text"] is not None:
        if not words.has_sentences:
            raise DataError(f"{words.path}: no sentences, but the model was trained with them.")
        parts.append(_text_model(record["text"], model).describe(words.sentences))
    if columns:
        parts.append(_attributes(words, columns, alone=not parts))
    weight = float(record["attribute_weight"])
    vectors = side_by_side(*parts, weight=weight) if len(parts) == 2 else parts[0]
    return words.names, vectors.astype(np.float32)


def _spoken(descriptions: Descriptions) -> Words:
    """Words of a mapping from names to sentences."""
    names = tuple(normal(name) for name in descriptions)
    texts = [(text,) if isinstance(text, str) else tuple(text) for text in descriptions.values()]
    for name, sentences in zip(names, texts, strict=True):
        if not sentences or not all(isinstance(text, str) and text.strip() for text in sentences):
            raise DataError(f"descriptions: {name!r} has no sentence: describe it.")
    return Words(Path("descriptions"), names, None, tuple(texts), tuple(range(len(names))), {})


def _words(
    path: Path, record: Mapping[str, Any], columns: Sequence[Column], name_column: str
) -> Words:
    """The table's words, by the columns that the training's table had."""
    there = read_table(path)
    attributes = [column.name for column in columns if column.name in there]
    if columns and not attributes and record["text"] is None:
        raise DataError(
            f"{path}: none of the attributes that the model was trained with: it has "
            f"{shorten(list(there))}, but expected {shorten([column.name for column in columns])}."
        )
    sentences: list[str] = []
    if record["text"] is not None:
        said_in = record.get("sentences", ())  # older records do not say
        known = {name_column, SPLIT, *(column.name for column in columns)}
        sentences = [name for name in (said_in or there) if name in there]
        sentences = sentences if said_in else [name for name in sentences if name not in known]
        if not sentences:
            raise DataError(
                f"{path}: no column of sentences: it has {shorten(list(there))}, but the model was "
                f"trained with {shorten(list(said_in)) if said_in else 'sentences'}."
            )
    words = read_words(path, sentences=sentences, attributes=attributes, name_column=name_column)
    for name, part in zip(words.names, words.split or (), strict=False):
        if part == "seen":
            raise DataError(
                f"{path}: class {name!r} is seen, but a class that is added has no training "
                "images: say unseen, or leave the column out."
            )
    return words


def _text_model(identity: Mapping[str, Any], model: TextModel | None) -> TextModel:
    """The text model of the training. Raises `DataError` where another one is there."""
    expected = Identity.from_dict(identity)
    model = model or TextModel(expected.name)
    if model.identity.fingerprint != expected.fingerprint:
        raise DataError(
            f"the model was trained with sentences by {expected}, but {model.identity} is there: "
            "its vectors mean something else. Install the version that the training used."
        )
    return model


def _attributes(words: Words, columns: Sequence[Column], *, alone: bool) -> np.ndarray:
    """(n, A) scaled as in training; where nothing is said, the training's mean."""
    values = np.full((len(words.names), len(columns)), np.nan)
    for i, column in enumerate(columns):
        if (cells := words.attributes.get(column.name)) is None:
            continue
        what = f"{words.path}: column {column.name!r}"
        values[:, i] = class_values(what, cells, words.owners, len(words.names))
        outside = (values[:, i] < column.low) | (values[:, i] > column.high)
        if column.kind == BINARY and outside.any():
            raise DataError(
                f"{what}: class {words.names[int(outside.argmax())]!r} has "
                f"{values[int(outside.argmax()), i]:g}, but the training had yes or no: 1 or 0."
            )
    silent = np.isnan(values).all(axis=1)
    if alone and silent.any():
        name = words.names[int(silent.argmax())]
        raise DataError(f"{words.path}: no attribute is given for class {name!r}: fill some in.")
    scaled = [column.numbers(values[:, i]) for i, column in enumerate(columns)]
    return np.stack(scaled, axis=1)
