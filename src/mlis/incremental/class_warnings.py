"""Warnings of possible problems of classes that were added by a description."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress

import numpy as np
import torch

from mlis.compute.precision import own_modes
from mlis.data.descriptor_geometry import distinctness, unit_rows
from mlis.features.descriptors.visual_words import known_texts, says_little
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.model.recognizer import Recognizer

ClassWarnings = Iterator[tuple[str, str]]
"""Names of classes, each with a possible problem and what to do."""

ADVICE = "Describe what sets it apart."
ATTRACTS = 3.0
"""Times an even share of the training images from which a class attracts too many."""
_IDENTICAL = 0.9999  # cosine above which two descriptors are treated as identical
_ALIKE = 0.95  # cosine above which two centred descriptors are almost alike
_ENOUGH = 10  # known classes that suffice to judge a new descriptor beside them
_ROWS = 4096  # most exemplars that are looked at


def description_warnings(
    recognizer: Recognizer,
    names: Sequence[str],
    vectors: np.ndarray,
    sentences: Mapping[str, Sequence[str]],
) -> ClassWarnings:
    """New classes whose description tells little, or is like another one, or like all of them.

    Args:
        recognizer: without the new classes.
        names: n new classes.
        vectors: (n, Da) their descriptors.
        sentences: of new classes by name, where there are some.
    """
    yield from _vector_warnings(recognizer, names, vectors)
    yield from _sentence_warnings(recognizer, sentences)


def _vector_warnings(
    recognizer: Recognizer, names: Sequence[str], vectors: np.ndarray
) -> ClassWarnings:
    known = recognizer.descriptors.numpy(force=True)
    described = np.any(known, axis=1)
    known = known[described]
    unit = unit_rows(np.concatenate([known, vectors]))
    every, first = (*compress(recognizer.class_names, described.tolist()), *names), len(known)
    mean = unit[:first].mean(axis=0)
    enough = first >= _ENOUGH
    centred = unit_rows(unit - mean) if enough else np.zeros_like(unit)
    least = distinctness(known).min() if enough else -np.inf
    cosine = unit @ unit_rows(mean[None])[0]
    for i, name in enumerate(names, first):
        same, similar = unit[:i] @ unit[i], centred[:i] @ centred[i]
        if same.max() > _IDENTICAL:
            other = every[int(same.argmax())]
            yield (
                name,
                f"descriptors of {name!r} and {other!r} are nearly identical (cosine > "
                f"{_IDENTICAL:g}): the model cannot separate them. Describe what sets them apart.",
            )
        elif similar.max() > _ALIKE:
            other = every[int(similar.argmax())]
            yield (
                name,
                f"{name!r} and {other!r} are described alike (cosine {similar.max():.3f} after "
                "centring): the model may confuse them. Describe what sets them apart.",
            )
        if 1 - cosine[i] < least:
            yield (
                name,
                f"the descriptor of {name!r} is nearer to the mean of all descriptors (cosine "
                f"{cosine[i]:.3f}) than that of any known class: it says little. Describe what "
                "sets the class apart.",
            )


def _sentence_warnings(
    recognizer: Recognizer, sentences: Mapping[str, Sequence[str]]
) -> ClassWarnings:
    """Nothing is said where the training's are mostly like that (names, other languages)."""
    known = known_texts(recognizer.metadata.sources)
    if 2 * sum(map(says_little, known.values())) > len(known):
        return
    for name, texts in sentences.items():
        if texts and says_little(texts):
            yield (
                name,
                f"the description of {name!r}, {' '.join(texts)[:60]!r}, hardly describes anything "
                "visible. Describe colours, shapes, patterns, sizes and parts.",
            )


@own_modes()
@torch.no_grad()
def attraction(recognizer: Recognizer, exemplars: ExemplarBuffer | None) -> np.ndarray:
    """Share of seen classes' images for which each class is the best of those without images.

    A class that is the best one for far more than an even share of them is a hub, to which images
    of other classes are drawn (Radovanović et al., "Hubs in space", JMLR 2010). Images are the
    exemplars of seen classes, or the means of the seen classes of a Gaussian head.

    Returns:
        (C,) from 0 to 1, sum 1; NaN for seen classes and others that have exemplars, and for all
        where no seen class has images.
    """
    shares = np.full(len(recognizer.class_names), np.nan)
    others = ~recognizer.seen_mask
    if exemplars is not None:
        others[exemplars.labels.to(others.device)] = False  # unseen ones that learnt from images
    scores = _scores_of_training(recognizer, exemplars)
    if scores is not None and bool(others.any()):
        best = scores[:, others].argmax(dim=1)
        counts = torch.bincount(best, minlength=int(others.sum()))
        shares[others.numpy(force=True)] = (counts / len(best)).numpy(force=True)
    return shares


def _scores_of_training(
    recognizer: Recognizer, exemplars: ExemplarBuffer | None
) -> torch.Tensor | None:
    """(n, C) of images of seen classes, uncalibrated; None where there are none."""
    seen = recognizer.seen_mask
    if not bool(seen.any()):
        return None
    if exemplars is not None:
        every = -(-len(exemplars.rows) // _ROWS)
        like = next(recognizer.head.parameters())
        parts = [
            recognizer.head(recognizer.refiner(x[seen[labels]][::every].to(like)))
            for x, labels in exemplars.scaled(recognizer.device)
        ]
        scores = torch.cat(parts)
        return scores if len(scores) else None
    part = recognizer.gaussian_part()
    if part is None:
        return None
    means, _ = part[1].moments()
    return part[1].of_coordinates(means[seen].to(part[1].weight))


def attracting(
    recognizer: Recognizer, exemplars: ExemplarBuffer | None
) -> Iterator[tuple[str, float, str]]:
    """Classes without training images that attract too many of them: name, share, and what it is.

    Fewer than four such classes are not compared.
    """
    shares = attraction(recognizer, exemplars)
    count = int(np.isfinite(shares).sum())
    for i in np.flatnonzero((shares * count >= ATTRACTS) & (count > 3)).tolist():
        name, share = recognizer.class_names[i], float(shares[i])
        yield (
            name,
            share,
            f"{name!r} is the likeliest of the {count} classes without training images for "
            f"{share:.0%} of the training images (an even share is {1 / count:.0%})",
        )
