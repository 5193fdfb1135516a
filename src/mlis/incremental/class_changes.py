"""Add classes to a trained recognizer, remove them, or rename them."""

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mlis.compute.memory import enough_memory
from mlis.compute.precision import own_modes
from mlis.data.dataset import DISPLAYED
from mlis.data.labels import normal, shorten, suggestion, warn_of_similar
from mlis.data.out_of_core.arrays import as_float32
from mlis.errors import DataError
from mlis.features.descriptors.visual_words import known_texts
from mlis.incremental.class_warnings import ADVICE, attracting, description_warnings
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.incremental.refit import refit
from mlis.model.heads import EnsembleHead, Head, LinearHead
from mlis.model.history import noted
from mlis.model.recognizer import Metadata, Recognizer, replace
from mlis.model.refiners import Refiner
from mlis.storage.atomic import check_unicode

logger: logging.Logger = logging.getLogger(__name__)


def log_warning(_: str, problem: str) -> None:
    """Log a possible problem of a class, as a warning."""
    logger.warning("%s", problem)


@own_modes()
def add_classes(
    recognizer: Recognizer,
    exemplars: ExemplarBuffer | None,
    names: Sequence[str],
    descriptors: Any,
    *,
    sentences: Mapping[str, Sequence[str]] | None = None,
    synthetic_per_class: int | None = None,
    note: str = "",
    warn: Callable[[str, str], None] = log_warning,
) -> tuple[Recognizer, ExemplarBuffer | None]:
    """A recognizer that also knows classes of which there is no image, and its exemplar buffer.

    Generator and encoder stay; stage 2 is solved again, on the exemplars and synthetic features. A
    head that makes classes from descriptors, as a Gaussian one does, needs neither exemplars nor
    training, and the scores of the other classes stay.

    Args:
        recognizer: is not modified.
        exemplars: its exemplar buffer; None for a head that needs none.
        names: n new names.
        descriptors: (n, Da), made as those of the training
            (:func:`mlis.features.descriptors.new_classes.describe_like`).
        sentences: of new classes by name, where they were described so: they are kept with the
            model, and looked at.
        synthetic_per_class: synthetic samples per unseen class; the training's number where absent.
        note: kept in the history.
        warn: is told of the name of a class, and of a possible problem: its description
            says little, is like another one's, or attracts images of other classes
            (:mod:`mlis.incremental.class_warnings`).

    Raises:
        DataError: a name is there already or given twice, a descriptor has another length, is zero
            or not finite, there is no exemplar buffer, the head is not linear, or synthetic samples
            are asked of a head that needs none.
    """
    kept = _needed(recognizer, exemplars, synthetic_per_class)
    names, vectors = checked_classes(recognizer, names, descriptors)
    said = sentences_of(names, sentences)
    for problem in description_warnings(recognizer, names, vectors, said):
        warn(*problem)
    known = recognizer.descriptors.numpy(force=True)
    vectors = vectors.astype(known.dtype)
    seen = np.append(recognizer.seen_mask.numpy(force=True), np.zeros(len(names), dtype=bool))
    every = np.concatenate([known, vectors])
    settings: dict[str, int] = {}
    if kept is None:
        head = recognizer.head.with_classes(torch.from_numpy(vectors))
    else:
        check_refittable(recognizer.head)
        wanted = kept.config.classification.synthetic_per_unseen
        count = wanted if synthetic_per_class is None else synthetic_per_class
        head, exemplars = refitted(recognizer, kept, every, seen, count)
        settings["synthetic_per_unseen"] = count
    metadata = with_texts(noted(recognizer, "add", list(names), **settings, note=note), said)
    changes = {"head": head, "seen_mask": seen, "descriptors": every, "metadata": metadata}
    grown = replace(recognizer, class_names=(*recognizer.class_names, *names), **changes)
    for name, _, found in attracting(grown, exemplars):
        if name in names:
            warn(name, f"{found}: it may attract images of other classes. {ADVICE}")
    return grown, exemplars


