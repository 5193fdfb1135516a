"""Scaler, encoder, classifier and calibration of a recognizer, folded into two affine maps."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mlis.errors import DataError
from mlis.preprocessing import FeatureScaler

if TYPE_CHECKING:
    from mlis.inference import Recognizer

FAR = 8.0  # a shift of more ranges than this is not folded into the weights


class Workspace:
    """Memory that the batches of one call use one after another.

    Fresh memory for each would cost the system a pass over it, to hand it out zeroed.
    """

    def __init__(self, like: Tensor):
        self._like = like
        self._held: dict[str, Tensor] = {}

    def rows(self, name: str, count: int, width: int, device: str | None = None) -> Tensor:
        """(count, width) in the weights' dtype; the last batch is the only smaller one."""
        if name not in self._held:
            place = device or self._like.device
            self._held[name] = torch.empty((count, width), dtype=self._like.dtype, device=place)
        return self._held[name][:count]


@dataclass(frozen=True, eq=False)
class Fused:
    """Scaler, encoder, classifier and calibration as two affine maps with a ReLU between them.

    With `x̂ = (t(x) − s) ∘ f` scaled features, `W x̂ + b = W' t(x) + b'` where `W' = W diag(f)` and
    `b' = b − W' s`. Without an encoder the same is done to the classifier's weight. The constant of
    calibrated stacking is taken from the last bias.

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
    def of(cls, r: "Recognizer") -> "Fused":
        """Fold what can be folded, in float64."""
        weight, bias = r.classifier.weight, r.classifier.bias
        seen = torch.from_numpy(np.array(r.seen_mask)).double().to(bias.device)
        bias = (bias.double() - r.calibration * seen).to(bias.dtype)
        first = (weight, bias)
        if r.encoder_weight is not None and r.encoder_bias is not None:
            first = (r.encoder_weight, r.encoder_bias)
        folded, offset, shift = _fold(r.scaler, *first)
        if r.encoder_weight is None:
            return cls(r.scaler.transform, shift, None, folded, offset)
        return cls(r.scaler.transform, shift, (folded, offset), weight, bias)

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
    """`W'`, `b'` and None; or `W'`, `b` and the shift that must be taken off first.

    Where the features lie many of their ranges away from zero, `W' x` and `W' s` are large and
    nearly equal, and their difference would be rounding; subtracting first is exact.
    """
    shift, factor = scaler.shift.to(weight.device), scaler.factor.to(weight.device)
    folded = weight.double() * factor
    if bool((shift.abs() * factor).max() > FAR):
        return folded.to(weight.dtype), bias, shift.to(weight.dtype)
    offset = (bias.double() - folded @ shift.double()).to(bias.dtype)
    return folded.to(weight.dtype), offset, None


def check_finite(part: Tensor, start: int) -> None:
    """Raise `DataError` for the first row with NaN or infinity.

    A sum is finite only if all its terms are; finite ones may overflow, so a second look decides.
    """
    if math.isfinite(float(part.sum())):
        return
    finite = torch.isfinite(part).all(1)
    if not bool(finite.all()):
        row = start + int((~finite).nonzero()[0])
        raise DataError(f"features row {row} holds NaN or infinity: leave that row out")


def as_tensor(part: np.ndarray | Tensor, like: Tensor, work: Workspace) -> Tensor:
    """Bring some rows to the device and dtype of `like`, without a copy where they are there."""
    if isinstance(part, np.ndarray):
        wanted = np.float64 if like.dtype == torch.float64 else np.float32
        flags = part.flags
        if part.dtype == wanted and flags.c_contiguous and flags.writeable and flags.aligned:
            part = torch.from_numpy(part)
        else:
            # torch takes no read-only, reversed or big-endian array (a memory map is the first).
            buffer = work.rows("given", len(part), part.shape[1], device="cpu")
            np.copyto(buffer.numpy(), part, casting="unsafe")
            part = buffer
    return part.to(like.device, like.dtype)
