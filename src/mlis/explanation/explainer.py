"""Why this class: nearest training images, and the attributes and sentences that speak for it.

A recognizer never reads descriptors when it answers. An explanation is made afterwards: what an
image shows of each attribute is predicted from its features, and compared with the descriptors of
the answer and of the runner-up (:mod:`mlis.model.attribute_evidence`); sentences of these two are
weighed in the same way (:mod:`mlis.explanation.sentences`). Features are the coordinates
in which a Gaussian head has unit covariance within classes, else the refined ones. Nearest images
are those with the highest cosine, after the mean of the seen classes' means is subtracted.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlis.compute.class_sums import sum_by_class
from mlis.compute.precision import own_modes
from mlis.errors import DataError
from mlis.explanation.examples import Examples, coordinates, embedded
from mlis.explanation.result import Attribute, Explanation, Neighbour
from mlis.explanation.sentences import SentenceEncoder, fit_of, sentence_encoder, sentences_of
from mlis.features.descriptors.attributes import column_names
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.model.attribute_evidence import AttributeEvidence, AttributeRegression
from mlis.model.recognizer import Recognizer

# PyTorch's types are partial
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

ATTRIBUTES, NEAREST = 5, 3
"""How many are named."""
LEAST = 0.05
"""Evidence below which an attribute tells nothing: it would be shown as 0.0."""
_ROWS = 1024
_ENOUGH = 4096  # rows that show how features vary within classes


def explain(
    recognizer: Recognizer,
    x: np.ndarray,
    exemplars: ExemplarBuffer | Examples | None = None,
) -> list[Explanation]:
    """Explain the likeliest class of each row, also by its sentences if the model keeps them.

    For several calls make one `Explainer`: this one loads the text model of sentences each time.

    Args:
        recognizer: the model.
        x: (B, Dx) features.
        exemplars: training images: the model's exemplar buffer (`load_exemplars`), or `Examples`.
            A model with a Gaussian head needs none, but then there are no nearest images.

    Raises:
        DataError: there is neither a Gaussian head nor a training image of a seen class, or
            features do not fit.
    """
    return Explainer(recognizer, exemplars, sentence_encoder(recognizer))(x)


class Explainer:
    """`explain` for many calls: what does not depend on the rows is computed once.

    Args:
        recognizer, exemplars: as `explain` takes them.
        encoder: of the sentences of its classes (`sentence_encoder`); None: they are not weighed.

    Raises:
        DataError: as `explain` does.
    """

    @own_modes()
    @torch.no_grad()
    def __init__(
        self,
        recognizer: Recognizer,
        exemplars: ExemplarBuffer | Examples | None = None,
        encoder: SentenceEncoder | None = None,
    ) -> None:
        self.recognizer: Recognizer = recognizer
        self.encoder: SentenceEncoder | None = encoder
        examples = None if exemplars is None else embedded(recognizer, exemplars)
        self._regression, self._seen = _regression(recognizer, examples)
        self._descriptors: Tensor = recognizer.descriptors.double()
        self._attributes: AttributeEvidence = self._regression.fit(self._descriptors[self._seen])
        width = recognizer.descriptors.shape[1]
        self._columns: list[str] = column_names(recognizer.metadata.sources, width)
        if encoder is not None:
            size = int(recognizer.metadata.sources["descriptors"]["text"]["size"])
            self._text: Tensor = normalize(self._descriptors[:, :size], dim=1)
            self._penalty: float = self._regression.fit(self._text[self._seen]).penalty
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
        for start in range(0, len(x), _ROWS):
            part = torch.as_tensor(x[start : start + _ROWS], dtype=torch.float32)
            scaled = self.recognizer.preprocessing(part.to(self.recognizer.device))
            h = coordinates(self.recognizer, scaled)
            found += self._explained(h, best[start : start + _ROWS])
        return found

    def _explained(self, h: Tensor, best: np.ndarray) -> list[Explanation]:
        """Of (B, k) coordinates and (B, 2 or 1) classes, best first."""
        names = self.recognizer.class_names
        classes = torch.from_numpy(best).to(h.device)
        one, other = (self._descriptors[classes[:, i]] for i in (0, -1))
        predicted = self._attributes.predict(h)
        known = one.any(dim=1) & other.any(dim=1) & (best.shape[1] > 1)
        pair = [self._attributes.similarity(predicted, each) for each in (one, other)]
        similar = torch.stack(pair, dim=1).tolist()
        evidence = self._attributes.evidence(predicted, one, other)
        values = torch.stack([evidence, predicted, one, other], dim=2).cpu().numpy()
        said = self._said(h, classes) if best.shape[1] > 1 else [[] for _ in h]
        nearest, shown = self._nearest(h), self.recognizer.display_names
        return [
            Explanation(
                names[row[0]],
                names[row[1]] if len(row) > 1 else "",
                (similar[i][0], similar[i][1]) if known[i] else None,
                _largest([*self._named(values[i]), *said[i]]) if known[i] else (),
                nearest[i],
                shown,
            )
            for i, row in enumerate(best.tolist())
        ]

    def _named(self, values: np.ndarray) -> list[Attribute]:
        """Attributes that have a name, of (Da, 4) evidence, image, answer and runner-up."""
        told = np.flatnonzero(abs(values[:, 0]) >= LEAST).tolist()
        return [Attribute(self._columns[j], *values[j].tolist()) for j in told if self._columns[j]]

    def _said(self, h: Tensor, classes: Tensor) -> list[list[Attribute]]:
        """Sentences of the two classes of each row of (B, k), of (B, 2) classes.

        Without those that fit the other class no worse than their own: what they say of the two
        would mislead.
        """
        found: list[list[Attribute]] = [[] for _ in h]
        if self.encoder is None:
            return found
        for owner in classes.unique().tolist():
            name = self.recognizer.class_names[owner]
            if not (texts := sentences_of(self.recognizer, name)):
                continue
            fits = fit_of(self._text, self.recognizer.seen_mask, self.encoder(texts))
            evidence = self._regression.fit(fits[self._seen], self._penalty)
            rows = (classes == owner).any(dim=1).nonzero()[:, 0]
            image = evidence.predict(h[rows])
            one, other = (fits[classes[rows, i]] for i in (0, 1))
            ratio = evidence.evidence(image, one, other)
            own = torch.where((classes[rows, :1] == owner), one - other, other - one) > 0
            values = torch.stack([ratio, image, one, other], dim=2)
            told = own & (ratio.abs() >= LEAST)
            for i, j in told.nonzero().tolist():
                found[int(rows[i])].append(Attribute(texts[j], *values[i, j].tolist(), of=name))
        return found

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


def _largest(found: list[Attribute]) -> tuple[Attribute, ...]:
    """Those of the largest evidence, what speaks for the answer first."""
    largest = sorted(found, key=lambda one: -abs(one.evidence))[:ATTRIBUTES]
    return tuple(sorted(largest, key=lambda one: -one.evidence))


def _regression(
    recognizer: Recognizer, examples: tuple[Tensor, Tensor] | None
) -> tuple[AttributeRegression, Tensor]:
    """On the means of seen classes, the Gaussian head's or those of the images; their indices."""
    seen = recognizer.seen_mask
    if (part := recognizer.gaussian_part()) is not None and bool(seen.any()):
        means, variances = part[1].moments()
        regression = AttributeRegression(means[seen], variances[seen].mean(0))
        return regression, seen.nonzero()[:, 0]
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
    return AttributeRegression(means, within), classes
