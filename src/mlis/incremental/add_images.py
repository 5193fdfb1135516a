"""Add images to classes of a trained recognizer, or classes of which there are a few images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mlis.compute.precision import own_modes
from mlis.data.labels import almost, normal, shorten, warn_of_similar
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError
from mlis.incremental.class_changes import (
    check_names,
    check_refittable,
    checked_classes,
    log_warning,
    refitted,
    sentences_of,
    with_texts,
)
from mlis.incremental.class_warnings import description_warnings
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.model.feature_range import FeatureRange
from mlis.model.heads import Head
from mlis.model.history import noted
from mlis.model.recognizer import Recognizer, replace

_MOST_EXCESS = 1.0
"""Mean excess of an image's features (`FeatureRange`) that is a mistake; at most 0.1 was measured.

An exemplar buffer whose range grew to hold it would no longer tell its other rows apart.
"""


@own_modes()
def add_images(
    recognizer: Recognizer,
    exemplars: ExemplarBuffer | None,
    images: Mapping[str, Any],
    descriptors: Mapping[str, Any] | None = None,
    *,
    sentences: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
    warn: Callable[[str, str], None] = log_warning,
) -> tuple[Recognizer, ExemplarBuffer | None]:
    """A recognizer that has also learnt from these images, and its exemplar buffer.

    What the descriptor predicts of a class and what its images show are weighed by their
    uncertainties. A Gaussian head does so in closed form, and the scores of other classes stay. For
    a linear head the synthetic features of an unseen class are shifted to what is then expected of
    it (:mod:`mlis.incremental.image_posterior`), the images join the exemplars, and stage 2 is
    solved again. Preprocessing, generator, encoder, calibration constant, and which classes are
    seen stay.

    Args:
        recognizer: is not modified.
        exemplars: its exemplar buffer; None for a Gaussian head, which needs none.
        images: features (n, Dx), n ≥ 1, by class, as the recognizer takes them. Classes that it
            does not know are added.
        descriptors: (Da,) of added classes, made as those of the training; a class without one
            is known by its images alone.
        sentences: of added classes by name, as :func:`add_classes` takes them.
        note: kept in the history.
        warn: is told of the name of a class, and of a possible problem: of its description, or
            a new name that is spelt almost like a known one.

    Raises:
        DataError: there are no images, features have another length, are not finite or far outside
            the training's range, a descriptor is not of an added class or does not fit, there is no
            exemplar buffer, or the head is neither linear nor Gaussian.
    """
    check_able(recognizer.head, exemplars)
    features = _checked_images(recognizer, images)
    place = {name: i for i, name in enumerate(recognizer.class_names)}
    new = [name for name in features if name not in place]
    vectors = _vectors(recognizer, new, descriptors or {})
    said = sentences_of(new, sentences)
    for problem in _warnings_of(recognizer, new, vectors, said):
        warn(*problem)
    place |= {name: i for i, name in enumerate(new, len(place))}
    labels = np.repeat([place[name] for name in features], [len(x) for x in features.values()])
    every = np.concatenate([recognizer.descriptors.numpy(force=True), vectors])
    seen = np.append(recognizer.seen_mask.numpy(force=True), np.zeros(len(new), dtype=bool))
    like = next(recognizer.head.parameters())
    scaled = recognizer.preprocessing(
        torch.from_numpy(np.concatenate(list(features.values()))).to(like)
    )
    rows = scaled, torch.from_numpy(labels).to(like.device)
    if exemplars is not None:
        exemplars = exemplars.with_images(*rows)
    if recognizer.head.knows_by_description:
        head = recognizer.head.with_classes(torch.from_numpy(vectors))
        head = head.with_images(recognizer.refiner(rows[0]), rows[1])
    else:
        assert exemplars is not None
        count = exemplars.config.classification.synthetic_per_unseen
        head, exemplars = refitted(recognizer, exemplars, every, seen, count, rows)
    counts = {name: len(x) for name, x in features.items()}
    metadata = noted(recognizer, "add images", list(counts), images=counts, added=new, note=note)
    metadata = with_texts(metadata, said)
    changes = {"head": head, "seen_mask": seen, "descriptors": every, "metadata": metadata}
    return replace(recognizer, class_names=(*recognizer.class_names, *new), **changes), exemplars


def check_able(head: Head, exemplars: ExemplarBuffer | None) -> None:
    """Raise `DataError` for a model that cannot learn from images."""
    if head.knows_by_description:
        return
    check_refittable(head)
    if exemplars is None:
        raise DataError(
            "cannot add images: the model has no exemplar buffer (exemplars.safetensors). It was "
            "saved or trained without one, or trained when no class was unseen. Train it again, "
            "copy the file beside it, or use the method gaussian, which needs none."
        )


def _checked_images(recognizer: Recognizer, images: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """(n, Dx) float32 features by class name."""
    names = check_names(list(images), ())
    features: dict[str, np.ndarray] = {}
    for name, values in zip(names, images.values(), strict=True):
        x = as_float32(values, f"features of {name!r}")
        if x.ndim != 2 or x.shape[1] != recognizer.num_features or not len(x):
            raise DataError(
                f"features of {name!r}: expected shape (n, {recognizer.num_features}) with n ≥ 1, "
                f"as in training, got {x.shape}. Give features of the model's backbone."
            )
        if not (finite := np.isfinite(x).all(axis=1)).all():
            raise DataError(
                f"features of {name!r}: row {int(finite.argmin())}: expected finite numbers, got "
                "NaN or infinity. Leave that row out."
            )
        _check_range(recognizer, name, x)
        features[name] = x
    return features


def _check_range(recognizer: Recognizer, name: str, x: np.ndarray) -> None:
    """Raise `DataError` for a row that cannot be of the model's backbone."""
    rows = torch.from_numpy(x).double()
    if (bounds := FeatureRange.of(recognizer.preprocessing, rows)) is None:
        return
    excess = bounds.excess(rows).mean(1)
    if float(excess.max()) > _MOST_EXCESS:
        raise DataError(
            f"features of {name!r}: row {int(excess.argmax())}: expected values as in training, "
            f"got some outside its range by {float(excess.max()):.3g} times that on average. "
            "Compute them as in training (image model, normalisation, units)."
        )


