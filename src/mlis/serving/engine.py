"""The model as the server uses it: predictions and changes of its classes.

A recognizer is immutable: a change makes another one, which replaces it between two batches. So
predictions continue while a class is added.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from mlis.errors import DataError, MlisError, SettingsError
from mlis.explanation import (
    Examples,
    Explainer,
    Explanation,
    SentenceEncoder,
    can_explain,
)
from mlis.features.decode import ImageError, decode
from mlis.features.descriptors.visual_words import known_texts
from mlis.incremental import (
    ExemplarBuffer,
    add_classes,
    add_images,
    remove_classes,
    rename_classes,
)
from mlis.incremental.add_images import check_able
from mlis.model.calibrate import constant_of
from mlis.model.recognizer import Recognizer, probabilities_of
from mlis.model.rejection import check_reject
from mlis.serving.descriptions import Describer, as_text
from mlis.serving.exchange import Answer, Catalogue, Change, ConflictError, NoSuchClassError, Query

if TYPE_CHECKING:
    from mlis.features.backbones.base import Backbone

logger: logging.Logger = logging.getLogger(__name__)

NOT_FINITE = "its features are not finite, or so far from the training's that its scores are not"


class Engine:
    """A recognizer, with the backbone of its features where that is known.

    Any thread may call `prepare`; `answer` is for one thread, and `change` for one, perhaps
    another.

    Args:
        recognizer: the model.
        backbone: its image model, or None: then only features are accepted.
        describer: makes descriptors of new classes, or None: then none can be described.
        descriptions: sentences of classes by name, to show; else those that the model keeps.
        exemplars: the recognizer's exemplar buffer, which `describer` needs beside it, unless the
            head makes classes from descriptors.
        reject: rate at which images of known classes may be turned away where a request does not
            say; 0: none.
        examples: training images that explanations name; else the exemplar buffer's, unnamed.
        encoder: of sentences, which explanations weigh; None: they do not.

    Raises:
        DataError: images are to be turned away, and the model has no rejection quantiles; or
            nothing can be explained with `examples`.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        backbone: "Backbone | None" = None,
        describer: Describer | None = None,
        descriptions: Mapping[str, str] | None = None,
        exemplars: ExemplarBuffer | None = None,
        reject: float = 0.0,
        examples: Examples | None = None,
        encoder: SentenceEncoder | None = None,
    ):
        check_reject(recognizer, reject or None)
        self.reject: float = reject
        self.backbone: Backbone | None = backbone
        self.describer: Describer | None = describer
        self.num_features: int = recognizer.num_features
        known = Catalogue(
            recognizer.class_names,
            recognizer.seen_mask.numpy(force=True),
            descriptions=dict(descriptions or as_text(known_texts(recognizer.metadata.sources))),
            display_names=recognizer.display_names,
        )
        self._served = (recognizer, exemplars, known, examples)
        self._encoder: SentenceEncoder | None = encoder
        self._explainer: Explainer | None = None
        if examples is not None:  # whatever is wrong with them is told now, not to who asks
            self._explainer_of(recognizer, examples)

    @property
    def catalogue(self) -> Catalogue:
        """The current classes."""
        return self._served[2]

    @property
    def recognizer(self) -> Recognizer:
        """The current model."""
        return self._served[0]

    def constant(self, calibration: float | str) -> float:
        """The constant of a request's choice. Raises `ConflictError` without a curve."""
        try:
            return constant_of(self._served[0], calibration)
        except SettingsError as error:
            raise ConflictError(str(error)) from None

    def rejects(self, rate: float | None) -> float:
        """The level below which a request of this rate gets "unknown"; without one the engine's.

        Raises:
            ConflictError: the model cannot.
        """
        try:
            check_reject(self._served[0], rate)
        except DataError as error:
            raise ConflictError(str(error)) from None
        return self.reject if rate is None else rate

    @property
    def can_explain(self) -> bool:
        """Whether the model has what explanations need."""
        recognizer, exemplars, _, examples = self._served
        return can_explain(recognizer, examples or exemplars)

    def check_explain(self, asked: bool) -> None:
        """Raise `ConflictError` where an explanation is asked for and cannot be given."""
        if asked and not self.can_explain:
            raise ConflictError(
                "cannot explain: the model has no Gaussian classifier, and no exemplar buffer is "
                "loaded (it is where classes may be changed), nor --training"
            )

    @property
    def can_learn(self) -> bool:
        """Whether images may be added to classes."""
        try:
            self.check_learn()
        except ConflictError:
            return False
        return True

    def check_learn(self) -> None:
        """Raise `ConflictError` where the model cannot learn from images."""
        try:
            check_able(self._served[0].head, self._served[1])
        except DataError as error:
            raise ConflictError(str(error)) from None

    def prepare(self, data: bytes, max_pixels: int) -> np.ndarray:
        """The backbone's input for the bytes of a file. Raises `ImageError`."""
        assert self.backbone is not None
        if not data:
            raise ImageError("empty file: zero bytes")
        image = decode(data, self.backbone.enough, max_pixels)
        try:
            return self.backbone.prepare(image)
        except MemoryError:
            raise ImageError("not enough memory for it") from None
        except Exception as error:  # processors raise anything
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ImageError(f"cannot be prepared: {reason}") from error

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """One answer per query, independent of the others."""
        features = np.full((len(queries), self.num_features), np.nan, dtype=np.float32)
        for rows in self._alike(queries):
            values = [queries[i].values for i in rows]
            if queries[rows[0]].is_image:
                assert self.backbone is not None
                features[rows] = self.backbone(values)
            else:
                features[rows] = values
        recognizer, exemplars, catalogue, examples = self._served
        finite = np.asarray(np.isfinite(features).all(axis=1))
        scores = np.full((len(queries), len(catalogue.names)), np.nan)
        if finite.any():
            scores[finite] = _scores(recognizer, features[finite])
        own = recognizer.calibration
        shift = [0.0 if one.constant is None else own - one.constant for one in queries]
        scores += np.outer(shift, catalogue.seen)
        known = np.asarray(np.isfinite(scores).all(axis=1))
        levels = np.ones(len(queries))
        if known.any() and recognizer.metadata.rejection:
            levels[known] = recognizer.known_levels(features[known])
        with np.errstate(invalid="ignore"):
            probabilities = probabilities_of(scores, recognizer.temperature)
        asked = [i for i, one in enumerate(queries) if one.explain and known[i]]
        why: dict[int, Explanation] = {}
        if asked and can_explain(recognizer, examples or exemplars):
            explainer = self._explainer_of(recognizer, examples or exemplars)
            why = dict(zip(asked, explainer(features[asked], scores[asked]), strict=True))
        return [
            Answer(catalogue, probabilities[i], "", float(levels[i]), why.get(i), features[i])
            if known[i]
            else Answer(catalogue, None, NOT_FINITE)
            for i in range(len(queries))
        ]

    def _explainer_of(
        self, recognizer: Recognizer, images: ExemplarBuffer | Examples | None
    ) -> Explainer:
        """Made at the first request after a change of the classes."""
        if self._explainer is None or self._explainer.recognizer is not recognizer:
            self._explainer = Explainer(recognizer, images, self._encoder)
        return self._explainer

    def change(
        self, changes: Sequence[Change], max_classes: int = 1_000_000
    ) -> list[MlisError | None]:
        """Change the classes; the outcome of each change is None, or why it was not made.

        Classes that are added one after the other are added together: the classifier is trained
        once for all of them. So are images.
        """
        outcomes: list[MlisError | None] = []
        for action, group in groupby(changes, key=lambda change: change.action):
            if action == "add":
                outcomes += self._add(list(group), max_classes)
            elif action == "images":
                outcomes += self._learn(list(group), max_classes)
            else:
                outcomes += [self._remove_or_rename(change) for change in group]
        return outcomes

    def _add(self, changes: list[Change], max_classes: int) -> list[MlisError | None]:
        recognizer, exemplars, known, examples = self._served
        outcomes: list[MlisError | None] = []
        vectors: dict[str, np.ndarray] = {}
        for change in changes:
            try:
                self._check_addition(change.name, {*known.names, *vectors}, max_classes)
                assert self.describer is not None
                vectors[change.name] = self.describer.vector(change.name, change.description)
                outcomes.append(None)
            except MlisError as error:
                outcomes.append(error)
        made = [change for change, failed in zip(changes, outcomes, strict=True) if failed is None]
        if not made:
            return outcomes
        log = _WarningLog()
        try:
            new = list(vectors), np.stack(list(vectors.values()))
            words = _sentences_by_name(made)
            options = {"sentences": words, "note": "mlis serve", "warn": log.add}
            grown = add_classes(recognizer, exemplars, *new, **options)
        except MlisError as error:
            if len(changes) == 1:
                return [error]
            return [self._add([change], max_classes)[0] for change in changes]
        if abandoned := [change.name for change in made if change.abandoned.is_set()]:
            if len(abandoned) == len(made):
                return outcomes
            grown = remove_classes(*grown, abandoned)
        kept = [change for change in made if change.name not in abandoned]
        said = as_text(_sentences_by_name(kept))
        log.attach(kept)
        added = known.added | {change.name for change in kept}
        self._publish(*grown, added, {**known.descriptions, **said}, examples)
        return outcomes

    def _learn(self, changes: list[Change], max_classes: int) -> list[MlisError | None]:
        """As `_add`, without images of abandoned requests: what is learnt cannot be undone."""
        recognizer, exemplars, known, examples = self._served
        outcomes: list[MlisError | None] = []
        taken: list[Change] = []
        images: dict[str, list[np.ndarray]] = {}
        vectors: dict[str, np.ndarray] = {}
        for change in changes:
            try:
                if not change.abandoned.is_set():
                    assert change.features is not None
                    names = {*known.names, *images}
                    vectors |= self._vector_with_images(change, names, max_classes)
                    images.setdefault(change.name, []).append(change.features)
                    taken.append(change)
                outcomes.append(None)
            except MlisError as error:
                outcomes.append(error)
        if not taken:
            return outcomes
        words = _sentences_by_name(taken)
        log = _WarningLog()
        try:
            rows = {name: np.concatenate(parts) for name, parts in images.items()}
            options = {"sentences": words, "note": "mlis serve", "warn": log.add}
            grown = add_images(recognizer, exemplars, rows, vectors, **options)
        except MlisError as error:
            if len(changes) == 1:
                return [error]
            return [self._learn([change], max_classes)[0] for change in changes]
        if any(change.abandoned.is_set() for change in taken):
            return self._learn(changes, max_classes)
        log.attach(taken)
        said = as_text(words)
        added = known.added | (images.keys() - set(known.names))
        self._publish(*grown, added, {**known.descriptions, **said}, examples)
        return outcomes

    def _vector_with_images(
        self, change: Change, names: set[str], max_classes: int
    ) -> dict[str, np.ndarray]:
        """The descriptor of a class that is added with its images, by name, if it is described."""
        described = bool(change.description.kinds)
        if change.name in names:
            if described:
                raise ConflictError(
                    f"description: a class {change.name!r} exists already. Leave it out, or choose "
                    "another name"
                )
            return {}
        _check_count(change.name, names, max_classes)
        if not described:
            return {}
        if self.describer is None:
            raise DataError(
                "description: expected none, as descriptors of new classes cannot be made here. "
                "Send images alone"
            )
        return {change.name: self.describer.vector(change.name, change.description)}

    def _check_addition(self, name: str, names: set[str], max_classes: int) -> None:
        if self.describer is None:
            raise DataError("cannot add classes: the model has no exemplar buffer. Train it again")
        if name in names:
            raise ConflictError(f"a class {name!r} exists already. Choose another name")
        _check_count(name, names, max_classes)

    def _remove_or_rename(self, change: Change) -> MlisError | None:
        recognizer, exemplars, known, examples = self._served
        old, new = change.name, change.new_name
        said = {name: text for name, text in known.descriptions.items() if name != old}
        added = known.added - {old}
        try:
            if old not in known.names:
                raise NoSuchClassError(f"no such class: {old[:200]!r}. GET /classes lists all")
            if change.action == "remove":
                changed = remove_classes(recognizer, exemplars, [old])
                examples = examples and examples.without(known.names.index(old))
                if not can_explain(changed[0], examples):
                    examples = None  # the exemplar buffer's are left
            elif new in known.names:
                raise ConflictError(f"a class {new!r} exists already. Choose another name")
            else:
                changed = rename_classes(recognizer, {old: new}), exemplars
                said |= {new: known.descriptions[old]} if old in known.descriptions else {}
                added |= {new} if old in known.added else frozenset()
        except MlisError as error:
            return error
        if not change.abandoned.is_set():
            self._publish(*changed, added, said, examples)
        return None

    def _publish(
        self,
        recognizer: Recognizer,
        exemplars: ExemplarBuffer | None,
        added: frozenset[str],
        descriptions: Mapping[str, str],
        examples: Examples | None,
    ) -> None:
        seen = recognizer.seen_mask.numpy(force=True)
        names, shown = recognizer.class_names, recognizer.display_names
        known = Catalogue(names, seen, added, dict(descriptions), shown)
        self._served = (recognizer, exemplars, known, examples)

    def _alike(self, queries: Sequence[Query]) -> list[list[int]]:
        """Queries computed in one call: all rows; images of one shape and dtype, in batches.

        Inputs of several models differ in dtype (:mod:`mlis.features.backbones.joined`).
        """
        groups: dict[tuple[bool, tuple[int, ...], np.dtype], list[int]] = {}
        for i, query in enumerate(queries):
            key = query.is_image, query.values.shape, query.values.dtype
            groups.setdefault(key, []).append(i)
        parts: list[list[int]] = []
        for key, rows in groups.items():
            size = self.backbone.batch if key[0] and self.backbone is not None else len(rows)
            parts += [rows[i : i + size] for i in range(0, len(rows), size)]
        return parts


