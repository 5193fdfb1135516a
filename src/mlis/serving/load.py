"""From a saved model to an engine: the recognizer, its image model and its text model."""

import logging
from pathlib import Path

from mlis.compute.precision import Precision
from mlis.errors import SettingsError
from mlis.features.descriptors.class_table import read_words
from mlis.io.checkpoint import load_model
from mlis.serving.engine import Engine
from mlis.serving.words import Describer

logger: logging.Logger = logging.getLogger(__name__)


def load_engine(
    model: Path,
    device: str = "auto",
    *,
    backbone: str | None = None,
    changes: bool = True,
    descriptions: Path | None = None,
) -> Engine:
    """Load a saved model and what is needed to ask it.

    Args:
        model: folder of the model.
        device: auto, cpu or cuda.
        backbone: name of the image model where it lies elsewhere than in training.
        changes: whether classes may be added: the text model and the training's leftovers are only
            loaded then.
        descriptions: table of classes whose sentences are shown, or None.

    Raises:
        ModelFileError: the model's files are missing or damaged.
        DataError: the image model is another one than the training's, or the table is damaged.
        SettingsError: no such device, or a package that is needed is not installed.
    """
    place = Precision.of("float32", device).device
    recognizer = load_model(model, place, growth=changes)
    images = None
    if backbone is not None or recognizer.backbone:
        images = recognizer.load_backbone(backbone, device=str(place))
    describer = None
    if changes:
        try:
            describer = Describer.of(recognizer, str(place))
        except SettingsError as error:
            logger.warning("classes cannot be added: %s", error)
    return Engine(recognizer, images, describer, _sentences(descriptions))


def _sentences(table: Path | None) -> dict[str, str]:
    """Name of a class → its sentences in one."""
    if table is None:
        return {}
    words = read_words(table)
    pairs = zip(words.names, words.sentences, strict=True)
    return {name: " ".join(sentences) for name, sentences in pairs if sentences}
