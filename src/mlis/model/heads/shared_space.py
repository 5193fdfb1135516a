"""Zero-shot head of an image-text model: scores by the cosine with each class's text."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlis.model.heads.base import Head
from mlis.model.preprocessing import FeatureScaler


class SharedSpaceHead(Head):
    """Scores are cosines between image and class text, in the space that both share.

    Radford et al.: "Learning Transferable Visual Models From Natural Language Supervision", ICML
    2021, section 3.1. The image embedding is x = h ∘ spread + shift of scaled features h, so that
    the head can be a member of an ensemble whose other members need scaled features. Of V joined
    views the cosine is the mean.

    Args:
        texts: (C, Dt) of length 1; a class without a text has the mean of the others.
        shift: (V · Dt,).
        spread: (V · Dt,), 0 for a feature that is constant in training.
    """

    kind = "shared-space"

    def __init__(self, texts: Tensor, shift: Tensor, spread: Tensor):
        super().__init__()
        self.texts: nn.Parameter = nn.Parameter(texts, requires_grad=False)
        self.shift: nn.Parameter = nn.Parameter(shift, requires_grad=False)
        self.spread: nn.Parameter = nn.Parameter(spread, requires_grad=False)

    @classmethod
    def of(cls, texts: Tensor, scaler: FeatureScaler) -> Self:
        """A head of classes with these (C, Dt) texts, for features that the scaler scaled."""
        factor = scaler.factor.to(texts)
        spread = torch.where(factor > 0, 1 / factor, 0.0)
        return cls(normalize(texts, dim=1), scaler.shift.to(texts).clone(), spread)

    @property
    def knows_by_description(self) -> bool:
        """True."""
        return True

    def with_classes(self, descriptors: Tensor) -> Self:
        """A head that also knows classes of these (n, Da) raw descriptors, which begin with texts.

        A descriptor of zeros says nothing: its class has the mean cosine of the others.
        """
        texts = normalize(descriptors[:, : self.texts.shape[1]].to(self.texts), dim=1)
        silent = ~descriptors.any(dim=1).to(texts.device)
        texts = torch.where(silent[:, None], self.texts.mean(0), texts)
        return type(self)(torch.cat([self.texts, texts]), self.shift, self.spread)

    def with_images(self, h: Tensor, labels: Tensor) -> Self:
        """The head itself: nothing in it is learnt from images."""
        del h, labels
        return self

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        return type(self)(self.texts[classes], self.shift, self.spread)

    def sizes(self) -> dict[str, Any]:
        """Of features and texts."""
        classes, size = self.texts.shape
        return {"inputs": len(self.shift), "classes": classes, "size": size}

    @classmethod
    def empty(cls, inputs: int, classes: int, size: int) -> Self:
        """A head of `classes` with texts of `size`, for `inputs` numbers."""
        if not size or inputs % size:
            raise ValueError(f"inputs: expected a multiple of {size}, got {inputs}")
        shift, spread = (torch.empty(inputs, device="meta") for _ in range(2))
        return cls(torch.empty(classes, size, device="meta"), shift, spread)

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, V · Dt) scaled features."""
        x = (h * self.spread + self.shift).unflatten(1, (-1, self.texts.shape[1]))
        return normalize(x, dim=2).mean(1) @ self.texts.T
