"""Text embeddings of an image-text model (CLIP, SigLIP, …), in the space of its image embeddings.

Radford et al.: "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021;
Zhai et al.: "Sigmoid Loss for Language Image Pre-Training", ICCV 2023. The image half is
:class:`~mlis.features.backbones.transformers_model.VisionModel`.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from mlis.compute.precision import Precision, own_modes
from mlis.errors import SettingsError
from mlis.features.backbones.hub import loading
from mlis.features.descriptors.text_model import class_vectors

_BATCH = 64


class TextTower:
    """The text half of an image-text model of `transformers`.

    Args:
        name: on the hub, or a local folder.
        device: auto, cpu or cuda.

    Attributes:
        name: as it was given.
        size: D, of the space shared with images.
        longest: number of tokens after which a text is truncated.

    Raises:
        SettingsError: it cannot be loaded, or has no text half.
    """

    def __init__(self, name: str, *, device: str = "auto"):
        self._device = Precision.of("float32", device).device
        with loading(name, "image-text model", "images", ""):
            from transformers import AutoModel, AutoTokenizer

            net: Any
            net, info = AutoModel.from_pretrained(
                name,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
            _check(name, net, info["missing_keys"])
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        net.vision_model = None  # not needed for texts
        self._net = net.eval().requires_grad_(False).to(self._device)
        text = getattr(net.config, "text_config", net.config)
        most = int(getattr(text, "max_position_embeddings", 512))
        self.longest: int = min(most, int(self._tokenizer.model_max_length))
        # SigLIP was trained on texts padded to full length, without a mask of the padding
        self._padded: bool = net.config.model_type.startswith("siglip")
        self.name: str = name
        self.size: int = self.encode(["one"]).shape[1]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, D) float32 unit vectors of n texts."""
        parts = [self._encoded(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        return np.concatenate(parts)

    def _encoded(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self._tokenizer(
            list(texts),
            padding="max_length" if self._padded else "longest",
            return_attention_mask=not self._padded,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        ).to(self._device)
        with own_modes(), torch.inference_mode():
            found = self._net.get_text_features(**tokens)
        vectors = getattr(found, "pooler_output", found).float().cpu().numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model reads."""
        ids = self._tokenizer(list(texts))["input_ids"] if texts else []
        return sum(len(one) > self.longest for one in ids)

    def describe(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """(C, D) float32: normalised mean of each class's texts."""
        return class_vectors(self.encode([text for one in texts for text in one]), texts)


def _check(name: str, net: Any, missing: Collection[str]) -> None:
    """Raise `SettingsError` unless it is an image-text model with trained weights."""
    if not hasattr(net, "get_text_features"):
        raise SettingsError(
            f"image-text model {name!r}: expected one that embeds images and texts in the same "
            f"space, such as CLIP or SigLIP, got {type(net).__name__}. Name another."
        )
    if missing:
        raise SettingsError(
            f"image-text model {name!r}: the weights of {', '.join(sorted(missing)[:3])} are "
            "missing from the model's file and would be random. Give a model that contains them."
        )
