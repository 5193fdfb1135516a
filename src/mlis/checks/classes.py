"""Checks of classes: their descriptors, their rows, and whether they are likely to fail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlis.checks.findings import Finding
from mlis.data.descriptor_geometry import distinctness, nearest_described, unit_rows
from mlis.features.descriptors.visual_words import says_little

ALIKE = 0.9
"""Cosine of centred descriptors from which two classes are described almost alike."""
LITTLE = 0.25
"""A descriptor says little if its distance to the others' mean is below this part of the median."""
FEW = 5
"""Training rows below which a class has very few."""
_PENALTY = 0.1  # of both regressions
AT_RISK = 0.75
"""Part of the seen classes that, left out, would be at less risk than an unseen class at risk."""


def descriptions(descriptors: np.ndarray, class_names: Sequence[str]) -> list[Finding]:
    """Classes described almost alike, and descriptors that say little.

    Args:
        descriptors: (C, Da).
        class_names: C.
    """
    if len(descriptors) < 3:  # two centred descriptors are always opposite
        return []
    found: dict[tuple[int, int], Finding] = {}
    nearest, cosine = nearest_described(descriptors)
    for c in np.flatnonzero(cosine >= ALIKE).tolist():
        pair = min(int(c), int(nearest[c])), max(int(c), int(nearest[c]))
        names = class_names[pair[0]], class_names[pair[1]]
        message = f"{names[0]!r} and {names[1]!r} are described alike (cosine {cosine[c]:.3f})"
        found[pair] = Finding("alike", message, float(cosine[c]), classes=names)
    apart = distinctness(descriptors)
    typical = float(np.median(apart))
    little = [
        Finding(
            "says-little",
            f"the descriptor of {class_names[c]!r} is nearly the mean of all others "
            f"({apart[c] / typical:.2f} of the usual distance)",
            1 - float(apart[c]) / typical,
            classes=(class_names[c],),
        )
        for c in np.flatnonzero(apart < LITTLE * typical).tolist()
    ]
    return [*found.values(), *little]


def texts(
    sentences: Mapping[str, Sequence[str]], class_names: Sequence[str]
) -> tuple[list[Finding], list[str]]:
    """Classes whose sentences have hardly a word for anything visible, and a note.

    Args:
        sentences: by class name, where they are known.
        class_names: C.
    """
    known = [name for name in class_names if sentences.get(name)]
    bare = [name for name in known if says_little(sentences[name])]
    if 2 * len(bare) > len(known):
        return [], [
            f"the sentences of {len(bare)} of {len(known)} classes have no English words for what "
            "can be seen (colours, shapes, patterns, parts): they were not judged one by one"
        ]
    return [
        Finding(
            "no-visual-words",
            f"{name!r} is described by {' '.join(sentences[name])[:60]!r}",
            1.0,
            classes=(name,),
        )
        for name in bare
    ], []


def few_rows(counts: np.ndarray, class_names: Sequence[str]) -> list[Finding]:
    """Seen classes with very few training rows.

    Args:
        counts: (C,) training rows; classes without any are unseen.
        class_names: C.
    """
    return [
        Finding(
            "few-rows",
            f"{class_names[c]!r} has {counts[c]} training photograph{'s' if counts[c] > 1 else ''}",
            -float(counts[c]),
            classes=(class_names[c],),
        )
        for c in np.flatnonzero((counts > 0) & (counts < FEW)).tolist()
    ]


def columns(
    descriptors: np.ndarray, means: np.ndarray, seen_mask: np.ndarray, names: Sequence[str]
) -> list[Finding]:
    """Descriptor columns that are constant among seen classes, or that features say nothing about.

    Each column is predicted from the class means of features by ridge regression; a column whose
    leave-one-class-out error is not below that of the mean of the other classes is uninformative.

    Args:
        descriptors: (C, Da).
        means: (C, Dx) class means of standardised features.
        seen_mask: (C,) bool.
        names: Da names of attributes; empty for dimensions of an embedding, which mean nothing
            one by one: of these only constant ones are found.
    """
    values = descriptors[seen_mask].astype(np.float64)
    constant = (values == values[0]).all(axis=0)
    label = [name or f"column {i}" for i, name in enumerate(names)]
    found = [
        Finding(
            "constant-column",
            f"{label[i]!r} is {values[0, i]:g} for all seen classes",
            1.0,
            column=int(i),
        )
        for i in np.flatnonzero(constant).tolist()
    ]
    count = len(values)
    named = np.array([bool(name) for name in names])
    if not named.any() or count < 5:
        return found
    centred = means[seen_mask] - means[seen_mask].mean(axis=0)
    kernel = centred @ centred.T
    kernel /= max(float(np.trace(kernel)) / count, 1e-12)
    inverse = np.linalg.inv(kernel + _PENALTY * np.eye(count) + 1.0)  # the ones: an intercept
    error = np.square(inverse @ values / np.diag(inverse)[:, None]).sum(axis=0)
    of_mean = np.square((values - values.mean(axis=0)) * count / (count - 1)).sum(axis=0)
    gain = 1 - error / np.where(constant, 1, of_mean)
    found += [
        Finding(
            "uninformative-column",
            f"{label[i]!r} cannot be told from photographs (its error is {1 - gain[i]:.2f} of that "
            "of a guess)",
            -float(gain[i]),
            column=int(i),
        )
        for i in np.flatnonzero(named & ~constant & (gain <= 0)).tolist()
    ]
    return found


