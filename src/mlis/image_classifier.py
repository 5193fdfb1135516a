"""From photographs to classes: a backbone, then the recognizer."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.io.csv_file import LABEL
from mlis.data.io.feature_rows import backbone_of, read_labelled_rows, read_rows
from mlis.data.io.folder import is_dataset_folder, load_folder
from mlis.data.out_of_core.stored import choose_rows
from mlis.data.splits import sample_classes
from mlis.errors import DataError, SettingsError
from mlis.explanation import Examples, Explainer, Explanation, examples
from mlis.features.backbones import load_backbone
from mlis.features.backbones.base import Backbone, grid_of, show_spec, views_of
from mlis.features.images.embed import Picture, embed
from mlis.features.labelled_rows import LabelledRows
from mlis.model.recognizer import Recognizer, probabilities_of
from mlis.model.rejection import UNKNOWN, check_reject
from mlis.training.progress import Bar

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassScore:
    """One class for one image.

    Attributes:
        name: of the class; "unknown" for none of them.
        score: probability among all classes, seen and unseen: the softmax of calibrated scores over
            the temperature; None of "unknown".
        seen: whether the class had images in training; None of "unknown".
        display_name: what people read in place of the name; empty where there is none.
    """

    name: str
    score: float | None
    seen: bool | None
    display_name: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        score = None if self.score is None else round(self.score, 6)
        found = {"class": self.name, "score": score, "seen": self.seen}
        return found | ({"display_name": self.display_name} if self.display_name else {})


@dataclass(frozen=True)
class ImagePrediction:
    """What one image was recognised as.

    Attributes:
        path: as it was given; `image 0`, `image 1`, … by position for images in memory.
        classes: the best k, best first; empty where the image could not be read.
        reason: why it could not be read; empty where it could.
        explanation: why it is the likeliest class, where that was asked for.
    """

    path: str
    classes: tuple[ClassScore, ...]
    reason: str = ""
    explanation: Explanation | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `reason` and `explanation` only where there is one."""
        found: dict[str, Any] = {"path": self.path}
        found["predictions"] = [one.to_dict() for one in self.classes]
        if self.explanation is not None:
            found["explanation"] = self.explanation.to_dict()
        return found | ({"reason": self.reason} if self.reason else {})


def top_classes(
    recognizer: Recognizer, features: np.ndarray, k: int, reject: float | str | None = None
) -> list[tuple[ClassScore, ...]]:
    """The best k classes of each row of (B, Dx) features, best first.

    With `reject`, as :meth:`ImageClassifier.predict` takes it, "unknown" is the first of the k
    where a row looks like none of the classes.
    """
    scores = recognizer.scores(features)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    every = probabilities_of(scores, recognizer.temperature)
    probabilities = np.take_along_axis(every, best, axis=1)
    names, seen = recognizer.class_names, recognizer.seen_mask.tolist()
    shown = recognizer.display_names
    found = [
        tuple(
            ClassScore(names[c], float(probability), seen[c], shown.get(names[c], ""))
            for c, probability in zip(row, values, strict=True)
        )
        for row, values in zip(best, probabilities, strict=True)
    ]
    if reject is None:
        return found
    unknown, first = recognizer.unknown(features, reject), ClassScore(UNKNOWN, None, None)
    return [(first, *row[: k - 1]) if no else row for row, no in zip(found, unknown, strict=True)]


