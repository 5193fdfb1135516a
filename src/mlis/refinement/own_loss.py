"""A metric loss of the user's own: `(embeddings, labels) → scalar`, with or without weights."""

import copy

import torch
from torch import Tensor

from mlis.compute import Arithmetic
from mlis.config import Refinement
from mlis.errors import SettingsError
from mlis.refinement.losses import EmbeddingLoss, concatenate
from mlis.stacking import Seeds


class OwnLoss:
    """Calls a user's loss; of several stacked seeds, for one after the other.

    Attributes:
        learned: copies of a loss that has weights of its own (proxies, say) to train beside the
            encoder, or None. Copies, so that the caller's stays as it is and a second training
            begins where the first did.

    Args:
        loss: the user's.
        arithmetic: device and precision of those weights.
        seed: several seeds have their own copy each of a loss that is a module.
    """

    def __init__(self, loss: EmbeddingLoss, arithmetic: Arithmetic, seed: Seeds):
        alone = isinstance(seed, int)
        self._losses = [loss] if alone else [loss] * len(seed)
        self.learned: torch.nn.Module | None = None
        if isinstance(loss, torch.nn.Module):
            learns = any(True for _ in loss.parameters())
            if learns or not alone:
                place = (arithmetic.device, arithmetic.master)
                copies = [copy.deepcopy(loss).to(*place) for _ in self._losses]
                self._losses = copies
                if learns:
                    self.learned = copies[0] if alone else torch.nn.ModuleList(copies)

    def __call__(
        self, h: Tensor, y: Tensor, descriptors: Tensor | None, settings: Refinement
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and the mean share of the squared length that is semantic.

        Args:
            h: (…, B, Dh) refined features.
            y: (…, B) labels.
            descriptors: (…, B, Da), each sample's own class's; None without IS.
            settings: how the two are concatenated.

        Raises:
            SettingsError: the loss returned something else than a scalar.
        """
        embeddings = concatenate(h, descriptors, settings)
        squared = embeddings.detach().square()
        share = squared[..., h.shape[-1] :].sum(-1) / squared.sum(-1).clamp(min=1e-12)
        if y.dim() == 1:
            return _scalar(self._losses[0](embeddings, y)), share.mean()
        of_each = zip(self._losses, embeddings, y, strict=True)
        values = [_scalar(loss(own, labels)).reshape(()) for loss, own, labels in of_each]
        return torch.stack(values), share.mean(-1)


def _scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise SettingsError(f"the metric loss must return a scalar tensor, but got {got}")
    return value
