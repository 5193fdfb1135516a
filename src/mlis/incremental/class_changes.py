"""Classes that are added to a trained recognizer, removed from it, or renamed."""

import dataclasses
import datetime
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import mlis
from mlis.compute.memory import enough_memory
from mlis.compute.precision import own_modes
from mlis.data.labels import normal, shorten, suggestion, warn_of_similar
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError
from mlis.incremental.exemplar_buffer import Growth, refit
from mlis.model.classification import LinearClassifier
from mlis.storage.atomic import check_unicode

if TYPE_CHECKING:
    from mlis.model.recognizer import Recognizer

logger: logging.Logger = logging.getLogger(__name__)

_ALIKE = 0.9999  # cosine from which two descriptors are as good as the same


@own_modes()
def add_classes(
    recognizer: "Recognizer",
    names: Sequence[str],
    descriptors: Any,
    *,
    synthetic_per_class: int | None = None,
    note: str = "",
) -> "Recognizer":
    """What `Recognizer.add_classes` does."""
    names, vectors = _checked(recognizer, names, descriptors)
    growth = _growth_of(recognizer, synthetic_per_class)
    all_vectors = np.concatenate([recognizer.descriptors, vectors])
    seen = np.concatenate([recognizer.seen_mask, np.zeros(len(names), dtype=bool)])
    with enough_memory("adding classes", "Lower synthetic_per_class"):
        classifier = refit(
            growth, _refine(recognizer), all_vectors, seen, recognizer.classifier, recognizer.device
        )
    dtype = recognizer.classifier.weight.dtype
    count = growth.config.classification.synthetic_per_unseen
    return dataclasses.replace(
        recognizer,
        classifier=LinearClassifier(classifier.weight.to(dtype), classifier.bias.to(dtype)),
        class_names=(*recognizer.class_names, *names),
        seen_mask=seen,
        descriptors=all_vectors,
        growth=_remembering(recognizer),
        history=_noted(recognizer, "add", list(names), synthetic_per_unseen=count, note=note),
    )


def remove_classes(recognizer: "Recognizer", names: Sequence[str]) -> "Recognizer":
    """What `Recognizer.remove_classes` does."""
    gone = _found(recognizer, names)
    kept = np.setdiff1d(np.arange(len(recognizer.class_names)), gone)
    if len(kept) < 2:
        raise DataError(
            f"of {len(recognizer.class_names)} classes {len(kept)} would be left: keep at least 2"
        )
    rows = torch.from_numpy(kept).to(recognizer.device)
    head, growth = recognizer.classifier, recognizer.growth
    restored = _before_addition(recognizer, gone)
    return dataclasses.replace(
        recognizer,
        classifier=restored or LinearClassifier(head.weight[rows], head.bias[rows]),
        class_names=tuple(recognizer.class_names[i] for i in kept),
        seen_mask=recognizer.seen_mask[kept],
        descriptors=recognizer.descriptors[kept],
        growth=None if growth is None else growth.chosen(kept),
        history=_noted(recognizer, "remove", [recognizer.class_names[i] for i in gone]),
    )


def rename_classes(recognizer: "Recognizer", names: Mapping[str, str]) -> "Recognizer":
    """What `Recognizer.rename_classes` does."""
    _found(recognizer, list(names))
    new = _check_names(list(names.values()), ())
    names = dict(zip(map(normal, names), new, strict=True))
    renamed = tuple(names.get(normal(name), name) for name in recognizer.class_names)
    twice = sorted({name for name in renamed if renamed.count(name) > 1})
    if twice:
        raise DataError(f"two classes would be named alike: {shorten(twice)}. Choose other names.")
    return dataclasses.replace(
        recognizer,
        class_names=renamed,
        history=_noted(recognizer, "rename", dict(names)),
    )


def _refine(recognizer: "Recognizer"):
    """From scaled features to refined ones, in float32, as `refit` wants them."""
    weight, bias = recognizer.encoder_weight, recognizer.encoder_bias
    if weight is None or bias is None:
        return lambda x: x
    weight, bias = weight.float(), bias.float()

    def refine(x: Tensor) -> Tensor:
        return torch.addmm(bias, x, weight.T).relu_()

    return refine


def _remembering(recognizer: "Recognizer") -> Growth | None:
    """The growth, with the present classifier to go back to."""
    head, growth = recognizer.classifier, recognizer.growth
    # a copy: parts of one tensor, as views of a larger one are, cannot be saved
    before = head.weight.detach().cpu().clone(), head.bias.detach().cpu().clone()
    return None if growth is None else dataclasses.replace(growth, before=before)


