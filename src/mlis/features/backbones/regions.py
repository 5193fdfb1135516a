"""Several regions of each view: the means of a model's last map over the cells of a grid.

A row is the R · D numbers of all regions, one region after the other. Systems that attend to parts
of an image read them as (R, D); every other method sees their mean (`mlis.model.preprocessing`),
which is the usual feature of a network that ends in a global average.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlis.errors import SettingsError
from mlis.features.backbones.base import BackboneSpec, PictureModel, run


class Regions:
    """A :class:`~mlis.features.backbones.base.PictureModel` whose features are those of a grid.

    Args:
        model: of a single view.
        grid: cells along each side, at least 2.

    Raises:
        SettingsError: the grid is smaller, or larger than the model's last map.
    """

    def __init__(self, model: PictureModel, grid: int):
        if grid < 2:
            raise SettingsError(
                f"regions: expected a grid of at least 2, got {grid}. Leave it out for one region"
            )
        self.model: PictureModel = model
        self.grid: int = grid
        self.precision: str = model.precision
        self.on_cpu: bool = model.on_cpu
        self.batch: int = model.batch
        self.enough: int | None = model.enough
        self.crops: bool = model.crops
        size = self([model.prepare(Image.new("RGB", (64, 48)))]).shape[1]
        self.identity: BackboneSpec = replace(
            model.identity,
            pooling=f"means of the last map over a grid of {grid} × {grid}",
            size=size,
            regions=grid**2,
        )

    def prepare(self, image: Image.Image) -> np.ndarray:
        """As the model does."""
        return self.model.prepare(image)

    def prepare_whole(self, image: Image.Image) -> np.ndarray:
        """As the model does."""
        return self.model.prepare_whole(image)

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """(B, R · D) float32 of B prepared images of equal shape."""
        return run(self, torch.from_numpy(np.stack(inputs)))

    def features(self, batch: Tensor) -> Tensor:
        """(B, R · D) of B stacked prepared images."""
        return self.regions(batch, self.grid).flatten(1)

    def regions(self, batch: Tensor, grid: int) -> Tensor:
        """(B, grid², D), as the model gives it."""
        return self.model.regions(batch, grid)
