"""Why this class: nearest training images, and the attributes and sentences that speak for it.

A recognizer never reads descriptors when it answers. An explanation is made afterwards: what an
image shows of each attribute is predicted from its features, and compared with the descriptors of
the answer and of the runner-up (:mod:`mlis.model.attribute_evidence`); sentences of these two are
weighed in the same way (:mod:`mlis.explanation.sentences`). Features are the coordinates
in which a Gaussian head has unit covariance within classes, else the refined ones. Nearest images
are those with the highest cosine, after the mean of the seen classes' means is subtracted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlis.compute.class_sums import sum_by_class
from mlis.compute.precision import own_modes
from mlis.data.out_of_core.stored import StoredRows
from mlis.errors import DataError
from mlis.explanation.result import Attribute, Explanation, Neighbour
from mlis.explanation.sentences import Sentences, recorded_sentences
from mlis.features.descriptors.attributes import column_names
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.model.attribute_evidence import AttributeEvidence
from mlis.model.recognizer import Recognizer

# PyTorch's types are partial
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

ATTRIBUTES, NEAREST = 5, 3
"""How many are named."""
LEAST = 0.05
"""Evidence below which an attribute tells nothing: it would be shown as 0.0."""
_ROWS = 1024
_NUMBERS = 4_000_000  # rows times columns that are weighed at once
_ENOUGH = 4096  # rows that show how features vary within classes


COMPARED = 20_000
"""Most training images that explanations compare with, to bound memory."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Training images to compare with.

    Attributes:
        features: (m, Dx) as the recognizer takes them.
        labels: (m,) int64 indices of the recognizer's classes.
        names: m paths, or what else names a row; empty: "row 0", "row 1", …
    """

    features: np.ndarray | StoredRows
    labels: np.ndarray
    names: Sequence[str] = ()

    def without(self, removed: int) -> "Examples | None":
        """Those of the other classes, where the recognizer's class of this index was removed.

        None where there are none.
        """
        kept = np.flatnonzero(self.labels != removed)
        if not len(kept):
            return None
        labels = self.labels[kept] - (self.labels[kept] > removed)
        names = [self.names[i] for i in kept.tolist()] if self.names else ()
        return Examples(self.features[kept], labels, names)


def explain(
    recognizer: Recognizer,
    x: np.ndarray,
    exemplars: ExemplarBuffer | Examples | None = None,
) -> list[Explanation]:
    """Explain the likeliest class of each row, also by its sentences if the model keeps them.

    Args:
        recognizer: the model.
        x: (B, Dx) features.
        exemplars: training images: the model's exemplar buffer (`load_exemplars`), or `Examples`.
            A model with a Gaussian head needs none, but then there are no nearest images.

    Raises:
        DataError: there is neither a Gaussian head nor a training image of a seen class, or
            features do not fit.
    """
    return Explainer(recognizer, exemplars, recorded_sentences(recognizer))(x)


class Explainer:
    """`explain` for many calls: what does not depend on the rows is computed once.

    Args:
        recognizer, exemplars: as `explain` takes them.
        sentences: of its classes (`recorded_sentences`), to weigh one by one; None: they are not.

    Raises:
        DataError: as `explain` does.
    """

    @own_modes()
    @torch.no_grad()
    def __init__(
        self,
        recognizer: Recognizer,
        exemplars: ExemplarBuffer | Examples | None = None,
        sentences: Sentences | None = None,
    ) -> None:
        self.recognizer: Recognizer = recognizer
        self.sentences: Sentences | None = sentences
        examples = None if exemplars is None else _embedded(recognizer, exemplars)
        descriptors = recognizer.descriptors.double()
        self._attributes: AttributeEvidence = _fitted(recognizer, examples, descriptors)
        columns = column_names(recognizer.metadata.sources, descriptors.shape[1])
        self._columns: list[tuple[str, int | None]] = [(name, None) for name in columns]
        self._values: Tensor = descriptors
        self._said: AttributeEvidence | None = None
        if sentences is not None:
            said = sentences.columns(descriptors)
            self._said = _fitted(recognizer, examples, said)
            self._values = torch.cat([descriptors, said], dim=1)
            self._columns += zip(sentences.texts, sentences.owners.tolist(), strict=True)
        self._near: Tensor | None = None
        self._labels: list[int] = []
        self._names: Sequence[str] = ()
        if examples is not None:
            self._near = normalize(examples[0] - self._attributes.origin.to(examples[0]), dim=1)
            self._labels = examples[1].tolist()
        if isinstance(exemplars, Examples):
            self._names = exemplars.names or [f"row {row}" for row in range(len(self._labels))]

    @own_modes()
    @torch.no_grad()
    def __call__(self, x: np.ndarray, scores: np.ndarray | None = None) -> list[Explanation]:
        """Explain the likeliest class of each row.

        Args:
            x: (B, Dx) features.
            scores: (B, C) that the answers were chosen by; the recognizer's own where absent.

        Raises:
            DataError: features do not fit, or are not finite.
        """
        scores = self.recognizer.scores(x) if scores is None else scores
        best = np.argsort(-scores, axis=1, kind="stable")[:, :2]
        found: list[Explanation] = []
        count = max(1, min(_ROWS, _NUMBERS // self._values.shape[1]))
        for start in range(0, len(x), count):
            part = torch.as_tensor(x[start : start + count], dtype=torch.float32)
            scaled = self.recognizer.preprocessing(part.to(self.recognizer.device))
            h = _coordinates(self.recognizer, scaled)
            found += self._explained(h, best[start : start + count])
        return found

    def _explained(self, h: Tensor, best: np.ndarray) -> list[Explanation]:
        """Of (B, k) coordinates and (B, 2 or 1) classes, best first."""
        names, width = self.recognizer.class_names, self.recognizer.descriptors.shape[1]
        pair = [self._values[torch.from_numpy(best[:, i]).to(h.device)] for i in (0, -1)]
        own, other = (values[:, :width] for values in pair)
        known = own.any(dim=1) & other.any(dim=1) & (best.shape[1] > 1)
        predicted = self._attributes.predict(h)
        alike = [self._attributes.similarity(predicted, each) for each in (own, other)]
        similar = torch.stack(alike, dim=1).tolist()
        evidence = self._attributes.evidence(predicted, own, other)
        if self._said is not None:
            heard = self._said.predict(h)
            said = self._said.evidence(heard, *(values[:, width:] for values in pair))
            evidence = torch.cat([evidence, said], dim=1)
            predicted = torch.cat([predicted, heard], dim=1)
        values = torch.stack([evidence, predicted, *pair], dim=2).cpu().numpy()
        nearest, shown = self._nearest(h), self.recognizer.display_names
        return [
            Explanation(
                names[classes[0]],
                names[classes[1]] if len(classes) > 1 else "",
                (similar[i][0], similar[i][1]) if known[i] else None,
                self._named(values[i], classes) if known[i] else (),
                nearest[i],
                shown,
            )
            for i, classes in enumerate(best.tolist())
        ]

    def _named(self, values: np.ndarray, classes: Sequence[int]) -> tuple[Attribute, ...]:
        """Those of the largest evidence, of (n, 4) evidence, image, answer and runner-up."""
        named = [
            j
            for j in np.flatnonzero(abs(values[:, 0]) >= LEAST).tolist()
            if self._columns[j][0] and self._columns[j][1] in (None, *classes)
        ]
        largest = sorted(named, key=lambda j: -abs(values[j, 0]))[:ATTRIBUTES]
        return tuple(
            self._attribute(j, *values[j].tolist())
            for j in sorted(largest, key=lambda j: -values[j, 0])
        )

    def _attribute(
        self, column: int, evidence: float, image: float, answer: float, runner_up: float
    ) -> Attribute:
        name, owner = self._columns[column]
        of = "" if owner is None else self.recognizer.class_names[owner]
        return Attribute(name, evidence, image, answer, runner_up, of)

    def _nearest(self, h: Tensor) -> list[tuple[Neighbour, ...]]:
        if self._near is None:
            return [()] * len(h)
        cosines = normalize(h - self._attributes.origin.to(h), dim=1) @ self._near.T
        values, rows = cosines.topk(min(NEAREST, len(self._near)), dim=1)
        return [
            tuple(map(self._neighbour, *pair))
            for pair in zip(rows.tolist(), values.tolist(), strict=True)
        ]

    def _neighbour(self, row: int, similarity: float) -> Neighbour:
        label = self.recognizer.class_names[self._labels[row]]
        return Neighbour(label, similarity, self._names[row] if self._names else "")


def can_explain(recognizer: Recognizer, exemplars: ExemplarBuffer | Examples | None) -> bool:
    """Whether `explain` has what it needs."""
    seen = recognizer.seen_mask
    if recognizer.gaussian_part() is not None or exemplars is None:
        return recognizer.gaussian_part() is not None and bool(seen.any())
    return bool(seen[torch.as_tensor(exemplars.labels, device=seen.device)].any())


def _coordinates(recognizer: Recognizer, scaled: Tensor) -> Tensor:
    """(B, k), what explanations are computed in, of (B, Dx) scaled features."""
    scaled = scaled.to(next(recognizer.head.parameters()).dtype)
    if (part := recognizer.gaussian_part()) is None:
        return recognizer.refiner(scaled)
    refiner, head = part
    return head.coordinates(refiner(scaled))


def _parts(
    recognizer: Recognizer, exemplars: ExemplarBuffer | Examples
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scaled features and labels, some rows at a time."""
    if isinstance(exemplars, ExemplarBuffer):
        yield from exemplars.scaled(recognizer.device)
        return
    for start in range(0, len(exemplars.features), _ROWS):
        x = np.array(exemplars.features[start : start + _ROWS], dtype=np.float32)
        if not (finite := np.isfinite(x).all(axis=1)).all():
            raise DataError(
                f"training images: row {start + int(finite.argmin())} contains NaN or infinity. "
                "Leave that row out."
            )
        labels = torch.from_numpy(np.asarray(exemplars.labels[start : start + _ROWS], np.int64))
        scaled = recognizer.preprocessing(torch.from_numpy(x).to(recognizer.device))
        yield scaled, labels.to(recognizer.device)


