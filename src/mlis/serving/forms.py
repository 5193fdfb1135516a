"""The form for a new class: which fields, by what the model's classes are described by."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlis.errors import DataError
from mlis.serving.schemas import MAX_SENTENCES, NAME_LENGTH, SENTENCE_LENGTH
from mlis.serving.words import Describer, Words

PREFILLED = 40
"""Attributes up to which the form lists all of them."""


@dataclass(frozen=True)
class Field:
    """One text field: its kind, what it says, and what stands in it at first."""

    kind: str
    label: str
    help: str
    example: str = ""
    start: str = ""
    lines: int = 3


@dataclass(frozen=True)
class Form:
    """What a visitor fills in besides the name."""

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, describer: Describer | None) -> "Form | None":
        """The form of a model, or None where it takes no classes."""
        if describer is None:
            return None
        fields: list[Field] = []
        if "sentences" in describer.takes:
            help, example = "What it looks like, one sentence a line.", "a striped animal"
            fields.append(Field("sentences", "Description", help, example))
        if "attributes" in describer.takes:
            names, short = describer.attributes, len(describer.attributes) <= PREFILLED
            start = "\n".join(f"{name}: " for name in names) if short else ""
            help = "A number, yes or no for each, as in the table of classes; nothing: unknown."
            example = "\n".join(f"{name}: …" for name in names[:3])
            fields.append(Field("attributes", "Attributes", help, example, start, 4))
        if not fields:
            help = f"{describer.size} numbers, with spaces or commas between them."
            fields.append(Field("vector", "Descriptor", help, "0.1 0.7 …"))
        return cls(tuple(fields))

    def read(self, name: Any, values: Sequence[Any]) -> tuple[str, Words]:
        """Name and words of a filled form. Raises `DataError`, which says what is missing."""
        name = " ".join(str(name or "").split())
        if not name or len(name) > NAME_LENGTH or not name.isprintable():
            raise DataError(f"Give it a name of 1 to {NAME_LENGTH} letters.")
        said = {f.kind: str(v or "") for f, v in zip(self.fields, values, strict=True)}
        words = Words(
            _sentences(said.get("sentences", "")),
            _attributes(said.get("attributes", "")),
            _vector(said.get("vector", "")),
        )
        if not (words.sentences or words.attributes or words.vector):
            what = " or ".join(field.label.lower() for field in self.fields)
            raise DataError(f"Describe it: {what} is empty.")
        return name, words


def _sentences(text: str) -> tuple[str, ...]:
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(lines) > MAX_SENTENCES or any(len(line) > SENTENCE_LENGTH for line in lines):
        raise DataError(
            f"At most {MAX_SENTENCES} sentences of {SENTENCE_LENGTH:,} letters are read."
        )
    return lines


def _attributes(text: str) -> dict[str, str]:
    """`name: value` a line; what has no value is left out."""
    found: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        name, colon, value = line.rpartition(":")
        if not colon or not name.strip():
            raise DataError(f"Attributes: expected `name: value` in each line, but got {line!r}.")
        if value.strip():
            found[name.strip()] = value.strip()
    return found


def _vector(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in re.split(r"[\s,;]+", text.strip("[]() \n")) if word)
    except ValueError as error:
        raise DataError(f"Descriptor: {error}.") from None
