"""Stage 3: from features to classes. No descriptor, no generator: scaler, encoder, classifier."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor

from mlis.classification import LinearClassifier
from mlis.data.stored import StoredRows
from mlis.errors import DataError, SettingsError
from mlis.preprocessing import FeatureScaler

Array = TypeVar("Array", np.ndarray, Tensor)


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

    def refine(self, x: Array, batch_size: int = 8192) -> Array:
        """Refined features `h = E(x)`, (B, Dh) float; the scaled features without an encoder."""
        return self._batched(x, batch_size, self._refine)

    @overload
    def scores(self, x: Tensor, batch_size: int = 8192) -> Tensor: ...

    @overload
    def scores(self, x: np.ndarray | StoredRows, batch_size: int = 8192) -> np.ndarray: ...

    def scores(
        self, x: Tensor | np.ndarray | StoredRows, batch_size: int = 8192
    ) -> Tensor | np.ndarray:
        """Logits of all classes, (B, C), the calibration constant taken from seen classes."""
        return self._batched(x, batch_size, self._scores)

    def predict(self, x: Array, batch_size: int = 8192) -> Array:
        """Index of the best class of each row, (B,) int64."""
        return self._batched(x, batch_size, lambda part: self._scores(part).argmax(1))

    def top_k(self, x: Array, k: int = 5, batch_size: int = 8192) -> tuple[Array, Array]:
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

    def _refine(self, x: Tensor) -> Tensor:
        x = self.scaler(x)
        if self.encoder_weight is None or self.encoder_bias is None:
            return x
        return torch.relu_(torch.addmm(self.encoder_bias, x, self.encoder_weight.T))

    def _scores(self, x: Tensor) -> Tensor:
        seen = torch.from_numpy(self.seen_mask).to(x.device)
        return self.classifier(self._refine(x)) - self.calibration * seen.to(x.dtype)

    @torch.no_grad()
    def _batched(
        self,
        x: Tensor | np.ndarray | StoredRows,
        batch_size: int,
        function: Callable[[Tensor], Tensor],
    ) -> Any:
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise DataError(
                f"this recognizer takes features of shape (B, {self.num_features}), but got "
                f"{tuple(x.shape)}: use features of the same model as in training"
            )
        weight = self.classifier.weight
        parts: list[Tensor] = []
        for start in range(0, max(len(x), 1), batch_size):
            part = _as_tensor(x[start : start + batch_size], weight)
            if not bool(torch.isfinite(part).all()):
                row = start + int((~torch.isfinite(part)).any(1).nonzero()[0])
                raise DataError(f"features row {row} holds NaN or infinity: leave that row out")
            parts.append(function(part))
        result = torch.cat(parts)
        if isinstance(x, Tensor):
            return result.to(x.device)
        return result.cpu().numpy()


def _as_tensor(part: np.ndarray | Tensor, like: Tensor) -> Tensor:
    """Bring some rows to the device and dtype of `like`; an array of any layout is copied."""
    if isinstance(part, np.ndarray):
        # torch takes no read-only, reversed or big-endian array (a memory map is the first).
        dtype = np.float64 if like.dtype == torch.float64 else np.float32
        part = torch.from_numpy(np.array(part, dtype=dtype, order="C"))
    return part.to(like.device, like.dtype)
