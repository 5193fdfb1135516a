"""The sentences that describe a class, as attributes that an explanation weighs one by one.

The descriptor of a class that is described by sentences is the mean of their embeddings, of which
no number has a name. But how well one sentence fits a class, the cosine of the class's mean with
the embedding of the sentence (less what all classes have in common, the mean of the seen classes),
is an attribute, and is weighed like any other (:mod:`mlis.model.attribute_evidence`).
"""

import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlis.errors import DataError, MlisError
from mlis.features.backbones.base import BackboneSpec
from mlis.features.descriptors.new_classes import trained_text_model
from mlis.features.descriptors.visual_words import known_texts
from mlis.model.recognizer import Recognizer

if TYPE_CHECKING:
    from mlis.features.descriptors.text_model import TextModel

# PyTorch's types are partial
# pyright: reportUnknownMemberType=false

logger: logging.Logger = logging.getLogger(__name__)

MOST = 100
"""Sentences of a class that are weighed."""
# Before a capital, a quotation mark or a bracket, but not after an initial or a short title;
# Chinese and Japanese have no spaces.
_BETWEEN = re.compile(
    r"(?<=[.!?])(?<!\b\w\.)(?<!\b(?:St|Mt|Dr)\.)\s+(?=[^\W\d_a-z]|[\"'“‘¿¡(])"
    r"|(?<=[。！？])\s*(?=\S)"
)


class SentenceEncoder:
    """Embeddings of sentences; each is computed once.

    Args:
        model: the text model of the training.
    """

    def __init__(self, model: "TextModel"):
        self._model: TextModel = model
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, sentences: tuple[str, ...]) -> Tensor:
        """(n, D) float32."""
        new = [text for text in sentences if text not in self._known]
        if new:
            self._known.update(zip(new, self._model.encode(new), strict=True))
        return torch.from_numpy(np.stack([self._known[text] for text in sentences]))


def sentence_encoder(
    recognizer: Recognizer, model: "TextModel | None" = None
) -> SentenceEncoder | None:
    """An encoder for the sentences that the recognizer keeps of its classes, if it does.

    Args:
        recognizer: the model.
        model: the text model; default: the recorded one, which is not downloaded. Where it is not
            on this machine, or is another version, a warning is logged and None returned.

    Raises:
        DataError: the record of the descriptors is damaged.
    """
    record: dict[str, Any] = recognizer.metadata.sources.get("descriptors") or {}
    if not known_texts(recognizer.metadata.sources) or not record.get("text"):
        return None
    if record.get("size") != recognizer.descriptors.shape[1]:
        return None  # other descriptors were put in their place
    try:
        trained = BackboneSpec.from_dict(record["text"])
        if trained.size + len(record["attributes"]) != record["size"]:
            raise ValueError(f"size: {record['size']}")
        model = trained_text_model(trained, model, device=str(recognizer.device))
        return SentenceEncoder(model)
    except MlisError as error:
        logger.warning("explanations leave out sentences: %s", error)
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the record of the model's descriptors is damaged: {error!r}") from None


def sentences_of(recognizer: Recognizer, name: str) -> tuple[str, ...]:
    """The sentences that a class is described by, each once."""
    texts = known_texts(recognizer.metadata.sources).get(name, ())
    split = (part.strip() for text in texts for part in _BETWEEN.split(text))
    return tuple(dict.fromkeys(filter(None, split)))[:MOST]


def fit_of(text: Tensor, seen: Tensor, vectors: Tensor) -> Tensor:
    """(C, n) how well each sentence fits each class.

    Args:
        text: (C, D) the classes' mean embeddings of length 1.
        seen: (C,) bool.
        vectors: (n, D) of the sentences.
    """
    return text @ normalize(vectors.to(text) - text[seen].mean(0), dim=1).T
