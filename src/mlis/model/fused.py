"""The paper's composition (scaler, encoder, linear head, calibration) as two affine maps."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlis.model.batches import Workspace
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.refiners import Identity, LinearReLU

if TYPE_CHECKING:
    from mlis.model.recognizer import Recognizer

FAR = 8.0  # a shift of more ranges than this is not folded into the weights


@dataclass(frozen=True, eq=False)
class Fused:
    """Scaler, encoder, head and calibration as two affine maps with a ReLU between them.

    With `x̂ = (t(x) − s) ∘ f` scaled features, `W x̂ + b = W' t(x) + b'` where `W' = W diag(f)` and
    `b' = b − W' s`. Without an encoder the same is done to the head's weight. The constant of
    calibrated stacking is subtracted from the last bias.

    Attributes:
        transform: t, "none" or "sqrt"; stays elementwise.
        shift: (Dx,) s where it is not folded, else None.
        encoder: W' (Dh, Dx) and b' (Dh,), or None.
        weight, bias: (C, Dh) and (C,) of the scores.
    """

    transform: str
    shift: Tensor | None
    encoder: tuple[Tensor, Tensor] | None
    weight: Tensor
    bias: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, r: "Recognizer") -> "Fused | None":
        """Fold what can be folded, in float64; None for another composition than the paper's."""
        head, refiner = r.head, r.refiner
        if type(head) is not LinearHead or type(refiner) not in (Identity, LinearReLU):
            return None
        weight, bias = head.weight.detach(), head.bias.detach()
        bias = (bias.double() - r.calibration * r.seen_mask.double()).to(bias.dtype)
        if not isinstance(refiner, LinearReLU):
            folded, offset, shift = _fold(r.preprocessing, weight, bias)
            return cls(r.preprocessing.transform, shift, None, folded, offset)
        if refiner.slope:
            return None
        first = refiner.weight.detach(), refiner.bias.detach()
        folded, offset, shift = _fold(r.preprocessing, *first)
        return cls(r.preprocessing.transform, shift, (folded, offset), weight, bias)

    def hidden(self, x: Tensor, out: Tensor, work: Workspace) -> None:
        """`out = h`, (B, Dh), of (B, Dx) features as they come."""
        assert self.encoder is not None
        weight, bias = self.encoder
        torch.addmm(bias, self._inputs(x, work), weight.T, out=out).relu_()

    def scores(self, x: Tensor, out: Tensor, work: Workspace) -> None:
        """Scores (B, C) of (B, Dx) features as they come."""
        if self.encoder is None:
            h = self._inputs(x, work)
        else:
            h = work.rows("hidden", len(x), len(self.encoder[1]))
            self.hidden(x, h, work)
        torch.addmm(self.bias, h, self.weight.T, out=out)

    def _inputs(self, x: Tensor, work: Workspace) -> Tensor:
        """What is left to do to the features before the first product; `x` itself stays."""
        if self.transform == "sqrt":
            x = torch.clamp(x, min=0, out=work.rows("inputs", len(x), x.shape[1])).sqrt_()
        if self.shift is not None:
            x = torch.sub(x, self.shift, out=work.rows("inputs", len(x), x.shape[1]))
        return x


def _fold(
    scaler: FeatureScaler, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`W'`, `b'` and None; or `W'`, `b` and the shift that must be subtracted first.

    Where the features lie many of their ranges away from zero, `W' x` and `W' s` are large and
    nearly equal, and their difference would be rounding; subtracting first is exact.
    """
    shift, factor = scaler.shift.to(weight.device), scaler.factor.to(weight.device)
    folded = weight.double() * factor
    if bool((shift.abs() * factor).max() > FAR):
        return folded.to(weight.dtype), bias, shift.to(weight.dtype)
    offset = (bias.double() - folded @ shift.double()).to(bias.dtype)
    return folded.to(weight.dtype), offset, None