def _before_addition(recognizer: "Recognizer", gone: np.ndarray) -> LinearClassifier | None:
    """The classifier before the latest change, if that added exactly the classes `gone`."""
    growth, names = recognizer.growth, [recognizer.class_names[i] for i in gone]
    latest = recognizer.history[-1] if recognizer.history else {}
    if growth is None or growth.before is None or latest.get("action") != "add":
        return None
    if sorted(latest.get("classes") or ()) != sorted(names):
        return None
    weight, bias = (part.to(recognizer.device) for part in growth.before)
    fits = weight.shape == (
        len(recognizer.class_names) - len(gone),
        recognizer.classifier.weight.shape[1],
    )
    return LinearClassifier(weight, bias) if fits else None


def _growth_of(recognizer: "Recognizer", synthetic_per_class: int | None) -> Growth:
    growth = recognizer.growth
    if growth is None:
        raise DataError(
            "this model holds nothing to add classes with: it was trained with --no-growth, "
            "loaded without it, trained when no class was unseen, or saved by an older mlis. "
            "Train it again, or copy growth.safetensors beside it"
        )
    if synthetic_per_class is None:
        return growth
    settings = {"classification": {"synthetic_per_unseen": synthetic_per_class}}
    return dataclasses.replace(growth, config=growth.config.replace(settings))


def _checked(
    recognizer: "Recognizer", names: Sequence[str], descriptors: Any
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and (n, Da) float32 descriptors that suit the model."""
    names = _check_names([names] if isinstance(names, str) else names, recognizer.class_names)
    vectors = as_float32(descriptors, "descriptors")
    expected = (len(names), recognizer.descriptors.shape[1])
    if vectors.shape != expected:
        raise DataError(
            f"descriptors of {len(names)} added classes must have shape {expected}, as those of "
            f"the training have {expected[1]} numbers, but got {vectors.shape}"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    for name, length in zip(names, lengths, strict=True):
        if not np.isfinite(length) or length == 0:
            what = "is all zeros" if length == 0 else "holds NaN or infinity"
            raise DataError(f"the descriptor of {name!r} {what}: describe it")
    warn_of_similar((*recognizer.class_names, *names), "classes")
    _warn_of_alike(recognizer, names, vectors)
    return names, vectors


def _check_names(names: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise DataError("no class is named: name at least one")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"a class's name must be a text that is not empty, but got {name!r}")
        check_unicode(name, "class name")
    names = tuple(normal(name) for name in names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"classes are named twice: {shorten(twice)}. Name each once.")
    known = [name for name in names if name in set(there)]
    if known:
        raise DataError(
            f"the model has classes of these names already: {shorten(known)}. Leave them out, or "
            "remove or rename the present ones first."
        )
    return names


def _warn_of_alike(recognizer: "Recognizer", names: Sequence[str], vectors: np.ndarray) -> None:
    everything = np.concatenate([recognizer.descriptors, vectors])
    lengths = np.linalg.norm(everything, axis=1, keepdims=True)
    unit = everything / np.where(lengths > 0, lengths, 1)
    first = len(recognizer.descriptors)
    for i, name in enumerate(names):
        near = unit[: first + i] @ unit[first + i]
        if near.max() > _ALIKE:
            other = (*recognizer.class_names, *names)[int(near.argmax())]
            logger.warning("%r is described as %r is: nothing tells them apart", name, other)


def _found(recognizer: "Recognizer", names: Sequence[str]) -> np.ndarray:
    """Indices of classes. Raises `DataError` for a name that no class has."""
    names = _check_names([names] if isinstance(names, str) else list(names), ())
    place = {normal(name): i for i, name in enumerate(recognizer.class_names)}
    for name in names:
        if name not in place:
            hint = suggestion(name, recognizer.class_names)
            raise DataError(f"the model has no class {name!r}.{hint}")
    return np.array(sorted(place[name] for name in names))


def _noted(
    recognizer: "Recognizer", action: str, classes: Any, **settings: Any
) -> tuple[Mapping[str, Any], ...]:
    """The history with one more entry."""
    entry = {
        "action": action,
        "classes": classes,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mlis": mlis.__version__,
        **{name: value for name, value in settings.items() if value != ""},
    }
    return (*recognizer.history, entry)
