"""Scaler, encoders, linear or Gaussian heads and calibration as two or three products a member."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlis.model.batches import Workspace
from mlis.model.heads import EnsembleHead, GaussianHead, Head, LinearHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.refiners import Identity, LinearReLU, Refiner

if TYPE_CHECKING:
    from mlis.model.recognizer import Recognizer

FAR = 8.0  # a shift of more ranges than this is not folded into the weights


@dataclass(frozen=True, eq=False)
class Fused:
    """Scaler, encoder, head and calibration as affine maps with a ReLU or squares between them.

    With `x̂ = (t(x) − s) ∘ f` scaled features, `W x̂ + b = W' t(x) + b'` where `W' = W diag(f)` and
    `b' = b − W' s`. Without an encoder the same is done to the head's first map. The constant of
    calibrated stacking is subtracted from the last bias.

    Attributes:
        transform: t, "none" or "sqrt"; stays elementwise.
        shift: (Dx,) s where it is not folded, else None.
        encoder: (Dh, Dx) and (Dh,) of `h`, before the ReLU; None without an encoder.
        projection: (k, Dh) and (k,) of `z`, for scores of [z² ; z]; None for a linear head.
        weight, bias: (C, Dh) or (C, 2k), and (C,) of the scores.
        pooled: mean over the regions of (B, R · Dx) features.
    """

    transform: str
    shift: Tensor | None
    encoder: tuple[Tensor, Tensor] | None
    projection: tuple[Tensor, Tensor] | None
    weight: Tensor
    bias: Tensor
    pooled: Callable[[Tensor], Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, r: "Recognizer") -> "Fused | FusedEnsemble | None":
        """Fold what can be folded, in float64; None for another composition."""
        constant = r.calibration * r.seen_mask.double()
        if not isinstance(r.head, EnsembleHead):
            return cls._of(r.preprocessing, r.refiner, r.head, 1.0, constant)
        if type(r.refiner) is not Identity:
            return None
        parts: list[Fused] = []
        for one in r.head.members:
            part = cls._of(r.preprocessing, one.refiner, one.head, one.weight, constant)
            if part is None:
                return None
            parts.append(part)
            constant = torch.zeros_like(constant)  # subtracted once
        return FusedEnsemble.of(parts)

    @classmethod
    def _of(
        cls, scaler: FeatureScaler, refiner: Refiner, head: Head, factor: float, constant: Tensor
    ) -> "Fused | None":
        """One refiner and head, whose scores are multiplied by `factor`, less (C,) `constant`."""
        maps: list[tuple[Tensor, Tensor]] = []
        if type(refiner) is LinearReLU and not refiner.slope:
            maps.append((refiner.weight.detach(), refiner.bias.detach()))
        elif type(refiner) is not Identity:
            return None
        if type(head) is GaussianHead:
            projection = head.projection.detach()
            offset = -(projection.double() @ head.offset.double()).to(projection.dtype)
            maps.append((projection, offset))
        elif type(head) is not LinearHead:
            return None
        bias = factor * head.bias.double() - constant
        weight = head.weight.detach()
        maps.append((weight if factor == 1 else weight * factor, bias.to(head.bias.dtype)))
        weight, bias, shift = _fold(scaler, *maps[0])
        maps[0] = (weight, bias)
        encoder = maps.pop(0) if isinstance(refiner, LinearReLU) else None
        projection = maps.pop(0) if isinstance(head, GaussianHead) else None
        return cls(scaler.transform, shift, encoder, projection, *maps[0], scaler.pooled)

    def hidden(self, x: Tensor, out: Tensor, work: Workspace) -> None:
        """`out = h`, (B, Dh), of (B, Dx) features as they come."""
        assert self.encoder is not None
        weight, bias = self.encoder
        torch.addmm(bias, self.inputs(x, work), weight.T, out=out).relu_()

    def scores(self, x: Tensor, out: Tensor, work: Workspace) -> None:
        """Scores (B, C) of (B, Dx) features as they come."""
        torch.addmm(self.bias, self.last(self.inputs(x, work), work), self.weight.T, out=out)

    def last(self, x: Tensor, work: Workspace) -> Tensor:
        """What the last product takes, of what `inputs` returns."""
        if self.encoder is not None:
            weight, bias = self.encoder
            h = work.rows(f"hidden {len(bias)}", len(x), len(bias))
            x = torch.addmm(bias, x, weight.T, out=h).relu_()
        if self.projection is not None:
            weight, bias = self.projection
            both = work.rows(f"projected {len(bias)}", len(x), 2 * len(bias))
            squares, z = both.split(len(bias), dim=1)
            torch.addmm(bias, x, weight.T, out=z)
            torch.mul(z, z, out=squares)
            x = both
        return x

    def inputs(self, x: Tensor, work: Workspace) -> Tensor:
        """What is left to do to the features before the first product; `x` itself stays."""
        x = self.pooled(x)
        if self.transform == "sqrt":
            x = torch.clamp(x, min=0, out=work.rows("inputs", len(x), x.shape[1])).sqrt_()
        if self.shift is not None:
            x = torch.sub(x, self.shift, out=work.rows("inputs", len(x), x.shape[1]))
        return x


@dataclass(frozen=True, eq=False)
class FusedEnsemble:
    """Several members whose scores are added while they are multiplied.

    Attributes:
        parts: of the members, with their weights folded; the first has the biases of all.
    """

    parts: Sequence[Fused]

    @classmethod
    def of(cls, parts: Sequence[Fused]) -> "FusedEnsemble":
        """Put the biases together."""
        bias = torch.stack([part.bias.double() for part in parts]).sum(0)
        return cls([replace(parts[0], bias=bias.to(parts[0].bias.dtype)), *parts[1:]])

    def scores(self, x: Tensor, out: Tensor, work: Workspace) -> None:
        """Scores (B, C) of (B, Dx) features as they come."""
        first, *others = self.parts
        x = first.inputs(x, work)  # of one scaler: the same for all
        torch.addmm(first.bias, first.last(x, work), first.weight.T, out=out)
        for part in others:
            out.addmm_(part.last(x, work), part.weight.T)


Folded = Fused | FusedEnsemble


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