class ImageClassifier:
    """A backbone and a recognizer: photographs in, classes out.

    Args:
        recognizer: the model.
        backbone: its image model. The recorded one where absent, which is used where it is on this
            machine: what a file names is not downloaded. A name given here is; or a loaded one. Of
            each image it sees the views and regions that are recorded.
        device, precision: as :func:`mlis.features.backbones.load_backbone` takes them.

    Raises:
        DataError: no backbone is recorded and none given, or it is not that of the training.
        SettingsError: it cannot be loaded.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        backbone: Backbone | str | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
    ):
        self.recognizer: Recognizer = recognizer
        self.backbone: Backbone = _checked_backbone(recognizer, backbone, device, precision)

    def predict(
        self,
        images: Iterable[Picture],
        k: int = 5,
        *,
        workers: int | None = None,
        reject: float | str | None = None,
        explainer: Explainer | None = None,
        verbose: bool = False,
    ) -> list[ImagePrediction]:
        """The best k classes of each image, or why it could not be read.

        Args:
            images: paths, or PIL images.
            k: classes per image; all where there are fewer.
            workers: threads that read and decode.
            reject: share of images of known classes that may be turned away, `0.05` or `"5%"`, so
                that images of other things are: the first of the k classes is then "unknown".
            explainer: explains the likeliest class of each.
            verbose: whether a progress bar is shown.

        Raises:
            SettingsError: k is less than 1, or `reject` is not above 0 and below 1.
            DataError: images are to be turned away, and the model has no rejection quantiles.
        """
        if k < 1:
            raise SettingsError(f"k must be at least 1, but got {k}")
        check_reject(self.recognizer, reject)
        found: list[ImagePrediction] = []
        with Bar("images", length_hint(images) or None, 0, " images", hidden=not verbose) as bar:
            for one in self.stream(images, k, workers=workers, reject=reject, explainer=explainer):
                found.append(one)
                bar.update()
        return found

    def stream(
        self,
        images: Iterable[Picture],
        k: int = 5,
        *,
        workers: int | None = None,
        reject: float | str | None = None,
        explainer: Explainer | None = None,
    ) -> Iterator[ImagePrediction]:
        """What `predict` returns, one after the other as they are computed."""
        for batch in embed(images, self.backbone, workers=workers):
            rows = [item.features for item in batch if item.features is not None]
            x = np.stack(rows) if rows else np.empty((0, self.recognizer.num_features), np.float32)
            found = iter(top_classes(self.recognizer, x, k, reject))
            why = iter(explainer(x) if explainer else [None] * len(x))
            for item in batch:
                if item.features is None:
                    yield ImagePrediction(item.path, (), item.reason)
                else:
                    yield ImagePrediction(item.path, next(found), explanation=next(why))


def recorded_backbone(recognizer: Recognizer) -> Mapping[str, Any]:
    """The image model of its features, as `BackboneSpec.to_dict` gives it; empty if unknown."""
    return recognizer.metadata.sources.get("backbone") or {}


def _checked_backbone(
    recognizer: Recognizer, backbone: Backbone | str | None, device: str, precision: str
) -> Backbone:
    recorded = recorded_backbone(recognizer)
    options: dict[str, Any] = {"device": device, "precision": precision, "grid": grid_of(recorded)}
    views = views_of(recorded)
    if backbone is None and not recorded:
        raise DataError(
            "this model does not know which image model made its features: name it (backbone, "
            "--backbone), or give features"
        )
    if backbone is None:
        name = str(recorded.get("name"))
        backbone = load_backbone(name, **options, views=views, download=False)
    elif isinstance(backbone, str):
        name, backbone = backbone, load_backbone(backbone, **options, views=views)
        if not recorded and recognizer.num_features == 2 * backbone.identity.size:
            backbone = load_backbone(name, **options, views=None)  # centre and whole
    if recorded:
        check_backbone(recognizer, backbone.identity.to_dict(), "the images' features")
    elif backbone.identity.size != recognizer.num_features:
        raise DataError(
            f"this model takes {recognizer.num_features} features, but {backbone.identity} gives "
            f"{backbone.identity.size}: name the image model of the training"
        )
    else:
        logger.warning(
            "this model does not record its image model: only the number of features of %s could "
            "be checked",
            backbone.identity,
        )
    return backbone


def check_backbone(recognizer: Recognizer, other: Mapping[str, Any], what: str) -> None:
    """Check that features are of the training's image model, where both are known.

    Args:
        recognizer: whose metadata record its image model.
        other: `BackboneSpec.to_dict` of the features' image model; empty where it is not known.
        what: begins the message: a file, or "the images' features".

    Raises:
        DataError: they are of different models.
    """
    own = recorded_backbone(recognizer)
    if not own or not other or own.get("fingerprint") == other.get("fingerprint"):
        return
    raise DataError(
        f"{what}: of {show_spec(other)}, but the model was trained on features of "
        f"{show_spec(own)}. Compute them with that image model and those views."
    )


def training_images(place: Path, recognizer: Recognizer, label_column: str = LABEL) -> Examples:
    """Training images to explain answers with; rows marked test are left out.

    Of more than `examples.COMPARED` a random part, as many of each class at most.

    Args:
        place: a dataset folder, a feature folder or a file of labelled features.
        recognizer: the model.
        label_column: of a `.csv` or `.parquet` file.

    Raises:
        DataError: features are of another image model, a label is not a class of the model, or no
            row is of a seen class.
    """
    check_backbone(recognizer, backbone_of(place), str(place))
    if is_dataset_folder(place):
        rows, kept = read_rows(place), load_folder(place).split.trainval
    else:
        rows = read_labelled_rows(place, None, label_column)
        marks = rows.marks if rows.marks is not None else [""] * len(rows.features)
        kept = np.flatnonzero([str(mark).strip().casefold() != "test" for mark in marks])
    labels = np.array([str(label) for label in rows.labels], dtype=object)
    if len(kept) > examples.COMPARED:
        _, numbers = np.unique(labels, return_inverse=True)
        count, (kept, each) = len(kept), sample_classes(kept, numbers, examples.COMPARED)
        logger.warning(
            "%s: answers are explained with %d of its %d training images, at most %d of each class",
            *(place, len(kept), count, each),
        )
    labelled = LabelledRows(str(place), choose_rows(rows.features, kept), list(labels[kept]))
    found = labelled.for_model(recognizer)
    if not found.seen_mask[found.labels].any():
        raise DataError(
            f"{place}: expected training images of seen classes, got {len(kept)} of others. Give "
            "the features that the model was trained with."
        )
    names = [rows.paths[i] if rows.paths else f"row {i}" for i in kept.tolist()]
    return Examples(found.features, found.labels, names)
