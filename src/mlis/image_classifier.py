"""From photographs to classes: the model's own image model, then the recognizer."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mlis.features.backbones.base import Backbone
    from mlis.features.images.embed import Picture
    from mlis.model.recognizer import Recognizer

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassScore:
    """One class for one image.

    Attributes:
        name: of the class.
        score: softmax probability among all classes, seen and unseen, after calibration.
        seen: whether the class had images in training.
    """

    name: str
    score: float
    seen: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"class": self.name, "score": round(self.score, 6), "seen": self.seen}


@dataclass(frozen=True)
class ImagePrediction:
    """What one image was recognised as.

    Attributes:
        path: as it was given; `image 0`, `image 1`, … by position for images in memory.
        classes: the best k, best first; empty where the image could not be read.
        reason: why it could not be read; empty where it could.
    """

    path: str
    classes: tuple[ClassScore, ...]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `reason` only where there is one."""
        found = {"path": self.path, "predictions": [one.to_dict() for one in self.classes]}
        return found | ({"reason": self.reason} if self.reason else {})


def top_classes(
    recognizer: "Recognizer", features: np.ndarray, k: int
) -> list[tuple[ClassScore, ...]]:
    """The best k classes of each row of (B, Dx) features, best first."""
    scores = recognizer.scores(features).astype(np.float64)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chances = np.take_along_axis(scipy.special.softmax(scores, axis=1), best, axis=1)
    names, seen = recognizer.class_names, recognizer.seen_mask
    return [
        tuple(
            ClassScore(names[c], float(chance), bool(seen[c]))
            for c, chance in zip(row, values, strict=True)
        )
        for row, values in zip(best, chances, strict=True)
    ]


def predictions(
    recognizer: "Recognizer",
    images: "Iterable[Picture]",
    k: int,
    backbone: "Backbone",
    workers: int | None = None,
) -> Iterator[ImagePrediction]:
    """One prediction an image, in their order, as they come; see `Recognizer.predict_images`."""
    from mlis.features.images.embed import embed

    for batch in embed(images, backbone, workers=workers):
        rows = [item.features for item in batch if item.features is not None]
        found = iter(top_classes(recognizer, np.stack(rows), k) if rows else ())
        for item in batch:
            if item.features is None:
                yield ImagePrediction(item.path, (), item.reason)
            else:
                yield ImagePrediction(item.path, next(found))


def load_backbone_of(
    recognizer: "Recognizer",
    backbone: "Backbone | str | None",
    device: str,
    precision: str,
) -> "Backbone":
    """The image model that a recognizer's features are of, loaded and checked."""
    from mlis.features.backbones import load_backbone

    if backbone is None and not recognizer.backbone:
        raise DataError(
            "this model does not know which image model made its features: name it (backbone, "
            "--backbone), or give features"
        )
    if backbone is None:  # a file's word: used where it is on this machine, never fetched
        name = str(recognizer.backbone.get("name"))
        backbone = load_backbone(name, device=device, precision=precision, download=False)
    elif isinstance(backbone, str):
        backbone = load_backbone(backbone, device=device, precision=precision)
    if recognizer.backbone:
        check_backbone(recognizer, backbone.identity.to_dict(), "the images' features")
    elif backbone.identity.size != recognizer.num_features:
        raise DataError(
            f"this model takes {recognizer.num_features} features, but {backbone.identity} gives "
            f"{backbone.identity.size}: name the image model of the training"
        )
    else:
        logger.warning(
            "nothing says that this model's features are of %s, but their number", backbone.identity
        )
    return backbone


def check_backbone(recognizer: "Recognizer", other: Mapping[str, Any], what: str) -> None:
    """Refuse features of another image model than the training's, where both are known.

    Args:
        recognizer: whose features are known by `sources`.
        other: `BackboneSpec.to_dict` of what the features are of; empty where it is not known.
        what: begins the message: a file, or "the images' features".

    Raises:
        DataError: they are of different models.
    """
    own = recognizer.backbone
    if not own or not other or own.get("fingerprint") == other.get("fingerprint"):
        return
    raise DataError(
        f"{what}: of {_shown(other)}, but the model was trained on features of {_shown(own)}. "
        "Compute them with that image model."
    )


def _shown(backbone: Mapping[str, Any]) -> str:
    """Name, size and pooling, and the fingerprint's beginning, which tells equal names apart."""
    parts = (backbone.get("name"), backbone.get("pooling"), backbone.get("fingerprint", ""))
    return f"{parts[0]} ({backbone.get('size')} numbers, {parts[1]}, {str(parts[2])[:12]})"


def check_k(k: int) -> None:
    """Raise `SettingsError` where k is no number of classes."""
    if k < 1:
        raise SettingsError(f"k must be at least 1, but got {k}")