def _warnings_of(
    recognizer: Recognizer,
    new: Sequence[str],
    vectors: np.ndarray,
    sentences: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, str]]:
    """Possible problems of added classes: of their names and descriptions."""
    for name in new:
        if known := almost(name, recognizer.class_names):
            yield (
                name,
                f"{name!r} is a new class, spelt almost like {known!r}. If that was meant, rename "
                "the folder or label, and add its images again.",
            )
    described = [i for i in range(len(new)) if vectors[i].any()]
    names = [new[i] for i in described]
    yield from description_warnings(recognizer, names, vectors[described], sentences)


def _vectors(recognizer: Recognizer, new: list[str], descriptors: Mapping[str, Any]) -> np.ndarray:
    """Descriptors (n, Da) of added classes; zeros for those without."""
    given = {normal(name): vector for name, vector in descriptors.items()}
    if wrong := [name for name in given if name not in new]:
        raise DataError(
            f"descriptors: expected those of added classes alone, got {shorten(wrong)}. Leave "
            "them out: the model knows the class, or there are no images of it."
        )
    known = recognizer.descriptors.numpy(force=True)
    vectors = np.zeros((len(new), known.shape[1]), dtype=known.dtype)
    if given:
        names, found = checked_classes(recognizer, list(given), np.stack(list(given.values())))
        vectors[[new.index(name) for name in names]] = found
    elif new:
        warn_of_similar((*recognizer.class_names, *new), "classes")
    return vectors
