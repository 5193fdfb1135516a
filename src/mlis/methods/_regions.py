"""Base of methods that read the regions of an image, and their principal components.

On features of one region per image such a method is another system, with a name of its own.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mlis.data.out_of_core.streaming import CHUNK_ROWS, StreamedRows
from mlis.errors import SettingsError
from mlis.methods.base import Job
from mlis.methods.network_method import NetworkMethod, within
from mlis.model.preprocessing import FeatureScaler, TrainingTensors
from mlis.model.refiners import Identity, Refiner, RegionLinear


@dataclass(frozen=True)
class RegionMethod(NetworkMethod):
    """A method of regions; see `NetworkMethod` for the other settings.

    Attributes:
        config: `preprocessing.feature_transform` and `precision` are used. Features are not scaled:
            a column stands for one place of the image, whose range is no property of what is seen.
        pca: principal components that each region is reduced to, of all regions of the training
            rows; 0 leaves regions as they are.
    """

    title: ClassVar[str]
    pooled_title: ClassVar[str]

    pca: int = within(0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        raw = self.config.replace({"preprocessing": {"feature_scaling": "none"}})
        object.__setattr__(self, "config", raw)

    @property
    def name(self) -> str:
        """As in the paper."""
        return self.title

    def name_on(self, regions: int) -> str:
        """As in the paper, unless there is one region."""
        return self.title if regions > 1 else self.pooled_title

    def read(self, job: Job) -> tuple[FeatureScaler, TrainingTensors, Refiner]:
        """Training rows (n, R · Dx), and what reduces each region of such a batch."""
        scaler, data = job.prepare(self.config, pool=False)
        reader = Identity()
        if self.pca:
            reader = principal_components(data.x, job.training.regions, self.pca)
        return scaler, data, reader


@torch.no_grad()
def principal_components(x: Tensor | StreamedRows, regions: int, count: int) -> RegionLinear:
    """The map from a region to its first principal components.

    Args:
        x: (n, R · D) training rows.
        regions: R.
        count: how many.

    Raises:
        SettingsError: a region has fewer numbers.
    """
    size = x.shape[1] // regions
    if count > size:
        raise SettingsError(
            f"pca: expected at most {size} components, the numbers of a region, got {count}. Lower "
            "it, or set it to 0"
        )
    total = torch.zeros(size, dtype=torch.float64, device=x.device)
    products = torch.zeros((size, size), dtype=torch.float64, device=x.device)
    rows = 0
    for part in x.split(max(1, CHUNK_ROWS // regions)):
        region = part.reshape(-1, size).double()
        total += region.sum(0)
        products += region.T @ region
        rows += len(region)
    mean = total / rows
    _, vectors = torch.linalg.eigh(products / rows - mean[:, None] * mean)
    kept = vectors[:, -count:].flip(1).T.contiguous()  # eigenvalues ascend
    return RegionLinear(kept.to(x.dtype), -(kept @ mean).to(x.dtype), 1.0)
