"""Descriptors of classes that come later, made exactly as those of the training were.

The text model must be the same one, each attribute is read with the statistics of the training's
classes (:class:`~mlis.features.descriptors.attributes.Column`), and both are weighted alike.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.labels import normal, shorten
from mlis.errors import DataError
from mlis.features.backbones.base import Identity
from mlis.features.descriptors.attributes import (
    BINARY,
    CATEGORY,
    Column,
    category_shares,
    class_values,
)
from mlis.features.descriptors.class_table import NAME, SPLIT, Words, read_words
from mlis.features.descriptors.describe import FORMAT, VERSION, side_by_side
from mlis.features.descriptors.text_model import TextModel
from mlis.features.descriptors.text_tables import read_table

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
        model: the text model. Where absent, the recorded one, from this machine alone.
        name_column: column of the class names.

    Raises:
        DataError: the record is of another version, or what is wrong with the table: the column,
            the row and the class.
        SettingsError: the text model cannot be had.
    """
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise DataError("the model does not know how its descriptors were made from words")
    try:
        columns = tuple(Column.from_dict(values) for values in record["attributes"])
        weight, text = float(record["attribute_weight"]), record["text"]
        expected = None if text is None else Identity.from_dict(text)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the model's record of its descriptors is damaged: {error!r}") from None
    if isinstance(classes, Mapping):
        words = _spoken(classes)
    else:
        words = _words(Path(classes), record, columns, name_column)
    parts: list[np.ndarray] = []
    if expected is not None:
        if not words.has_sentences:
            raise DataError(f"{words.path}: no sentences, but the model was trained with them.")
        parts.append(_text_model(expected, model).describe(words.sentences))
    if columns:
        parts.append(_attributes(words, columns, alone=not parts))
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
    attributes = list(dict.fromkeys(c.name for c in columns if c.name in there))
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
    words = read_words(
        path,
        sentences=sentences,
        attributes=attributes,
        name_column=name_column,
        missing=record.get("missing", ()),
    )
    for name, part in zip(words.names, words.split or (), strict=False):
        if part == "seen":
            raise DataError(
                f"{path}: class {name!r} is seen, but a class that is added has no training "
                "images: say unseen, or leave the column out."
            )
    return words


def _text_model(expected: Identity, model: TextModel | None) -> TextModel:
    """The text model of the training. Raises `DataError` where another one is there."""
    model = model or TextModel(expected.name, download=False)
    if model.identity.fingerprint != expected.fingerprint:
        raise DataError(
            f"the model was trained with sentences by {expected}, but {model.identity} is there: "
            "its vectors mean something else. Install the version that the training used."
        )
    return model


def _attributes(words: Words, columns: Sequence[Column], *, alone: bool) -> np.ndarray:
    """(n, A) scaled as in training; where nothing is said, the training's mean."""
    values = np.full((len(words.names), len(columns)), np.nan)
    for name in dict.fromkeys(column.name for column in columns):
        if (cells := words.attributes.get(name)) is None:
            continue
        what = f"{words.path}: column {name!r}"
        places = [i for i, column in enumerate(columns) if column.name == name]
        if columns[places[0]].kind == CATEGORY:
            known = [columns[i].value for i in places]
            values[:, places] = category_shares(what, cells, words.owners, words.names, known)
            continue
        values[:, places[0]] = class_values(what, cells, words.owners, len(words.names))
        _check_binary(what, columns[places[0]], values[:, places[0]], words.names)
    silent = np.isnan(values).all(axis=1)
    if alone and silent.any():
        name = words.names[int(silent.argmax())]
        raise DataError(f"{words.path}: no attribute is given for class {name!r}: fill some in.")
    scaled = [column.numbers(values[:, i]) for i, column in enumerate(columns)]
    return np.stack(scaled, axis=1)


def _check_binary(what: str, column: Column, values: np.ndarray, names: Sequence[str]) -> None:
    outside = (values < column.low) | (values > column.high)
    if column.kind == BINARY and outside.any():
        at = int(outside.argmax())
        raise DataError(
            f"{what}: class {names[at]!r} has {values[at]:g}, but the training had yes or no: 1 "
            "or 0."
        )
