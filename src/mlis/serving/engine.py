"""The model as the server uses it: what a picture or a row is, and what comes out.

A recognizer never changes: adding a class makes another one, which takes its place between two
batches. So predictions go on while a class is added.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy.special

from mlis.features.images.decode import ImageError, decode
from mlis.model.recognizer import Recognizer
from mlis.serving.words import Describer, Words

if TYPE_CHECKING:
    from mlis.features.backbones.base import Backbone


BEYOND = "its features are not finite, or so far from the training's that the scores are not"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The classes at one time.

    Attributes:
        names: C.
        seen: (C,) bool, whether a class had images in training.
        added: names of those added since the server began.
        descriptions: sentences by name, where they are known.
    """

    names: tuple[str, ...]
    seen: np.ndarray
    added: frozenset[str] = frozenset()
    descriptions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Query:
    """One picture as `prepare` gives it, or one row of features (Dx,)."""

    values: np.ndarray
    is_image: bool


@dataclass(frozen=True, eq=False)
class Answer:
    """Probabilities (C,) of the classes of a catalogue, or the reason why there are none."""

    catalogue: Catalogue
    chances: np.ndarray | None
    reason: str = ""

    def best(self, k: int) -> list[tuple[int, float]]:
        """Index and probability of the k likeliest classes, best first."""
        assert self.chances is not None
        order = np.argsort(-self.chances, kind="stable")[:k]
        return [(int(c), round(float(self.chances[c]), 6)) for c in order]


class Engine:
    """A recognizer, with the image model of its features where that is known.

    Any thread may call `prepare`; `answer` is for one thread, and `add` for one, perhaps another.

    Args:
        recognizer: the model.
        backbone: its image model, or None: then only features are understood.
        describer: how words become descriptors of new classes, or None: then none are taken.
        descriptions: sentences of classes by name, to show.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        backbone: "Backbone | None" = None,
        describer: Describer | None = None,
        descriptions: Mapping[str, str] | None = None,
    ):
        self.backbone: Backbone | None = backbone
        self.describer: Describer | None = describer
        self.num_features: int = recognizer.num_features
        known = Catalogue(
            recognizer.class_names,
            np.array(recognizer.seen_mask),
            descriptions=dict(descriptions or {}),
        )
        self._served = (recognizer, known)

    @property
    def catalogue(self) -> Catalogue:
        """The classes as they are now."""
        return self._served[1]

    def prepare(self, data: bytes, max_pixels: int) -> np.ndarray:
        """The image model's input for the bytes of a file. Raises `ImageError`."""
        assert self.backbone is not None
        if not data:
            raise ImageError("empty file: zero bytes")
        image = decode(data, self.backbone.enough, max_pixels)
        try:
            return self.backbone.prepare(image)
        except MemoryError:
            raise ImageError("not enough memory for it") from None
        except Exception as error:  # a processor that fails on one image says what it likes
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ImageError(f"cannot be prepared: {reason}") from error

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """One answer a query, whatever else is among them."""
        features = np.full((len(queries), self.num_features), np.nan, dtype=np.float32)
        for rows in self._alike(queries):
            values = [queries[i].values for i in rows]
            if queries[rows[0]].is_image:
                assert self.backbone is not None
                features[rows] = self.backbone(values)
            else:
                features[rows] = values
        recognizer, catalogue = self._served
        finite = np.asarray(np.isfinite(features).all(axis=1))
        scores = np.full((len(queries), len(catalogue.names)), np.nan)
        if finite.any():
            scores[finite] = recognizer.scores(features[finite])
        known = np.asarray(np.isfinite(scores).all(axis=1))  # very large features overflow
        with np.errstate(invalid="ignore"):
            chances = scipy.special.softmax(scores, axis=1)
        return [
            Answer(catalogue, chances[i]) if known[i] else Answer(catalogue, None, BEYOND)
            for i in range(len(queries))
        ]

    def add(self, name: str, words: Words, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Add a class by its description; return whether it was.

        Args:
            name: of no class that is there.
            words: what is said of it.
            given_up: whether nobody waits for it any more; then all stays as it was.

        Raises:
            MlisError: the words are not what the model's classes are described by.
        """
        assert self.describer is not None
        recognizer, known = self._served
        vector = self.describer.vector(name, words)
        grown = recognizer.add_classes([name], vector[None], note="mlis serve")
        descriptions = dict(known.descriptions)
        if words.sentences:
            descriptions[name] = " ".join(words.sentences)
        seen, added = np.array(grown.seen_mask), known.added | {name}
        if given_up():
            return False
        self._served = (grown, Catalogue(grown.class_names, seen, added, descriptions))
        return True

    def _alike(self, queries: Sequence[Query]) -> list[list[int]]:
        """Queries that are computed in one call: all rows; pictures of one shape, few at a time."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, query in enumerate(queries):
            groups.setdefault((query.is_image, *query.values.shape), []).append(i)
        parts: list[list[int]] = []
        for key, rows in groups.items():
            size = self.backbone.batch if key[0] and self.backbone is not None else len(rows)
            parts += [rows[i : i + size] for i in range(0, len(rows), size)]
        return parts
