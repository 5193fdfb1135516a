"""The sentences that describe the classes, as columns that an explanation weighs one by one.

The descriptor of a class that is described by sentences is the mean of their embeddings, of which
no number has a name. But its cosine with the embedding of one sentence is an attribute, how much
the class is as that sentence says, and is weighed like any other
(:mod:`mlis.model.attribute_evidence`). The mean of all sentences, which they have in common, is
subtracted first.
"""

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlis.errors import DataError, SettingsError
from mlis.features.backbones.base import BackboneSpec
from mlis.features.descriptors.new_classes import trained_text_model
from mlis.features.descriptors.visual_words import known_texts
from mlis.model.recognizer import Recognizer

if TYPE_CHECKING:
    from mlis.features.descriptors.text_model import TextModel

# PyTorch's types are partial
# pyright: reportUnknownMemberType=false

logger: logging.Logger = logging.getLogger(__name__)

_BETWEEN = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, eq=False)
class Sentences:
    """The n sentences of a recognizer's classes.

    Attributes:
        texts: n.
        owners: (n,) int64 indices of the classes that they describe.
        vectors: (n, D) float32 embeddings.
    """

    texts: tuple[str, ...]
    owners: Tensor
    vectors: Tensor

    def columns(self, descriptors: Tensor) -> Tensor:
        """(C, n) of (C, Da) descriptors, whose first D numbers are embeddings of sentences."""
        directions = normalize(self.vectors - self.vectors.mean(0), dim=1).to(descriptors)
        return descriptors[:, : directions.shape[1]] @ directions.T


def recorded_sentences(
    recognizer: Recognizer, model: "TextModel | None" = None, known: Sentences | None = None
) -> Sentences | None:
    """The sentences that the classes of a recognizer are described by, if it keeps them.

    A text of several sentences is taken apart after full stops.

    Args:
        recognizer: the model.
        model: the text model; default: the recorded one, which is not downloaded. Where it is not
            on this machine, or is another version, this is logged, and there are no sentences.
        known: sentences whose embeddings are kept, as far as they are the same.

    Raises:
        DataError: the record of the text model is damaged.
    """
    record: dict[str, Any] = recognizer.metadata.sources.get("descriptors") or {}
    same = record.get("size") == recognizer.descriptors.shape[1]  # else others are used
    pairs = [
        (text, owner)
        for owner, name in enumerate(recognizer.class_names)
        for said in known_texts(recognizer.metadata.sources).get(name, ())
        for text in _BETWEEN.split(said.strip())
    ]
    if not pairs or not same or not record.get("text"):
        return None
    texts, owners = zip(*pairs, strict=True)
    vectors = {} if known is None else dict(zip(known.texts, known.vectors.numpy(), strict=True))
    try:
        if new := list(dict.fromkeys(text for text in texts if text not in vectors)):
            trained = BackboneSpec.from_dict(record["text"])
            vectors |= dict(zip(new, trained_text_model(trained, model).encode(new), strict=True))
    except KeyError as error:
        raise DataError(f"the record of the model's descriptors is damaged: {error!r}") from None
    except (SettingsError, DataError) as error:
        logger.warning("explanations leave out sentences: %s", error)
        return None
    embedded = torch.from_numpy(np.stack([vectors[text] for text in texts]))
    return Sentences(texts, torch.tensor(owners), embedded)