def sentences_of(
    names: Sequence[str], sentences: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """Those of the classes of these names, where there are some."""
    given = {normal(name): tuple(texts) for name, texts in (sentences or {}).items()}
    return {name: given[name] for name in names if given.get(name)}


def with_texts(metadata: Metadata, sentences: Mapping[str, Sequence[str]]) -> Metadata:
    """The metadata with the sentences of more classes, where those of the training are kept."""
    if "texts" not in (metadata.sources.get("descriptors") or {}):
        return metadata
    more = {name: list(texts) for name, texts in sentences.items()}
    return _with_all_texts(metadata, {**known_texts(metadata.sources), **more})


def _with_all_texts(metadata: Metadata, texts: Mapping[str, Sequence[str]]) -> Metadata:
    made = {**metadata.sources["descriptors"], "texts": dict(texts)}
    return dataclasses.replace(metadata, sources={**metadata.sources, "descriptors": made})


def _needed(
    recognizer: Recognizer, exemplars: ExemplarBuffer | None, synthetic_per_class: int | None
) -> ExemplarBuffer | None:
    """The buffer that adding classes needs; None for a head that needs none. Raises `DataError`."""
    head = recognizer.head
    if head.knows_by_description:
        if synthetic_per_class is not None:
            raise DataError(
                f"synthetic samples per class: expected none for a {head.kind} head, which needs "
                f"no samples, got {synthetic_per_class}. Leave the number out."
            )
        return None
    if exemplars is None:
        raise DataError(
            "cannot add classes: the model has no exemplar buffer (exemplars.safetensors). It was "
            "saved or trained without one, or trained when no class was unseen. Train it again, or "
            "copy the file beside it."
        )
    return exemplars


def check_refittable(head: Head) -> None:
    """Raise `DataError` for a head that can neither be solved again nor be updated."""
    parts = [one.head for one in head.members] if isinstance(head, EnsembleHead) else [head]
    for one in parts:
        if not isinstance(one, LinearHead) and not one.knows_by_description:
            raise DataError(
                f"cannot add classes: expected a linear or Gaussian head, got {one.kind!r}. Train "
                "a model with such a head, as the methods gaussian, ridge and mlis do."
            )


def refitted(
    recognizer: Recognizer,
    exemplars: ExemplarBuffer,
    descriptors: np.ndarray,
    seen: np.ndarray,
    synthetic_per_class: int,
    images: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[Head, ExemplarBuffer]:
    """The head for all classes, the new ones last, and the buffer with the head before.

    `images`, (n, Dx) scaled features and (n,) classes, update a Gaussian member; a linear head
    takes them from the exemplars.
    """
    settings = {"classification": {"synthetic_per_unseen": synthetic_per_class}}
    asked = dataclasses.replace(exemplars, config=exemplars.config.replace(settings))
    new = torch.from_numpy(descriptors[len(recognizer.class_names) :])

    def grown(refiner: Refiner, head: Head) -> Head:
        if head.knows_by_description:
            head = head.with_classes(new)
            return head if images is None else head.with_images(refiner(images[0]), images[1])
        assert isinstance(head, LinearHead)
        refine = copy.deepcopy(refiner).float()
        found = refit(asked, refine, descriptors, seen, head, recognizer.device)
        return found.to(head.weight.dtype)

    head = recognizer.head
    with enough_memory("adding classes", "Lower synthetic_per_class"):
        if isinstance(head, EnsembleHead):
            members = [one.with_head(grown(one.refiner, one.head)) for one in head.members]
            return EnsembleHead(members), dataclasses.replace(exemplars, previous_head=None)
        assert isinstance(head, LinearHead)
        # copies: parts of one tensor, as views of a larger one are, cannot be saved
        previous = head.weight.detach().cpu().clone(), head.bias.detach().cpu().clone()
        kept = dataclasses.replace(exemplars, previous_head=previous)
        return grown(recognizer.refiner, head), kept


def remove_classes(
    recognizer: Recognizer, exemplars: ExemplarBuffer | None, names: Sequence[str]
) -> tuple[Recognizer, ExemplarBuffer | None]:
    """A recognizer without these classes, and its exemplar buffer; other classes' scores stay.

    Where the latest change added exactly these classes, the scores before it are restored.

    Args:
        recognizer, exemplars: stay as they are.
        names: of the classes.

    Raises:
        DataError: a name that no class has, or fewer than two classes would be left.
    """
    gone = _found(recognizer, names)
    kept = np.setdiff1d(np.arange(len(recognizer.class_names)), gone)
    if len(kept) < 2:
        raise DataError(
            f"of {len(recognizer.class_names)} classes {len(kept)} would be left: keep at least 2"
        )
    rows = torch.from_numpy(kept).to(recognizer.device)
    restored = None if exemplars is None else _head_before(recognizer, exemplars, gone)
    names = [recognizer.class_names[i] for i in gone]
    left = {name: name for name in recognizer.class_names if name not in names}
    smaller = replace(
        recognizer,
        head=restored or recognizer.head.chosen(rows),
        class_names=tuple(left),
        seen_mask=recognizer.seen_mask[rows],
        descriptors=recognizer.descriptors[rows],
        metadata=_renamed(noted(recognizer, "remove", names), left),
    )
    return smaller, None if exemplars is None else exemplars.chosen(kept)


def rename_classes(recognizer: Recognizer, names: Mapping[str, str]) -> Recognizer:
    """A recognizer whose classes have new names, {old: new}; its exemplar buffer stays valid.

    Raises:
        DataError: a name that no class has, or two classes would have the same name.
    """
    _found(recognizer, list(names))
    new = check_names(list(names.values()), ())
    names = dict(zip(map(normal, names), new, strict=True))
    renamed = tuple(names.get(normal(name), name) for name in recognizer.class_names)
    twice = sorted({name for name in renamed if renamed.count(name) > 1})
    if twice:
        raise DataError(
            f"two classes would have the same name: {shorten(twice)}. Choose other names."
        )
    new_names = dict(zip(recognizer.class_names, renamed, strict=True))
    metadata = _renamed(noted(recognizer, "rename", dict(names)), new_names)
    return replace(recognizer, class_names=renamed, metadata=metadata)


def set_display_names(recognizer: Recognizer, names: Mapping[str, str]) -> Recognizer:
    """A recognizer with other display names, {class name: display name}; empty: the class name.

    Display names are what people read, on the page and in lists. Class names stay, and with them
    the keys of files and of the API.

    Raises:
        DataError: a name that no class has, or a display name that is not Unicode text.
    """
    _found(recognizer, list(names))
    for text in names.values():
        check_unicode(text, "display name")
    new = {normal(name): normal(text) for name, text in names.items()}
    shown = {name: text for name, text in {**recognizer.display_names, **new}.items() if text}
    metadata = noted(recognizer, "display", new)
    return replace(recognizer, metadata=_shown(metadata, shown))


def _renamed(metadata: Metadata, names: Mapping[str, str]) -> Metadata:
    """Display names and sentences under the new names, {old: new}, of these classes alone."""
    shown, texts = metadata.sources.get(DISPLAYED) or {}, known_texts(metadata.sources)
    metadata = _shown(metadata, {names[old]: text for old, text in shown.items() if old in names})
    if not texts:
        return metadata
    return _with_all_texts(metadata, {names[n]: said for n, said in texts.items() if n in names})


def _shown(metadata: Metadata, names: Mapping[str, str]) -> Metadata:
    rest = {name: value for name, value in metadata.sources.items() if name != DISPLAYED}
    sources = {**rest, DISPLAYED: dict(names)} if names else rest
    return dataclasses.replace(metadata, sources=sources)


def _head_before(
    recognizer: Recognizer, exemplars: ExemplarBuffer, gone: np.ndarray
) -> LinearHead | None:
    """The head before the latest change, if that added exactly the classes `gone`."""
    names = [recognizer.class_names[i] for i in gone]
    history = recognizer.metadata.history
    latest = history[-1] if history else {}
    if exemplars.previous_head is None or latest.get("action") != "add":
        return None
    if sorted(latest.get("classes") or ()) != sorted(names):
        return None
    weight, bias = (part.to(recognizer.device) for part in exemplars.previous_head)
    fits = len(weight) == len(recognizer.class_names) - len(gone)
    return LinearHead(weight, bias) if fits else None


def checked_classes(
    recognizer: Recognizer, names: Sequence[str], descriptors: Any
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and (n, Da) float32 descriptors that suit the model."""
    names = check_names([names] if isinstance(names, str) else names, recognizer.class_names)
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
    return names, vectors


def check_names(names: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    """Names in normal form. Raises `DataError` for one that is empty, given twice or `there`."""
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


def _found(recognizer: Recognizer, names: Sequence[str]) -> np.ndarray:
    """Indices of classes. Raises `DataError` for a name that no class has."""
    names = check_names([names] if isinstance(names, str) else list(names), ())
    place = {normal(name): i for i, name in enumerate(recognizer.class_names)}
    for name in names:
        if name not in place:
            hint = suggestion(name, recognizer.class_names)
            raise DataError(f"the model has no class {name!r}.{hint}")
    return np.array(sorted(place[name] for name in names))
