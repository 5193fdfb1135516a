"""Descriptions of new classes, and the descriptors made from them as the training's were."""

import csv
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlis.data.io.csv_file import NAME, parse_number
from mlis.data.io.tables import COLUMNS
from mlis.data.labels import suggestion
from mlis.errors import DataError
from mlis.features.descriptors.describe import FORMAT
from mlis.features.descriptors.new_classes import describe_like
from mlis.model.recognizer import Recognizer

if TYPE_CHECKING:
    from mlis.features.descriptors.text_model import TextModel

SENTENCES, ATTRIBUTES, VECTOR = "sentences", "attributes", "vector"
_TEXT = "sentences of the class"


@dataclass(frozen=True)
class Description:
    """Sentences, attributes or both; or a descriptor itself."""

    sentences: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    vector: tuple[float, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of the three are given."""
        given = ((SENTENCES, self.sentences), (ATTRIBUTES, self.attributes), (VECTOR, self.vector))
        return tuple(kind for kind, said in given if said)


def as_text(sentences: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The sentences of each class as one text, by name; of classes that have some."""
    return {name: " ".join(texts) for name, texts in sentences.items() if texts}


@dataclass(frozen=True, eq=False)
class Describer:
    """Makes descriptors of new classes.

    Attributes:
        size: Da, numbers of a descriptor.
        record: how the training's descriptors were made; empty where not known.
        text: the text model of the sentences, or None.
        takes: which of "sentences", "attributes" and "vector" may describe a new class.
        attributes: names of the model's attributes.
    """

    size: int
    record: Mapping[str, Any] = field(default_factory=dict)
    text: "TextModel | None" = None
    takes: tuple[str, ...] = (VECTOR,)
    attributes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, recognizer: Recognizer, device: str = "auto", text_model: str | None = None
    ) -> "Describer":
        """The describer of a model to which classes can be added.

        The text model that the file names is not downloaded; `text_model`, the user's word, is.

        Raises:
            SettingsError: the text model of its sentences is not available.
        """
        size = recognizer.descriptors.shape[1]
        record = recognizer.metadata.sources.get("descriptors") or {}
        if record.get("format") == COLUMNS:
            return cls(size, record, None, (ATTRIBUTES, VECTOR), tuple(record["columns"]))
        if record.get("format") != FORMAT:
            return cls(size)
        text = None
        if record["text"] is not None:
            from mlis.features.descriptors.text_model import TextModel

            text = TextModel(
                text_model or record["text"]["name"],
                device=device,
                download=text_model is not None,
            )
        attributes = tuple(dict.fromkeys(c["name"] for c in record["attributes"]))
        kinds = ((SENTENCES, text is not None), (ATTRIBUTES, bool(attributes)), (VECTOR, True))
        takes = tuple(kind for kind, known in kinds if known)
        return cls(size, record, text, takes, attributes)

    def vector(self, name: str, description: Description) -> np.ndarray:
        """(Da,) float32 of a class.

        Raises:
            DataError: the description is empty, incomplete, or not of a kind that the model takes.
        """
        wrong = [kind for kind in description.kinds if kind not in self.takes]
        if wrong or not description.kinds:
            got = " and ".join(description.kinds) or "nothing"
            raise DataError(
                f"description: expected {' or '.join(self.takes)}, as for this model's classes, "
                f"got {got}"
            )
        if description.vector:
            return self._checked(description)
        for attribute in description.attributes:
            if attribute not in self.attributes:
                raise DataError(
                    f"attributes: {attribute!r} is not an attribute of this model."
                    f"{suggestion(attribute, self.attributes)}"
                )
        if self.record["format"] == COLUMNS:
            return self._numbers(description.attributes)
        if self.text is not None and not description.sentences:
            raise DataError(
                "sentences: expected at least one, got none. This model's classes have them"
            )
        return self._described(name, description)

    def _checked(self, description: Description) -> np.ndarray:
        if len(description.kinds) > 1:
            raise DataError("vector: expected alone. Leave out sentences and attributes")
        with np.errstate(over="ignore"):
            vector = np.array(description.vector, dtype=np.float64).astype(np.float32)
        if len(vector) != self.size:
            raise DataError(f"vector: expected {self.size} numbers, got {len(vector)}")
        return vector

    def _numbers(self, said: Mapping[str, str]) -> np.ndarray:
        """For a model whose descriptors are the unchanged numbers of a table."""
        numbers = []
        for column in self.attributes:
            try:
                numbers.append(parse_number(said[column]))
            except KeyError:
                raise DataError(f"attributes: {column!r} is missing. Give all of them") from None
            if math.isnan(numbers[-1]):
                raise DataError(f"attributes: {column!r}: expected a number, got {said[column]!r}")
        with np.errstate(over="ignore"):
            return np.array(numbers).astype(np.float32)

    def _described(self, name: str, description: Description) -> np.ndarray:
        """Through a table of one class, so that the rules of tables apply."""
        values = description.attributes.values()
        rows = [[name, sentence, *values] for sentence in description.sentences or ("",)]
        record = {**self.record, SENTENCES: [_TEXT]}
        with tempfile.TemporaryDirectory(prefix="mlis-words-") as folder:
            table = Path(folder) / "new.csv"
            with table.open("w", encoding="utf-8", newline="") as handle:
                csv.writer(handle).writerows([[NAME, _TEXT, *description.attributes], *rows])
            try:
                return describe_like(record, table, model=self.text)[1][0]
            except DataError as error:
                raise DataError(str(error).replace(f"{table}: ", "")) from None
