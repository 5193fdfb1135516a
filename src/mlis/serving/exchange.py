"""What the server exchanges with its model: queries, answers, changes of classes, refusals."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mlis.errors import DataError
from mlis.explanation import Explanation
from mlis.serving.descriptions import Description


class ConflictError(DataError):
    """A class of that name exists, or the model cannot do what was asked."""


class NoSuchClassError(DataError):
    """No class of that name exists."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The classes at one time.

    Attributes:
        names: C.
        seen: (C,) bool, whether a class had images in training.
        added: names of those added since the server started.
        descriptions: sentences by name, where they are known.
        display_names: by name, where there is one.
    """

    names: tuple[str, ...]
    seen: np.ndarray
    added: frozenset[str] = frozenset()
    descriptions: Mapping[str, str] = field(default_factory=dict)
    display_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Query:
    """One image as `prepare` gives it, or one row of features (Dx,).

    Attributes:
        constant: subtracted from seen-class scores; the model's own where absent.
        explain: whether to explain the likeliest class.
    """

    values: np.ndarray
    is_image: bool
    constant: float | None = None
    explain: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """Probabilities (C,) of the classes of a catalogue, or the reason why there are none.

    `level` is the share of validation images of known classes that look less known, where the model
    can tell: with less than the rate of a request the answer is "unknown". `features` (Dx,) are
    those of the query.
    """

    catalogue: Catalogue
    probabilities: np.ndarray | None
    reason: str = ""
    level: float = 1.0
    explanation: Explanation | None = None
    features: np.ndarray | None = None

    def best(self, k: int) -> list[tuple[int, float]]:
        """Index and probability of the k likeliest classes, best first."""
        assert self.probabilities is not None
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(int(c), round(float(self.probabilities[c]), 6)) for c in order]


@dataclass(frozen=True, eq=False)
class Change:
    """One change of the classes: an addition, images of a class, a removal, or a renaming.

    Attributes:
        action: "add", "images", "remove" or "rename".
        name: of the class.
        description: of a class that is added.
        features: (n, Dx) of images of a class, which is added if there is none of that name.
        new_name: of a class that is renamed.
        abandoned: set when nobody waits for it any more; then it must not be made.
        warnings: filled where it is made: possible problems of the class.
    """

    action: str
    name: str
    description: Description = field(default_factory=Description)
    features: np.ndarray | None = None
    new_name: str = ""
    abandoned: threading.Event = field(default_factory=threading.Event)
    warnings: list[str] = field(default_factory=list[str])
