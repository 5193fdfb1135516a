"""The trained recognizer: preprocessing → refiner → head → calibration."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from mlis.config import checked_rate
from mlis.data.dataset import DISPLAYED
from mlis.data.labels import shorten
from mlis.data.out_of_core.arrays import as_float32
from mlis.data.out_of_core.stored import StoredRows
from mlis.errors import DataError, SettingsError
from mlis.escape import html_table
from mlis.model.batches import Workspace, in_batches
from mlis.model.feature_range import FeatureRange, RangeWatch
from mlis.model.fused import Folded, Fused
from mlis.model.heads import EnsembleHead, GaussianHead, Head
from mlis.model.preprocessing import FeatureScaler
from mlis.model.refiners import Refiner
from mlis.model.rejection import known_levels, known_scores

if TYPE_CHECKING:  # only for the type of a field: training code never imports evaluation
    from mlis.evaluation import TradeOff

Array = TypeVar("Array", np.ndarray, Tensor)

ADAPTED = "adapt"  # an action of the history: the model is transductive
BATCH = 2048  # rows at a time: as fast as more of them, and its activations are 16 MiB


@dataclass(frozen=True)
class Metadata:
    """What is known about a recognizer besides its weights; kept in its file, never used in scores.

    Attributes:
        sources: how its features and descriptors were made, where that is known, as in
            :class:`~mlis.data.dataset.Provenance`.
        history: additions, removals and renamings of classes: when, and with which settings.
        record: saved with it: settings, data, seed, results.
        tradeoff: U and S on validation classes by the calibration constant, as it was trained;
            None where nothing was chosen on validation classes.
        rejection: quantiles of `known_scores` over validation images of known classes, at
            :data:`mlis.model.rejection.LEVELS`; empty where there were none.
    """

    sources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    history: tuple[Mapping[str, Any], ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tradeoff: "TradeOff | None" = None
    rejection: tuple[float, ...] = ()


class Recognizer(nn.Module):
    """A trained recognizer of seen and unseen classes, in eval mode and without gradients.

    `refine`, `scores`, `probabilities`, `predict` and `top_k` take (B, Dx) features, a numpy array
    or a torch tensor on any device, and return the array type they were given (an array for lists);
    they compute on the recognizer's device, in batches. NaN, infinity, numbers beyond float32, and
    rows with non-finite scores raise `DataError`; features far outside the training's range give a
    :class:`~mlis.errors.FeatureRangeWarning`. `forward` is the plain formula, without any of that.

    Args:
        preprocessing: from raw features to those that the refiner was trained on.
        refiner: one of :mod:`mlis.model.refiners`.
        head: one of :mod:`mlis.model.heads`.
        class_names: C names.
        seen_mask: (C,) bool; becomes a buffer, as `descriptors` does.
        descriptors: (C, Da) as given; kept to add classes, never used to predict.
        calibration: constant subtracted from the scores of seen classes (calibrated stacking,
            Chao et al., 2016).
        metadata: sources, history and record.
        temperature: positive number that calibrated scores are divided by before the softmax (Guo
            et al., 2017); changes probabilities, not predictions.

    Raises:
        SettingsError: the temperature is not a positive number.
    """

    seen_mask: Tensor
    descriptors: Tensor

    def __init__(
        self,
        preprocessing: FeatureScaler,
        refiner: Refiner,
        head: Head,
        class_names: Sequence[str],
        seen_mask: Tensor | np.ndarray,
        descriptors: Tensor | np.ndarray,
        calibration: float = 0.0,
        metadata: Metadata | None = None,
        temperature: float = 1.0,
    ):
        super().__init__()
        self.preprocessing: FeatureScaler = preprocessing
        self.refiner: Refiner = refiner
        self.head: Head = head
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.calibration: float = float(calibration)
        self.metadata: Metadata = metadata or Metadata()
        if not 0 < temperature < float("inf"):
            raise SettingsError(f"temperature: expected a positive number, got {temperature}.")
        self.temperature: float = float(temperature)
        self.register_buffer("seen_mask", _tensor(seen_mask))
        self.register_buffer("descriptors", _tensor(descriptors))
        self.requires_grad_(False).eval().to(self.device)
        self._prepared: _Prepared | None = None

    @property
    def display_names(self) -> dict[str, str]:
        """What people read in place of a class name, where the table of classes said so."""
        known: Mapping[str, str] = self.metadata.sources.get(DISPLAYED) or {}
        return {name: known[name] for name in self.class_names if name in known}

    def __repr__(self) -> str:
        seen = int(self.seen_mask.sum())
        kinds = f"{self.refiner.kind} refiner, {self.head.kind} head"
        return (
            f"Recognizer({len(self.class_names)} classes: {seen} seen, "
            f"{len(self.class_names) - seen} unseen; {self.num_features} → {self._width} features, "
            f"{kinds}, calibration {self.calibration:g}{', transductive' * self.transductive})"
        )

    def _repr_html_(self) -> str:
        """A table of classes, composition and what validation said, for notebooks."""
        pairs = zip(self.class_names, self.seen_mask.numpy(force=True), strict=True)
        names = [name for name, is_seen in pairs if not is_seen]
        seen = len(self.class_names) - len(names)
        tradeoff = self.metadata.tradeoff
        point = None if tradeoff is None else tradeoff.at(self.calibration)
        rows: list[Sequence[object]] = [
            [
                "classes",
                f"{seen} with training images (seen), {len(names)} described only (unseen)",
            ],
            ["described only", shorten(names)],
            ["features", f"{self.num_features} → {self._width} numbers"],
            ["composition", f"{self.refiner.kind} refiner, {self.head.kind} head"],
            ["calibration constant", f"{self.calibration:g}"],
        ]
        if self.transductive:
            rows.append(["adapted to unlabelled images", "transductive"])
        if point is not None:
            rows.append(["on validation classes", f"U {point.U:.1f}, S {point.S:.1f}"])
        return html_table("Recognizer", rows)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weight.device

    @property
    def num_features(self) -> int:
        """The length of the features that it takes, of all regions."""
        return self.preprocessing.inputs

    @property
    def transductive(self) -> bool:
        """Whether it learnt from unlabelled images of the classes (:mod:`mlis.incremental.adapt`).

        Its figures are not comparable with those of inductive models.
        """
        return any(entry.get("action") == ADAPTED for entry in self.metadata.history)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dx) features, of its device and dtype; differentiable."""
        scores = self.head(self.refiner(self.preprocessing(x)))
        return scores - self.calibration * self.seen_mask

    def refine(self, x: Array, batch_size: int = BATCH) -> Array:
        """Refined features `h`, (B, Dh) float; the scaled features where the refiner is "none"."""
        return self._batched(x, batch_size, (self._width,), self._refine)

    @overload
    def scores(self, x: Tensor, batch_size: int = BATCH) -> Tensor: ...

    @overload
    def scores(self, x: np.ndarray | StoredRows, batch_size: int = BATCH) -> np.ndarray: ...

    def scores(
        self, x: Tensor | np.ndarray | StoredRows, batch_size: int = BATCH
    ) -> Tensor | np.ndarray:
        """Scores of all classes, (B, C), the constant subtracted from those of seen classes."""
        return self._batched(x, batch_size, (len(self.class_names),), self._scores)

    @overload
    def probabilities(self, x: Tensor, batch_size: int = BATCH) -> Tensor: ...

    @overload
    def probabilities(self, x: np.ndarray | StoredRows, batch_size: int = BATCH) -> np.ndarray: ...

    def probabilities(
        self, x: Tensor | np.ndarray | StoredRows, batch_size: int = BATCH
    ) -> Tensor | np.ndarray:
        """Probabilities of all classes, (B, C): `softmax(scores / temperature)`."""
        return probabilities_of(self.scores(x, batch_size), self.temperature)

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

    def densities(self, x: Tensor | np.ndarray | StoredRows, batch_size: int = BATCH) -> Any:
        """Log-densities (B, C + 1) of the classes and of the background; None without a density.

        See :meth:`mlis.model.heads.GaussianHead.background`; no constant is subtracted.
        """
        if (part := self.gaussian_part()) is None:
            return None
        fill = partial(self._densities, *part)
        return self._batched(x, batch_size, (len(self.class_names) + 1,), fill)

    def gaussian_part(self) -> tuple[Refiner, GaussianHead] | None:
        """The Gaussian head, alone or the first of an ensemble, with its refiner; None without."""
        parts = [(self.refiner, self.head)]
        if isinstance(self.head, EnsembleHead):
            parts = [(one.refiner, one.head) for one in self.head.members]
        for refiner, head in parts:
            if isinstance(head, GaussianHead):
                return refiner, head
        return None

    def known_scores(self, x: np.ndarray | StoredRows, batch_size: int = BATCH) -> np.ndarray:
        """How much each row looks like one of a known class, (B,); see `mlis.model.rejection`."""
        scores = self.scores(x, batch_size)
        return known_scores(scores, self.densities(x, batch_size))

    def known_levels(self, x: np.ndarray, batch_size: int = BATCH) -> np.ndarray:
        """Share of validation images of known classes that look less known than each row, (B,).

        Raises:
            DataError: the model has no rejection quantiles.
        """
        return known_levels(self.known_scores(x, batch_size), self.metadata.rejection)

    def unknown(self, x: np.ndarray, rate: float | str, batch_size: int = BATCH) -> np.ndarray:
        """Whether each row is to be answered "unknown", (B,) bool.

        Args:
            x: (B, Dx).
            rate: share of images of known classes that may be turned away, `0.05` or `"5%"`.
            batch_size: rows at a time.

        Raises:
            SettingsError: the rate is not above 0 and below 1.
            DataError: the model has no rejection quantiles.
        """
        least = checked_rate(rate)
        return self.known_levels(x, batch_size) < least

    @property
    def _weight(self) -> Tensor:
        return next(self.head.parameters())

    @property
    def _width(self) -> int:
        return self.refiner.width(len(self.preprocessing.shift))

    def _ready(self) -> "_Prepared":
        """What inference needs, made again where a tensor or the constant was changed."""
        key = (self.calibration, *map(_version, (*self.parameters(), *self.buffers())))
        if self._prepared is None or self._prepared.key != key:
            bounds = FeatureRange.of(self.preprocessing, self._weight)
            self._prepared = _Prepared(key, Fused.of(self), bounds, int(self.seen_mask.sum()))
        return self._prepared

    def __getstate__(self) -> dict[str, Any]:
        """Without what `_ready` makes again."""
        return {**self.__dict__, "_prepared": None}

    def _refine(self, fused: Folded | None, x: Tensor, out: Tensor, work: Workspace) -> Tensor:
        if not isinstance(fused, Fused) or fused.encoder is None:
            return out.copy_(self.refiner(self.preprocessing(x)))
        fused.hidden(x, out, work)
        return out

    def _scores(self, fused: Folded | None, x: Tensor, out: Tensor, work: Workspace) -> Tensor:
        if fused is None:
            return out.copy_(self(x))
        fused.scores(x, out, work)
        return out

    def _densities(
        self,
        refiner: Refiner,
        head: GaussianHead,
        fused: Folded | None,
        x: Tensor,
        out: Tensor,
        work: Workspace,
    ) -> Tensor:
        h = refiner(self.preprocessing(x))
        out[:, :-1] = head(h)
        out[:, -1] = head.background(h)
        return out

    def _predict(self, fused: Folded | None, x: Tensor, out: Tensor, work: Workspace) -> Tensor:
        scores = work.rows("scores", len(x), len(self.class_names))
        self._scores(fused, x, scores, work)
        torch.argmax(scores, dim=1, out=out)
        return scores

    def _batched(
        self,
        x: Tensor | np.ndarray | StoredRows,
        batch_size: int,
        shape: tuple[int, ...],
        function: Callable[[Folded | None, Tensor, Tensor, Workspace], Tensor],
    ) -> Any:
        """Fill (B, *shape) batch by batch: `function(fused, rows, out, workspace)`."""
        if not hasattr(x, "ndim"):  # lists of numbers
            x = as_float32(x, "features")
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise DataError(
                f"this recognizer takes features of shape (B, {self.num_features}), but got "
                f"{tuple(x.shape)}: use features of the same model as in training"
            )
        ready = self._ready()
        watch = None if ready.bounds is None else RangeWatch(ready.bounds, ready.seen)
        fill = partial(function, ready.fused)
        result = in_batches(x, batch_size, shape, fill, like=self._weight, watch=watch)
        if watch is not None:
            watch.warn()
        return result


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Made from the weights; valid while `key` is theirs."""

    key: tuple[Any, ...]
    fused: Folded | None
    bounds: FeatureRange | None
    seen: int


_ARGUMENTS = (
    *("preprocessing", "refiner", "head", "class_names", "seen_mask", "descriptors"),
    *("calibration", "metadata", "temperature"),
)


def replace(recognizer: Recognizer, **changes: Any) -> Recognizer:
    """A copy of a recognizer, with other arguments of the constructor."""
    kept = {name: getattr(recognizer, name) for name in _ARGUMENTS if name not in changes}
    return Recognizer(**copy.deepcopy(kept), **changes)


@overload
def probabilities_of(scores: Tensor, temperature: float) -> Tensor: ...


@overload
def probabilities_of(scores: np.ndarray, temperature: float) -> np.ndarray: ...


def probabilities_of(scores: Tensor | np.ndarray, temperature: float) -> Tensor | np.ndarray:
    """Probabilities (B, C) of calibrated scores (B, C): float64 of an array, float32 of a tensor.

    A tensor of float64 stays one.
    """
    if isinstance(scores, np.ndarray):
        values = scores.astype(np.float64) / temperature
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return values / values.sum(axis=1, keepdims=True)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores.to(dtype) / temperature, dim=1)


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(np.array(values, order="C"))  # pyright: ignore[reportUnknownMemberType]


def _version(tensor: Tensor) -> tuple[int, int]:
    """Changes where a tensor's numbers do."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
