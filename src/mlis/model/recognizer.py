"""Stage 3: from features to classes. No descriptor, no generator: scaler, encoder, classifier."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor

from mlis.compute.precision import resolve_device
from mlis.data.out_of_core.arrays import as_float32
from mlis.data.out_of_core.stored import StoredRows
from mlis.errors import DataError, SettingsError
from mlis.image_classifier import ImagePrediction, check_k, load_backbone_of, predictions
from mlis.incremental.class_changes import add_classes, remove_classes, rename_classes
from mlis.incremental.exemplar_buffer import Growth
from mlis.io.hub import Pretrained
from mlis.model.batches import Workspace, in_batches
from mlis.model.classification import LinearClassifier
from mlis.model.feature_range import FeatureRange, RangeWatch
from mlis.model.fused import Fused
from mlis.model.preprocessing import FeatureScaler

if TYPE_CHECKING:
    from pathlib import Path

    from mlis.features.backbones.base import Backbone
    from mlis.features.descriptors.new_classes import Descriptions
    from mlis.features.descriptors.text_model import TextModel
    from mlis.features.images.embed import Picture

Array = TypeVar("Array", np.ndarray, Tensor)

BATCH = 2048  # rows at a time: as fast as more of them, and its activations are 16 MiB


@dataclass(frozen=True, eq=False, repr=False)
class Recognizer(Pretrained):
    """A trained recognizer of seen and unseen classes.

    Every method takes (B, Dx) features, a numpy array or a torch tensor on any device, and
    returns the array type it was given (an array for lists); its own device computes, in batches.
    NaN, infinity, numbers beyond float32, and rows with non-finite scores raise `DataError`;
    features far outside the training's range give a :class:`~mlis.errors.FeatureRangeWarning`.

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
        sources: how its features and descriptors were made, where that is known, as in
            :class:`~mlis.data.dataset.Provenance`.
        growth: what adding classes needs, or None.
        history: what was added, removed and renamed, when, with which settings.
        record: facts that were saved with it: settings, data, seed, results.
    """

    scaler: FeatureScaler
    encoder_weight: Tensor | None
    encoder_bias: Tensor | None
    classifier: LinearClassifier
    class_names: tuple[str, ...]
    seen_mask: np.ndarray
    descriptors: np.ndarray
    calibration: float = 0.0
    sources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    growth: Growth | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        seen, width = int(self.seen_mask.sum()), self.classifier.weight.shape[1]
        return (
            f"Recognizer({len(self.class_names)} classes: {seen} seen, "
            f"{len(self.class_names) - seen} unseen; {self.num_features} → {width} features, "
            f"calibration {self.calibration:g})"
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device

    @property
    def num_features(self) -> int:
        """Dx, the length of the features that it takes."""
        return len(self.scaler.shift)

    @property
    def backbone(self) -> Mapping[str, Any]:
        """`BackboneSpec.to_dict` of the image model of its features; empty if unknown."""
        return self.sources.get("backbone") or {}

    def with_calibration(self, constant: float) -> "Recognizer":
        """Return the same recognizer with another calibration constant."""
        return dataclasses.replace(self, calibration=float(constant))

    def to(self, device: str | torch.device) -> "Recognizer":
        """Return the same recognizer on another device ("auto", "cpu", "cuda:0", …).

        Raises:
            SettingsError: this machine has no device of that name.
        """
        device = resolve_device(device) if isinstance(device, str) else device
        classifier = LinearClassifier(
            self.classifier.weight.to(device), self.classifier.bias.to(device)
        )
        weight, bias = self.encoder_weight, self.encoder_bias
        return dataclasses.replace(
            self,
            scaler=self.scaler.to(device),
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

    def load_backbone(
        self,
        backbone: "Backbone | str | None" = None,
        *,
        device: str = "auto",
        precision: str = "auto",
    ) -> "Backbone":
        """Load the image model that this recognizer was trained with, for `predict_images`.

        The recorded one is loaded from this machine alone: what a file names is not downloaded.

        Args:
            backbone: instead of the recorded one: a name, which is downloaded where it is not on
                this machine, or a loaded image model.
            device, precision: as :func:`mlis.features.backbones.load_backbone` takes them.

        Raises:
            DataError: none is recorded and none given, or it is another one than the training's.
            SettingsError: it cannot be had.
        """
        return load_backbone_of(self, backbone, device, precision)

    def predict_images(
        self,
        images: "Iterable[Picture]",
        k: int = 5,
        *,
        backbone: "Backbone | str | None" = None,
        device: str = "auto",
        workers: int | None = None,
    ) -> list[ImagePrediction]:
        """Recognise photographs: the best k classes of each, or why it could not be read.

        Args:
            images: paths, or PIL images.
            k: classes an image; all where there are fewer.
            backbone: what `load_backbone` gave, to load it once for many calls; or a name, which is
                downloaded where it is not on this machine. The recorded one where absent, which is
                never downloaded.
            device: where the image model computes, if it is loaded here.
            workers: threads that read and decode.

        Raises:
            DataError, SettingsError: as `load_backbone`; a bad image raises nothing.
        """
        check_k(k)
        model = load_backbone_of(self, backbone, device, "auto")
        return list(predictions(self, images, k, model, workers))

    def describe_classes(
        self, classes: "str | Path | Descriptions", *, model: "TextModel | None" = None
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """Names and descriptors (n, Da) of further classes, made as those of the training were.

        Args:
            classes: a table with the columns that the training's had, or {name: sentence}, or
                {name: [sentence, …]}.
            model: the text model, where it is loaded already.

        Raises:
            DataError: it is not known how the training's were made, or what is wrong with the
                table.
        """
        from mlis.features.descriptors.new_classes import describe_like

        return describe_like(self.sources.get("descriptors") or {}, classes, model=model)

    def add_classes(
        self,
        names: Sequence[str],
        descriptors: Any,
        *,
        synthetic_per_class: int | None = None,
        note: str = "",
    ) -> "Recognizer":
        """Return a recognizer that knows further classes, of which there is no image.

        Generator and encoder stay; stage 2 is solved again, on what `growth` holds.

        Args:
            names: n new names.
            descriptors: (n, Da), made as those of the training (`describe_classes`).
            synthetic_per_class: synthetic samples an unseen class; the training's number where
                absent.
            note: kept in the history.

        Raises:
            DataError: a name is there already or given twice, a descriptor has another length, is
                zero or not finite, or the model holds nothing to add classes with.
        """
        return add_classes(
            self, names, descriptors, synthetic_per_class=synthetic_per_class, note=note
        )

    def remove_classes(self, names: Sequence[str]) -> "Recognizer":
        """Return a recognizer without these classes; the scores of the others stay.

        Raises:
            DataError: a name that no class has, or fewer than two classes would be left.
        """
        return remove_classes(self, names)

    def rename_classes(self, names: Mapping[str, str]) -> "Recognizer":
        """Return a recognizer whose classes have new names, {old: new}.

        Raises:
            DataError: a name that no class has, or two classes would be named alike.
        """
        return rename_classes(self, names)

    @cached_property
    def _fused(self) -> Fused:
        """Made when it is first used, from weights that are not to be changed afterwards."""
        return Fused.of(self)

    @cached_property
    def _range(self) -> FeatureRange | None:
        return FeatureRange.of(self.scaler, self.classifier.weight)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a copy makes the fused weights anew."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def _refine(self, x: Tensor, out: Tensor, work: Workspace) -> Tensor:
        if self.encoder_weight is None:
            return out.copy_(self.scaler(x))
        self._fused.hidden(x, out, work)
        return out

    def _scores(self, x: Tensor, out: Tensor, work: Workspace) -> Tensor:
        self._fused.scores(x, out, work)
        return out

    def _predict(self, x: Tensor, out: Tensor, work: Workspace) -> Tensor:
        scores = work.rows("scores", len(x), len(self.class_names))
        self._fused.scores(x, scores, work)
        torch.argmax(scores, dim=1, out=out)
        return scores

    def _batched(
        self,
        x: Tensor | np.ndarray | StoredRows,
        batch_size: int,
        shape: tuple[int, ...],
        function: Callable[[Tensor, Tensor, Workspace], Tensor],
    ) -> Any:
        """Fill (B, *shape) batch by batch: `function(rows, out, workspace)`; see `in_batches`."""
        if not hasattr(x, "ndim"):  # lists of numbers
            x = as_float32(x, "features")
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise DataError(
                f"this recognizer takes features of shape (B, {self.num_features}), but got "
                f"{tuple(x.shape)}: use features of the same model as in training"
            )
        watch = None if self._range is None else RangeWatch(self._range, int(self.seen_mask.sum()))
        like = self.classifier.weight
        result = in_batches(x, batch_size, shape, function, like=like, watch=watch)
        if watch is not None:
            watch.warn()
        return result
