"""Stage 3: from features to classes. No descriptor, no generator: scaler, encoder, classifier."""

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor

from mlis.classification import LinearClassifier
from mlis.compute import is_shortage
from mlis.data.stored import StoredRows
from mlis.errors import DataError, OutOfMemoryError, SettingsError
from mlis.preprocessing import FeatureScaler

Array = TypeVar("Array", np.ndarray, Tensor)

logger = logging.getLogger(__name__)

BATCH = 2048  # rows at a time: as fast as more of them, and its activations are 16 MiB
FAR = 8.0  # a shift of more ranges than this is not folded into the weights


@dataclass(frozen=True, eq=False)
class Recognizer:
    """A trained recognizer of seen and unseen classes.

    Every method takes (B, Dx) features, a numpy array or a torch tensor on any device, and
    answers in kind; work goes through the recognizer's own device in batches.

    Attributes:
        scaler: from raw features to what the encoder saw in training.
        encoder_weight, encoder_bias: (Dh, Dx) and (Dh,) of `h = ReLU(W x + b)`; None when the
            classifier works on the scaled features themselves (components="none").
        classifier: scores of all classes from `h`.
        class_names: C names.
        seen_mask: (C,) bool.
        descriptors: (C, Da) as given; kept for the record, never used to predict.
        calibration: constant taken from the scores of seen classes (calibrated stacking,
            Chao et al., 2016).
    """

    scaler: FeatureScaler
    encoder_weight: Tensor | None
    encoder_bias: Tensor | None
    classifier: LinearClassifier
    class_names: tuple[str, ...]
    seen_mask: np.ndarray
    descriptors: np.ndarray
    calibration: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device

    @property
    def num_features(self) -> int:
        """Dx, the length of the features that it takes."""
        return len(self.scaler.shift)

    def with_calibration(self, constant: float) -> "Recognizer":
        """Return the same recognizer with another calibration constant."""
        return dataclasses.replace(self, calibration=float(constant))

    def to(self, device: str | torch.device) -> "Recognizer":
        """Return the same recognizer on another device."""
        scaler = FeatureScaler(
            self.scaler.transform, self.scaler.shift.to(device), self.scaler.factor.to(device)
        )
        classifier = LinearClassifier(
            self.classifier.weight.to(device), self.classifier.bias.to(device)
        )
        weight, bias = self.encoder_weight, self.encoder_bias
        return dataclasses.replace(
            self,
            scaler=scaler,
            classifier=classifier,
            encoder_weight=None if weight is None else weight.to(device),
            encoder_bias=None if bias is None else bias.to(device),
        )

    def refine(self, x: Array, batch_size: int = BATCH) -> Array:
        """Refined features `h = E(x)`, (B, Dh) float; the scaled features without an encoder."""
        width = self.num_features if self.encoder_weight is None else len(self.encoder_weight)
        return self._batched(x, batch_size, (width,), self._refine)

    @overload
    def scores(self, x: Tensor, batch_size: int = BATCH) -> Tensor: ...

    @overload
    def scores(self, x: np.ndarray | StoredRows, batch_size: int = BATCH) -> np.ndarray: ...

    def scores(
        self, x: Tensor | np.ndarray | StoredRows, batch_size: int = BATCH
    ) -> Tensor | np.ndarray:
        """Logits of all classes, (B, C), the calibration constant taken from seen classes."""
        return self._batched(x, batch_size, (len(self.class_names),), self._scores)

    def predict(self, x: Array, batch_size: int = BATCH) -> Array:
        """Index of the best class of each row, (B,) int64."""
        return self._batched(x, batch_size, (), self._predict)

    def top_k(self, x: Array, k: int = 5, batch_size: int = BATCH) -> tuple[Array, Array]:
        """Indices (B, k) int64 and scores (B, k) of the k best classes, best first."""
        if k < 1:
            raise SettingsError(f"k must be at least 1, but got {k}")
        k = min(k, len(self.class_names))
        scores = self.scores(x, batch_size)
        if isinstance(scores, np.ndarray):
            indices = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return cast(Array, indices), cast(Array, np.take_along_axis(scores, indices, axis=1))
        best = scores.topk(k, dim=1)
        return cast(Array, best.indices), cast(Array, best.values)

    @cached_property
    def _fused(self) -> "_Fused":
        """Made when it is first used, from weights that are not to be changed afterwards."""
        return _Fused.of(self)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a copy makes the fused weights anew."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def _refine(self, x: Tensor, out: Tensor, work: "_Workspace") -> None:
        if self.encoder_weight is None:
            out.copy_(self.scaler(x))
        else:
            self._fused.hidden(x, out, work)

    def _scores(self, x: Tensor, out: Tensor, work: "_Workspace") -> None:
        self._fused.scores(x, out, work)

    def _predict(self, x: Tensor, out: Tensor, work: "_Workspace") -> None:
        scores = work.rows("scores", len(x), len(self.class_names))
        self._fused.scores(x, scores, work)
        torch.argmax(scores, dim=1, out=out)

    @torch.no_grad()
    def _batched(
        self,
        x: Tensor | np.ndarray | StoredRows,
        batch_size: int,
        shape: tuple[int, ...],
        function: "Callable[[Tensor, Tensor, _Workspace], None]",
    ) -> Any:
        """Fill (B, *shape) batch by batch: `function(rows, out, workspace)`."""
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise DataError(
                f"this recognizer takes features of shape (B, {self.num_features}), but got "
                f"{tuple(x.shape)}: use features of the same model as in training"
            )
        weight = self.classifier.weight
        home = x.device if isinstance(x, Tensor) else torch.device("cpu")
        dtype = weight.dtype if shape else torch.int64
        result = torch.empty((len(x), *shape), dtype=dtype, device=home)
        here = home == weight.device
        work = _Workspace(weight)
        start = 0
        while start < len(x):
            try:
                part = _as_tensor(x[start : start + batch_size], weight, work)
                _check_finite(part, start)
                target = result[start : start + len(part)]
                out = target if here else torch.empty_like(target, device=weight.device)
                function(part, out, work)
                if not here:
                    target.copy_(out)
                start += len(part)
            except (MemoryError, RuntimeError) as error:
                work = _Workspace(weight)
                batch_size = _smaller(batch_size, error)
        return result if isinstance(x, Tensor) else result.numpy()


