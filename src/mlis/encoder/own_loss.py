"""User-defined metric loss: `(embeddings, labels) → scalar`, with or without weights."""

import copy

import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.config import Refinement
from mlis.encoder.metric_losses import EmbeddingLoss, concatenate
from mlis.errors import SettingsError


class OwnLoss:
    """Calls a user's loss.

    Attributes:
        learned: a copy of a loss that has weights of its own (such as proxies), to be trained with
            the encoder, or None. A copy, so that the caller's loss is unchanged and a second
            training starts from the same weights.

    Args:
        loss: the user's.
        precision: device and dtype of those weights.
        settings: how features and descriptors are concatenated.
        descriptors: (C, Da) of the classes; None without IS.
    """

    def __init__(
        self,
        loss: EmbeddingLoss,
        precision: Precision,
        settings: Refinement,
        descriptors: Tensor | None,
    ):
        self._loss, self._settings, self._descriptors = loss, settings, descriptors
        self.learned: torch.nn.Module | None = None
        if isinstance(loss, torch.nn.Module) and any(True for _ in loss.parameters()):
            self.learned = copy.deepcopy(loss).to(precision.device, precision.master)
            self._loss = self.learned

    def __call__(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the semantic fraction of the squared length (mean).

        Args:
            h: (B, Dh) refined features.
            y: (B,) labels.

        Raises:
            SettingsError: the loss did not return a scalar tensor.
        """
        own = None if self._descriptors is None else self._descriptors[y]
        embeddings = concatenate(h, own, self._settings)
        squared = embeddings.detach().square()
        semantic_share = squared[:, h.shape[1] :].sum(1) / squared.sum(1).clamp(min=1e-12)
        value: object = self._loss(embeddings, y)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise SettingsError(f"the metric loss must return a scalar tensor, but got {got}")
        return value, semantic_share.mean()