def _embedded(
    recognizer: Recognizer, exemplars: ExemplarBuffer | Examples
) -> tuple[Tensor, Tensor]:
    """Coordinates (m, k) and labels (m,)."""
    if isinstance(exemplars, Examples):
        shape = tuple(exemplars.features.shape)
        if len(shape) != 2 or shape[1] != recognizer.num_features or not shape[0]:
            raise DataError(
                f"training images: expected features of shape (m, {recognizer.num_features}), got "
                f"{shape}. Use features of the image model of the training."
            )
    parts = [(_coordinates(recognizer, x), y) for x, y in _parts(recognizer, exemplars)]
    return torch.cat([h for h, _ in parts]), torch.cat([y for _, y in parts])


def _fitted(
    recognizer: Recognizer, examples: tuple[Tensor, Tensor] | None, descriptors: Tensor
) -> AttributeEvidence:
    """The regression on the means of seen classes: the Gaussian head's, or those of the images."""
    seen = recognizer.seen_mask
    if (part := recognizer.gaussian_part()) is not None and bool(seen.any()):
        means, variances = part[1].moments()
        return AttributeEvidence.fit(means[seen], descriptors[seen], variances[seen].mean(0))
    known = None if examples is None else seen[examples[1]]
    if examples is None or known is None or not bool(known.any()):
        raise DataError(
            "cannot explain: expected a Gaussian classifier or training images of seen classes, "
            "got neither. Give features of the training (--training), or train the model without "
            "--no-growth."
        )
    h, y = (values[known] for values in examples)
    classes, labels = y.unique(return_inverse=True)
    counts = torch.bincount(labels)[:, None]
    means = sum_by_class(h.double(), labels, len(classes)) / counts
    some = slice(None, None, -(-len(h) // _ENOUGH))
    within = h[some].double() - means[labels[some]]
    return AttributeEvidence.fit(means, descriptors[classes], within)