def _smaller(batch_size: int, error: Exception) -> int:
    """Half the batch, where it was too large for the memory."""
    if not is_shortage(error):
        raise error
    if batch_size == 1:
        raise OutOfMemoryError(
            "recognition: memory does not suffice even for one row at a time: use device='cpu', or "
            "a larger machine"
        ) from error
    logger.warning("memory does not suffice for %d rows at a time: taking half", batch_size)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return batch_size // 2


class _Workspace:
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
class _Fused:
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
    def of(cls, r: Recognizer) -> "_Fused":
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

    def hidden(self, x: Tensor, out: Tensor, work: _Workspace) -> None:
        """`out = h`, (B, Dh), of (B, Dx) features as they come."""
        assert self.encoder is not None
        weight, bias = self.encoder
        torch.addmm(bias, self._inputs(x, work), weight.T, out=out).relu_()

    def scores(self, x: Tensor, out: Tensor, work: _Workspace) -> None:
        """Scores (B, C) of (B, Dx) features as they come."""
        if self.encoder is None:
            h = self._inputs(x, work)
        else:
            h = work.rows("hidden", len(x), len(self.encoder[1]))
            self.hidden(x, h, work)
        torch.addmm(self.bias, h, self.weight.T, out=out)

    def _inputs(self, x: Tensor, work: _Workspace) -> Tensor:
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


def _check_finite(part: Tensor, start: int) -> None:
    """Raise `DataError` for the first row with NaN or infinity.

    A sum is finite only if all its terms are; finite ones may overflow, so a second look decides.
    """
    if math.isfinite(float(part.sum())):
        return
    finite = torch.isfinite(part).all(1)
    if not bool(finite.all()):
        row = start + int((~finite).nonzero()[0])
        raise DataError(f"features row {row} holds NaN or infinity: leave that row out")


def _as_tensor(part: np.ndarray | Tensor, like: Tensor, work: _Workspace) -> Tensor:
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
