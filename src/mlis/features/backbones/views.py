"""Several views of each picture: one vector each, concatenated.

Crop and resize themselves are in each backbone's `prepare`.

- `centre`: the model's own preparation, as a rule a centre crop.
- `whole`: the whole picture, squashed to the size of the model's input. What the crop cuts off is
  seen here, and what squashing distorts is undistorted there.
- `centre-flip`, `whole-flip`: mirrored horizontally, averaged with the view that is not mirrored. A
  mirrored picture shows the same things, so that its features are a second measurement of the same
  numbers: the average has less noise, and every further column would be nearly a copy of another.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mlis.errors import SettingsError
from mlis.features.backbones.base import CENTRE, Backbone, BackboneSpec, PictureModel

WHOLE, FLIP = "whole", "-flip"
_CROPS = (*CENTRE, WHOLE)
VIEWS = (*_CROPS, *(crop + FLIP for crop in _CROPS))


def with_views(model: PictureModel, views: Sequence[str] | None) -> Backbone:
    """The model with these views of each picture.

    Args:
        model: of a single view.
        views: of `VIEWS`, in the order of the features; a mirrored view beside the one that is not.
            None: centre and whole, or centre if the model does not crop, as both would be the same.

    Raises:
        SettingsError: there is no such view, one is named twice, or one is of no use.
    """
    if views is None:
        views = _CROPS if model.crops else CENTRE
    views = _in_order(views)
    if WHOLE in views and not model.crops:
        raise SettingsError(
            f"views: expected {CENTRE[0]!r} with {model.identity.name}, whose own preparation does "
            f"not crop, got {','.join(views)}. Omit {WHOLE!r}"
        )
    if views == CENTRE:
        return model
    if model.identity.regions > 1 and any(view.endswith(FLIP) for view in views):
        raise SettingsError(
            f"views: expected {', '.join(_CROPS)} with regions, as those of a mirrored picture "
            f"are others, got {','.join(views)}. Omit the mirrored ones"
        )
    return Views(model, views)


def _in_order(views: Sequence[str]) -> tuple[str, ...]:
    """Checked, and each mirrored view after the one that is not."""
    shown = ",".join(views)
    if not views or set(views) - set(VIEWS) or len(set(views)) < len(views):
        raise SettingsError(f"views: expected different ones of {', '.join(VIEWS)}, got {shown!r}")
    crops = dict.fromkeys(view.removesuffix(FLIP) for view in views)
    if alone := [crop for crop in crops if crop not in views]:
        raise SettingsError(
            f"views: expected {alone[0]!r} beside {alone[0] + FLIP!r}, with which it is averaged, "
            f"got {shown!r}. Add it"
        )
    return tuple(view for crop in crops for view in (crop, crop + FLIP) if view in views)


class Views:
    """A :class:`~mlis.features.backbones.base.Backbone` of several views; see `with_views`.

    Args:
        model: of a single view.
        views: V checked names, each mirrored view after the one that is not.
    """

    def __init__(self, model: PictureModel, views: tuple[str, ...]):
        self.model: PictureModel = model
        crops = list(dict.fromkeys(view.removesuffix(FLIP) for view in views))
        self._places: list[list[int]] = [
            [i for i, view in enumerate(views) if view.removesuffix(FLIP) == crop] for crop in crops
        ]
        regions = model.identity.regions
        self.identity: BackboneSpec = replace(
            model.identity,
            size=model.identity.size * len(crops),
            views=views,
            regions=regions * len(crops) if regions > 1 else 1,
        )
        self.precision: str = model.precision
        self.on_cpu: bool = model.on_cpu
        self.batch: int = max(1, model.batch // len(views))
        self.enough: int | None = model.enough

    def prepare(self, image: Image.Image) -> np.ndarray:
        """(V, …): the model's input for each view of one image."""
        views = self.identity.views
        mirrored = ImageOps.mirror(image) if any(view.endswith(FLIP) for view in views) else image
        return np.stack([self._prepared(image, mirrored, view) for view in views])

    def _prepared(self, image: Image.Image, mirrored: Image.Image, view: str) -> np.ndarray:
        picture = mirrored if view.endswith(FLIP) else image
        if view.startswith(WHOLE):
            return self.model.prepare_whole(picture)
        return self.model.prepare(picture)

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """(B, Dx) float32 of B prepared images."""
        rows = self.model([view for views in inputs for view in views])
        rows = rows.reshape(len(inputs), -1, rows.shape[1])
        return np.concatenate([rows[:, places].mean(axis=1) for places in self._places], axis=1)

    def joined(self, rows: Tensor) -> Tensor:
        """(B, Dx) of (B · V, D), the features of all views of each image."""
        rows = rows.unflatten(0, (-1, len(self.identity.views)))
        return torch.cat([rows[:, places].mean(dim=1) for places in self._places], dim=1)