@dataclass(frozen=True, eq=False)
class ClassRisk:
    """How likely the unseen classes are to fail.

    Attributes:
        classes: (U,) int64 unseen classes.
        risk: (U,) expected error of the predicted mean over its distance to the nearest other
            class.
        nearest: (U,) int64 that class, seen or unseen.
        of_seen: (S,) what the risk of each seen class would be, were it left out.
    """

    classes: np.ndarray
    risk: np.ndarray
    nearest: np.ndarray
    of_seen: np.ndarray

    @property
    def beyond(self) -> np.ndarray:
        """(U,) part of the seen classes that would be at less risk."""
        return np.searchsorted(np.sort(self.of_seen), self.risk) / len(self.of_seen)


def class_risk(descriptors: np.ndarray, means: np.ndarray, seen_mask: np.ndarray) -> ClassRisk:
    """Rank unseen classes by expected error over margin; no row of theirs is used.

    Kernel ridge regression (Gaussian kernel, its width the median distance) predicts class means
    from unit descriptors. The expected error of a class is the mean leave-one-class-out error of
    the seen classes, times its predictive standard deviation (Rasmussen and Williams, "Gaussian
    Processes for Machine Learning", 2006, eq. 2.26) over theirs. The margin is the distance from
    its predicted mean to the nearest mean of a seen class or predicted mean of another unseen one.

    Args:
        descriptors: (C, Da).
        means: (C, Dx) class means of features; rows of unseen classes are not read.
        seen_mask: (C,) bool, at least two seen classes.
    """
    unit, own = unit_rows(descriptors), means[seen_mask].astype(np.float64)
    seen, unseen = np.flatnonzero(seen_mask), np.flatnonzero(~seen_mask)
    between = _distances(unit[seen], unit[seen])
    positive = between[between > 0]
    width = float(np.median(positive)) if len(positive) else 1.0
    inverse = np.linalg.inv(np.exp(-0.5 * (between / width) ** 2) + _PENALTY * np.eye(len(seen)))
    dual = inverse @ (own - own.mean(axis=0))
    left_out = dual / np.diag(inverse)[:, None]  # true minus predicted, without the class itself
    variance_seen = (1 / np.diag(inverse) - _PENALTY).clip(min=1e-12)
    to_seen = np.exp(-0.5 * (_distances(unit[unseen], unit[seen]) / width) ** 2)
    predicted = own.mean(axis=0) + to_seen @ dual
    variance = 1 - np.einsum("us,st,ut->u", to_seen, inverse, to_seen, optimize=True)
    scale = np.linalg.norm(left_out, axis=1).mean() / np.sqrt(variance_seen.mean())
    classes, everywhere = np.concatenate([seen, unseen]), np.concatenate([own, predicted])
    margin, nearest = _margins(predicted, everywhere, len(seen))
    margin_seen, _ = _margins(own - left_out, everywhere, 0)
    return ClassRisk(
        unseen,
        scale * np.sqrt(variance.clip(min=0)) / margin,
        classes[nearest],
        scale * np.sqrt(variance_seen) / margin_seen,
    )


def _margins(
    points: np.ndarray, prototypes: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to and index of the nearest prototype, without row i's own one, `first` + i."""
    apart, at = _distances(points, prototypes), np.arange(len(points))
    apart[at, first + at] = np.inf
    return np.maximum(apart.min(axis=1), 1e-12), apart.argmin(axis=1)


def likely_to_fail(found: ClassRisk, class_names: Sequence[str]) -> list[Finding]:
    """The unseen classes at risk."""
    arrays = found.classes, found.risk, found.nearest, found.beyond
    parts: list[list[Any]] = [array.tolist() for array in arrays]
    return [
        Finding(
            "likely-to-fail",
            f"{class_names[c]!r} may be taken for {class_names[other]!r}: expected error "
            f"{risk:.2f} of the distance between their predicted features, worse than for "
            f"{beyond:.0%} of the seen classes, were they left out",
            float(risk),
            classes=(class_names[int(c)], class_names[int(other)]),
        )
        for c, risk, other, beyond in zip(*parts, strict=True)
        if beyond >= AT_RISK
    ]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) Euclidean distances of (A, D) and (B, D) rows."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
