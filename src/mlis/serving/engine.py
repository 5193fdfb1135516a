"""The model as the server uses it: what a picture or a row is, and what comes out.

`Engine` is touched by the batcher's thread alone, but for `prepare`, which any thread may call, and
`catalogue`, which is replaced whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy.special

from mlis.features.decode import ImageError, decode
from mlis.inference import Recognizer
from mlis.serving.growth import Growth, Words

if TYPE_CHECKING:
    from mlis.features.backbones import Backbone


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

    Args:
        recognizer: the model.
        backbone: its image model, or None: then only features are understood.
        growth: how classes are added, or None: then they cannot be.
        descriptions: sentences of classes by name.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        backbone: "Backbone | None" = None,
        growth: Growth | None = None,
        descriptions: Mapping[str, str] | None = None,
    ):
        self._recognizer, self.backbone, self.growth = recognizer, backbone, growth
        self.num_features = recognizer.num_features
        self.catalogue = Catalogue(
            recognizer.class_names,
            np.array(recognizer.seen_mask),
            descriptions=dict(descriptions or {}),
        )

    def prepare(self, data: bytes, max_pixels: int) -> np.ndarray:
        """The image model's input for the bytes of a file. Raises `ImageError`."""
        assert self.backbone is not None
        image = decode(data, self.backbone.enough, max_pixels)
        try:
            return self.backbone.prepare(image)
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
        catalogue, finite = self.catalogue, np.isfinite(features).all(axis=1)
        chances = np.empty((len(queries), len(catalogue.names)))
        if finite.any():
            scores = self._recognizer.scores(features[finite]).astype(np.float64)
            chances[finite] = scipy.special.softmax(scores, axis=1)
        return [
            Answer(catalogue, chances[i])
            if finite[i]
            else Answer(catalogue, None, "its features are not finite numbers")
            for i in range(len(queries))
        ]

    def add(self, name: str, words: Words) -> Catalogue:
        """Add a class by its description. Raises `MlisError` where it says too little."""
        assert self.growth is not None
        old = self.catalogue
        self._recognizer = self.growth.grown(self._recognizer, name, words)
        descriptions = dict(old.descriptions)
        if words.sentences:
            descriptions[name] = " ".join(words.sentences)
        self.catalogue = Catalogue(
            self._recognizer.class_names,
            np.array(self._recognizer.seen_mask),
            old.added | {name},
            descriptions,
        )
        return self.catalogue

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