class _WarningLog:
    """Possible problems of classes, by name; logged, too."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[str]] = {}

    def add(self, name: str, problem: str) -> None:
        """As `add_classes` and `add_images` tell it."""
        self._by_name.setdefault(name, []).append(problem)
        logger.warning("%s", problem)

    def attach(self, changes: Sequence[Change]) -> None:
        """To these changes, which were made."""
        for change in changes:
            change.warnings.extend(self._by_name.get(change.name, ()))


def _sentences_by_name(changes: Sequence[Change]) -> dict[str, tuple[str, ...]]:
    """Of those changes that have some: of two changes of one class perhaps only one."""
    return {c.name: tuple(c.description.sentences) for c in changes if c.description.sentences}


def _check_count(name: str, names: set[str], max_classes: int) -> None:
    if len(names) >= max_classes:
        raise DataError(f"cannot add {name!r}: the model has {len(names)} classes, the maximum")


def _scores(recognizer: Recognizer, features: np.ndarray) -> np.ndarray:
    """Scores of all rows, NaN for one whose scores overflow: the others are not to fail with it."""
    try:
        return recognizer.scores(features)
    except DataError:
        if len(features) == 1:
            return np.full((1, len(recognizer.class_names)), np.nan)
    return np.concatenate([_scores(recognizer, row[None]) for row in features])
