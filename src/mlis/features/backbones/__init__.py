"""Pretrained image models: RGB images in, one feature vector each out.

A new family of models is a class in a file of its own, with a line in `FAMILIES`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mlis.compute.precision import Precision
from mlis.errors import SettingsError
from mlis.features.backbones.base import CENTRE, DEFAULT, Backbone, BackboneSpec, PictureModel
from mlis.features.backbones.efficientnet import EfficientNetLite
from mlis.features.backbones.joined import Joined
from mlis.features.backbones.regions import Regions
from mlis.features.backbones.transformers_model import VisionModel
from mlis.features.backbones.views import with_views

BENCHMARK = "microsoft/resnet-101"
"""The CNN of the paper and of the published benchmarks: 2048 features, global average pooling."""


class Family(Protocol):
    """Loads the backbones of one family."""

    def __call__(self, name: str, precision: Precision, *, download: bool) -> PictureModel: ...  # noqa: D102


FAMILIES: dict[str, Family] = {
    "efficientnet-lite": EfficientNetLite,
    "": VisionModel,  # any other name
}
"""Prefix of a backbone's name → its family; the first match is used."""


def load_backbone(
    name: str = DEFAULT,
    *,
    device: str = "auto",
    precision: str = "auto",
    download: bool = True,
    views: Sequence[str] | None = CENTRE,
    grid: int = 1,
) -> Backbone:
    """Load a pretrained image model.

    Args:
        name: `efficientnet-lite0`, `-lite1` or `-lite2` (packaged weights, no network access); or
            any vision or image-text model of `transformers`, by its name on the hub or as a local
            folder. Several, separated by commas: their features are joined.
        device: auto, cpu or cuda.
        precision: auto (bfloat16 if faster, else float32), float32 or bfloat16.
        download: whether a model may be downloaded from the hub. Use False if the name comes from
            a file instead of the user.
        views: of each picture, whose features are joined; see
            :func:`mlis.features.backbones.views.with_views`. None, as on the command line: centre
            and whole, if they differ (for each of several models); with a grid the centre.
        grid: G, for features of G² regions of each view, joined
            (:mod:`mlis.features.backbones.regions`); 1 for those of the whole view.

    Raises:
        SettingsError: there is no such model, view or device, a grid does not suit the model, or
            an extra is not installed.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise SettingsError(f"precision: expected auto, float32 or bfloat16, got {precision!r}")
    arithmetic = Precision.of(precision, device)
    models = [_load(one, arithmetic, download=download) for one in _names(name)]
    if len(models) > 1:
        if grid > 1:
            raise SettingsError(
                f"regions: expected one image model, as regions of several have no common size, "
                f"got {name!r}. Name one, or omit the regions"
            )
        if views is None and not all(model.crops for model in models):
            views = CENTRE
        return Joined([with_views(model, views) for model in models])
    if grid == 1:
        return with_views(models[0], views)
    return with_views(Regions(models[0], grid), CENTRE if views is None else views)


def _names(name: str) -> list[str]:
    """Those of several models; a folder may have a comma in its name."""
    names = [name] if Path(name).exists() else name.split(",")
    if "" in names or len(set(names)) < len(names):
        raise SettingsError(
            f"backbone: expected a name, or different ones separated by commas, got {name!r}"
        )
    return names


def _load(name: str, precision: Precision, *, download: bool) -> PictureModel:
    family = next(family for prefix, family in FAMILIES.items() if name.startswith(prefix))
    return family(name, precision, download=download)


__all__ = [
    "BENCHMARK",
    "DEFAULT",
    "FAMILIES",
    "Backbone",
    "BackboneSpec",
    "Family",
    "load_backbone",
]
