"""What is said of a new class, and the descriptor it becomes, made as the training's were."""

import csv
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlis.data.io.tables import COLUMNS
from mlis.data.labels import suggestion
from mlis.errors import DataError
from mlis.features.descriptors.additions import describe_like
from mlis.features.descriptors.class_table import NAME
from mlis.features.descriptors.describe import FORMAT
from mlis.model.recognizer import Recognizer

if TYPE_CHECKING:
    from mlis.features.descriptors.text_model import TextModel

SENTENCES, ATTRIBUTES, VECTOR = "sentences", "attributes", "vector"
_TEXT = "sentences of the class"


@dataclass(frozen=True)
class Words:
    """Sentences, attributes or both; or a descriptor itself."""

    sentences: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    vector: tuple[float, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of the three are given."""
        given = ((SENTENCES, self.sentences), (ATTRIBUTES, self.attributes), (VECTOR, self.vector))
        return tuple(kind for kind, said in given if said)


@dataclass(frozen=True, eq=False)
class Describer:
    """Makes descriptors of new classes.

    Attributes:
        size: Da, numbers of a descriptor.
        record: how the training's descriptors were made from words; empty where not known.
        text: the text model of the sentences, or None without.
        takes: of "sentences", "attributes" and "vector", what a new class may be described by.
        attributes: names of the model's attributes.
    """

    size: int
    record: Mapping[str, Any] = field(default_factory=dict)
    text: "TextModel | None" = None
    takes: tuple[str, ...] = (VECTOR,)
    attributes: tuple[str, ...] = ()

    @classmethod
    def of(cls, recognizer: Recognizer, device: str = "auto") -> "Describer | None":
        """The describer of a model, or None where it holds nothing to add classes with.

        Raises:
            SettingsError: the text model of its sentences cannot be had.
        """
        if recognizer.growth is None:
            return None
        size = recognizer.descriptors.shape[1]
        record = recognizer.sources.get("descriptors") or {}
        if record.get("format") == COLUMNS:
            return cls(size, record, None, (ATTRIBUTES, VECTOR), tuple(record["columns"]))
        if record.get("format") != FORMAT:
            return cls(size)
        text = None
        if record["text"] is not None:
            from mlis.features.descriptors.text_model import TextModel

            text = TextModel(record["text"]["name"], device=device)
        attributes = tuple(column["name"] for column in record["attributes"])
        kinds = ((SENTENCES, text is not None), (ATTRIBUTES, bool(attributes)), (VECTOR, True))
        takes = tuple(kind for kind, known in kinds if known)
        return cls(size, record, text, takes, attributes)

    def vector(self, name: str, words: Words) -> np.ndarray:
        """(Da,) float32 of a class.

        Raises:
            DataError: nothing is said, something that this model does not understand, or too
                little.
        """
        wrong = [kind for kind in words.kinds if kind not in self.takes]
        if wrong or not words.kinds:
            got = " and ".join(words.kinds) or "nothing"
            raise DataError(
                f"expected {' or '.join(self.takes)}, as this model's classes are described, but "
                f"got {got}"
            )
        if words.vector:
            return self._checked(words)
        for attribute in words.attributes:
            if attribute not in self.attributes:
                raise DataError(
                    f"attributes: the model knows no {attribute!r}."
                    f"{suggestion(attribute, self.attributes)}"
                )
        if self.record["format"] == COLUMNS:
            return self._numbers(words.attributes)
        if self.text is not None and not words.sentences:
            raise DataError("sentences: none is given, but this model's classes are described so")
        return self._described(name, words)

    def _checked(self, words: Words) -> np.ndarray:
        if len(words.kinds) > 1:
            raise DataError("a vector stands alone: leave out sentences and attributes")
        with np.errstate(over="ignore"):
            vector = np.array(words.vector, dtype=np.float64).astype(np.float32)
        if len(vector) != self.size:
            raise DataError(f"vector: expected {self.size} numbers, but got {len(vector)}")
        return vector

    def _numbers(self, said: Mapping[str, str]) -> np.ndarray:
        """Of a model whose descriptors are the numbers of a table as they stand."""
        numbers = []
        for column in self.attributes:
            try:
                numbers.append(float(said[column]))
            except KeyError:
                raise DataError(f"attributes: {column!r} is missing: all are needed") from None
            except ValueError:
                raise DataError(
                    f"attributes: {column!r} must be a number, but got {said[column]!r}"
                ) from None
        with np.errstate(over="ignore"):
            return np.array(numbers).astype(np.float32)

    def _described(self, name: str, words: Words) -> np.ndarray:
        """As a table of one class says it: the reader of tables knows all the rules."""
        rows = [[name, sentence, *words.attributes.values()] for sentence in words.sentences]
        rows = rows or [[name, "", *words.attributes.values()]]
        record = {**self.record, SENTENCES: [_TEXT]}
        with tempfile.TemporaryDirectory(prefix="mlis-words-") as folder:
            table = Path(folder) / "new.csv"
            with table.open("w", encoding="utf-8", newline="") as handle:
                csv.writer(handle).writerows([[NAME, _TEXT, *words.attributes], *rows])
            try:
                return describe_like(record, table, model=self.text)[1][0]
            except DataError as error:
                raise DataError(str(error).replace(f"{table}: ", "")) from None
