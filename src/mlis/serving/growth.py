"""How a class that is only described joins a model that is being served."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mlis.inference import Recognizer


@dataclass(frozen=True)
class Words:
    """What is said of a new class: sentences, attributes or both, or its descriptor itself."""

    sentences: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    vector: tuple[float, ...] = ()


class Growth(Protocol):
    """What makes a larger recognizer.

    Attributes:
        takes: of "sentences", "attributes" and "vector", what a new class may be described by.
        attributes: names of the model's attributes.
        size: Da, numbers of a vector.
    """

    takes: tuple[str, ...]
    attributes: tuple[str, ...]
    size: int

    def grown(self, recognizer: Recognizer, name: str, words: Words) -> Recognizer:
        """The recognizer with one more, unseen class. Raises `MlisError`."""
        ...
