"""Descriptors of classes added after training, computed like those of the training classes.

The text model must be the same, attributes are scaled with the statistics of the training classes
(:class:`~mlis.features.descriptors.attributes.Column`), and both have the same weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.csv_file import DISPLAY, NAME, SPLIT
from mlis.data.io.text_table import read_table
from mlis.data.labels import normal, shorten
from mlis.errors import DataError
from mlis.features.backbones.base import BackboneSpec
from mlis.features.descriptors.attributes import (
    BINARY,
    CATEGORY,
    Column,
    category_shares,
    class_values,
)
from mlis.features.descriptors.class_descriptions import ClassDescriptions, read_descriptions
from mlis.features.descriptors.describe import FORMAT, VERSION, concatenate
from mlis.features.descriptors.text_model import TextModel, without_common

Descriptions = Mapping[str, str | Sequence[str]]
"""Name of a class → its sentence or sentences."""


def describe_like(
    record: Mapping[str, Any],
    classes: str | Path | Descriptions,
    *,
    model: TextModel | None = None,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names (n) and descriptors (n, Da) float32 of new classes.

    Args, raises: as :func:`descriptions_like`.
    """
    described, vectors = descriptions_like(record, classes, model=model)
    return described.names, vectors


def descriptions_like(
    record: Mapping[str, Any],
    classes: str | Path | Descriptions,
    *,
    model: TextModel | None = None,
) -> tuple[ClassDescriptions, np.ndarray]:
    """New classes as they are described, and their descriptors (n, Da) float32.

    Args:
        record: how the training descriptors were computed: `descriptors` of a dataset's sources.
        classes: a table with the columns of the training table (absent columns of attributes are
            missing values), or a mapping from names to sentences.
        model: the text model; default: the recorded one, which is not downloaded.

    Raises:
        DataError: the record is of another version, or the table is invalid; names column, row
            and class.
        SettingsError: the text model is not available.
    """
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise DataError(
            "cannot describe new classes: the model has no record of how its descriptors were "
            "computed"
        )
    try:
        columns = tuple(Column.from_dict(values) for values in record["attributes"])
        weight, text = float(record["attribute_weight"]), record["text"]
        expected = None if text is None else BackboneSpec.from_dict(text)
        mean = np.array(record.get("text_mean", ()), dtype=np.float32)
        if len(mean) and (expected is None or mean.shape != (expected.size,)):
            raise ValueError(f"text_mean: {mean.shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the record of the model's descriptors is damaged: {error!r}") from None
    if isinstance(classes, Mapping):
        described = _from_sentences(classes)
    else:
        described = _from_table(Path(classes), record, columns)
    parts: list[np.ndarray] = []
    if expected is not None:
        if not described.has_sentences:
            raise DataError(f"{described.path}: expected sentences, as in training, got none.")
        vectors = trained_text_model(expected, model).describe(described.sentences)
        parts.append(without_common(vectors, mean) if len(mean) else vectors)
    if columns:
        parts.append(_attributes(described, columns, alone=not parts))
    vectors = concatenate(*parts, weight=weight) if len(parts) == 2 else parts[0]
    return described, vectors.astype(np.float32)


def _from_sentences(descriptions: Descriptions) -> ClassDescriptions:
    names = tuple(normal(name) for name in descriptions)
    texts = [(text,) if isinstance(text, str) else tuple(text) for text in descriptions.values()]
    for name, sentences in zip(names, texts, strict=True):
        if not sentences or not all(isinstance(text, str) and text.strip() for text in sentences):
            raise DataError(
                f"descriptions: class {name!r}: expected sentences, got {list(sentences)}."
            )
    return ClassDescriptions(
        Path("descriptions"), names, None, tuple(texts), tuple(range(len(names))), {}
    )


def _from_table(
    path: Path, record: Mapping[str, Any], columns: Sequence[Column]
) -> ClassDescriptions:
    """Descriptions in the columns of the training table."""
    there = read_table(path)
    attributes = list(dict.fromkeys(c.name for c in columns if c.name in there))
    if columns and not attributes and record["text"] is None:
        raise DataError(
            f"{path}: expected attributes from training, {shorten([c.name for c in columns])}, got "
            f"{shorten(list(there))}."
        )
    sentences: list[str] = []
    if record["text"] is not None:
        trained = record.get("sentences", ())  # missing in records of earlier versions
        known = {NAME, SPLIT, DISPLAY, *(column.name for column in columns)}
        sentences = [name for name in (trained or there) if name in there]
        sentences = sentences if trained else [name for name in sentences if name not in known]
        if not sentences:
            raise DataError(
                f"{path}: expected sentences, as in training"
                f"{f' ({shorten(list(trained))})' if trained else ''}, got the columns "
                f"{shorten(list(there))}."
            )
    described = read_descriptions(
        path,
        sentences=sentences,
        attributes=attributes,
        missing=record.get("missing", ()),
    )
    for name, part in zip(described.names, described.split or (), strict=False):
        if part == "seen":
            raise DataError(
                f"{path}: class {name!r}: expected unseen, as added classes have no training "
                "images, got seen. Correct the column, or omit it."
            )
    return described


def trained_text_model(
    expected: BackboneSpec, model: TextModel | None = None, *, device: str = "auto"
) -> TextModel:
    """The text model of training, which is not downloaded.

    Raises:
        DataError: another version is installed, or `model` is another one.
        SettingsError: it is not available.
    """
    model = model or TextModel(expected.name, device=device, download=False)
    if model.identity.fingerprint != expected.fingerprint:
        raise DataError(
            f"text model: expected {expected}, as in training, got {model.identity}, whose vectors "
            "differ. Install the version used in training."
        )
    return model


def _attributes(
    described: ClassDescriptions, columns: Sequence[Column], *, alone: bool
) -> np.ndarray:
    """(n, A) scaled as in training; missing values are the mean of training."""
    values = np.full((len(described.names), len(columns)), np.nan)
    for name in dict.fromkeys(column.name for column in columns):
        if (cells := described.attributes.get(name)) is None:
            continue
        what = f"{described.path}: column {name!r}"
        places = [i for i, column in enumerate(columns) if column.name == name]
        if columns[places[0]].kind == CATEGORY:
            known = [columns[i].value for i in places]
            values[:, places] = category_shares(
                what, cells, described.owners, described.names, known
            )
            continue
        values[:, places[0]] = class_values(what, cells, described.owners, len(described.names))
        _check_binary(what, columns[places[0]], values[:, places[0]], described.names)
    silent = np.isnan(values).all(axis=1)
    if alone and silent.any():
        name = described.names[int(silent.argmax())]
        raise DataError(f"{described.path}: class {name!r}: expected attributes, got none.")
    scaled = [column.scale(values[:, i]) for i, column in enumerate(columns)]
    return np.stack(scaled, axis=1)


def _check_binary(what: str, column: Column, values: np.ndarray, names: Sequence[str]) -> None:
    outside = (values < column.low) | (values > column.high)
    if column.kind == BINARY and outside.any():
        at = int(outside.argmax())
        raise DataError(
            f"{what}: class {names[at]!r}: expected yes or no (1 or 0), as in training, got "
            f"{values[at]:g}."
        )
