"""Loads a saved model and what is needed to serve it."""

import logging
from collections.abc import Callable
from pathlib import Path

from mlis.compute.precision import Precision
from mlis.errors import MlisError, SettingsError
from mlis.explanation import SentenceEncoder, can_explain, sentence_encoder
from mlis.features.descriptors.class_descriptions import read_descriptions
from mlis.features.descriptors.visual_words import known_texts
from mlis.image_classifier import ImageClassifier, recorded_backbone, training_images
from mlis.io.checkpoint import load_exemplars, load_model
from mlis.model.recognizer import Recognizer
from mlis.model.rejection import check_reject
from mlis.serving.descriptions import Describer, as_text
from mlis.serving.engine import Engine

logger: logging.Logger = logging.getLogger(__name__)


def load_engine(
    model: Path,
    device: str = "auto",
    *,
    backbone: str | None = None,
    text_model: str | None = None,
    changes: bool = True,
    descriptions: Path | None = None,
    reject: float | None = None,
    training: Path | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> Engine:
    """Load a saved model and what is needed to serve it.

    Args:
        model: folder of the model.
        device: auto, cpu or cuda.
        backbone, text_model: names of the image and text model, where not those of the training;
            only what is named here is downloaded.
        changes: whether classes may be added: the exemplar buffer is only loaded then.
        descriptions: table of classes whose sentences are shown; None: those that the model keeps.
        reject: as `Engine` takes it.
        training: labelled features of the training, or its dataset folder, whose images
            explanations name.
        progress: is told what is loaded next.

    Raises:
        ModelFileError: the model's files are missing or damaged.
        DataError: the backbone is not that of the training, or the table is damaged.
        SettingsError: no such device, or a package that is needed is not installed.
    """
    place = Precision.of("float32", device).device
    sentences = _sentences(descriptions)
    recognizer = load_model(model, place)
    check_reject(recognizer, reject)
    exemplars = load_exemplars(model) if changes else None
    images = None
    if name := backbone or recorded_backbone(recognizer).get("name"):
        progress(f"image model {name}")
        images = ImageClassifier(recognizer, backbone, device=str(place)).backbone
    describer = None
    if exemplars is not None or (changes and recognizer.head.knows_by_description):
        if text := (recognizer.metadata.sources.get("descriptors") or {}).get("text"):
            progress(f"text model {text['name']}")
        try:
            describer = Describer.of(recognizer, str(place), text_model)
        except SettingsError as error:
            logger.warning("classes cannot be added: %s", error)
    examples = None if training is None else training_images(training, recognizer)
    encoder = None
    if can_explain(recognizer, examples or exemplars):
        encoder = _encoder(recognizer, describer, str(place), text_model, progress)
    shown = (sentences, exemplars, reject or 0.0, examples, encoder)
    return Engine(recognizer, images, describer, *shown)


def _encoder(
    recognizer: Recognizer,
    describer: Describer | None,
    device: str,
    text_model: str | None,
    progress: Callable[[str], None],
) -> SentenceEncoder | None:
    """Of the sentences that explanations weigh, with the describer's text model if it has one."""
    model = None if describer is None else describer.text
    try:
        if model is None and known_texts(recognizer.metadata.sources):
            progress("text model of the sentences")
            if text_model is not None:
                from mlis.features.descriptors.text_model import TextModel

                model = TextModel(text_model, device=device)
        return sentence_encoder(recognizer, model)
    except MlisError as error:
        logger.warning("explanations leave out sentences: %s", error)
        return None


def _sentences(table: Path | None) -> dict[str, str]:
    """Class names → their sentences, joined."""
    if table is None:
        return {}
    words = read_descriptions(table)
    return as_text(dict(zip(words.names, words.sentences, strict=True)))
