"""Closed-form generator: a class's mean feature by ridge regression, plus borrowed residuals.

The mean feature of a class is predicted from its descriptor by kernel ridge regression on the
means of the seen classes; a sample adds the residual `x − mean` of a random image of one of the
most similar seen classes, and is clipped at zero. No training loop: the baseline that a GAN has to
beat, and the instant mode for machines without a GPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlis.compute.class_sums import sum_by_class
from mlis.compute.random import uniform
from mlis.config import Generation
from mlis.data.out_of_core.streaming import CHUNK_ROWS, StreamedRows
from mlis.errors import SettingsError
from mlis.generators.base import Sampler
from mlis.model.preprocessing import TrainingTensors
from mlis.model.regression import Kernel, best_kernel, kernel_matrix, median_distance


@dataclass(frozen=True, eq=False)
class RidgePredictor:
    """Predicts class means from descriptors.

    Attributes:
        kernel: "linear" (a·a') or "rbf" (width: median distance of seen descriptors).
        descriptors: (S, Da) of the seen classes.
        mean: (Dx,) mean of the seen classes' means.
        weights: (S, Dx) dual coefficients (K + λI)⁻¹ (means − mean).
    """

    kernel: Kernel
    descriptors: Tensor
    mean: Tensor
    weights: Tensor

    @classmethod
    def fit(
        cls, descriptors: Tensor, means: Tensor, kernel: Kernel, penalty: float
    ) -> "RidgePredictor":
        """Regress (S, Dx) class means on (S, Da) descriptors.

        Raises:
            SettingsError: the penalty is too small for these descriptors.
        """
        mean = means.mean(0)
        width = _width(kernel, descriptors)
        gram = kernel_matrix(kernel, descriptors, descriptors, width).double()
        gram.diagonal().add_(penalty)
        try:
            weights = torch.linalg.solve(gram, (means - mean).double())
        except RuntimeError:  # torch._C._LinAlgError has no public name
            raise SettingsError(
                f"generation.ridge_lambda={penalty:g} is too small for these descriptors: their "
                "regression has no unique solution; raise it, or use descriptor_norm='l2'"
            ) from None
        return cls(kernel, descriptors, mean, weights.to(means.dtype))

    def __call__(self, descriptors: Tensor) -> Tensor:
        """Predict the (C, Dx) means of classes with these (C, Da) descriptors."""
        width = _width(self.kernel, self.descriptors)
        return self.mean + (
            kernel_matrix(self.kernel, descriptors, self.descriptors, width) @ self.weights
        )


def _width(kernel: Kernel, descriptors: Tensor) -> float:
    return median_distance(descriptors) if kernel == "rbf" else 1.0


def class_means(x: Tensor | StreamedRows, y: Tensor, num_classes: int) -> Tensor:
    """Mean of the rows of each class, (C, Dx); zero for a class without rows."""
    total = torch.zeros((num_classes, x.shape[1]), dtype=x.dtype, device=x.device)
    for rows, labels in zip(x.split(CHUNK_ROWS), y.split(CHUNK_ROWS), strict=True):
        if rows.device.type == "cpu":
            total.index_add_(0, labels, rows)  # row after row: chunks do not change a bit
        else:
            total += sum_by_class(rows, labels, num_classes)
    return total / torch.bincount(y, minlength=num_classes).clamp(min=1)[:, None]


@dataclass(frozen=True, eq=False)
class RidgeGenerator:
    """Samples class-conditional features in closed form.

    Attributes:
        predictor: descriptor → class mean.
        x: (n, Dx) training features.
        order: (n,) row numbers of `x`, ordered by seen class.
        starts, counts: (S,) where each seen class's rows lie in `order`.
        means: (S, Dx) means of the seen classes.
        neighbours: how many similar seen classes lend residuals.
        signed: whether features may be negative; else samples are clipped at zero.
        lenders: (S, Da) descriptors of those classes; the predictor's where absent.
    """

    predictor: RidgePredictor
    x: Tensor | StreamedRows
    order: Tensor
    starts: Tensor
    counts: Tensor
    means: Tensor
    neighbours: int
    signed: bool = False
    lenders: Tensor | None = None

    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors."""
        base = self.predictor(descriptors)
        lenders = self.predictor.descriptors if self.lenders is None else self.lenders
        similarity = torch.nn.functional.normalize(descriptors, dim=1) @ (
            torch.nn.functional.normalize(lenders, dim=1).T
        )
        near = similarity.topk(min(self.neighbours, similarity.shape[1]), dim=1).indices

        def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
            draws = uniform(rng, 2, len(labels))
            lender = near[labels, (draws[0] * near.shape[1]).long()]
            within = (draws[1] * self.counts[lender]).long()
            row = self.order[self.starts[lender] + within]
            x = base[labels] + self.x[row] - self.means[lender]
            return x if self.signed else torch.relu(x)

        return sample


def fit_ridge(data: TrainingTensors, settings: Generation) -> RidgeGenerator:
    """Fit the closed-form generator on a training split."""
    means = class_means(data.x, data.y, data.num_classes)[data.seen]
    counts = torch.bincount(data.y, minlength=data.num_classes)[data.seen]
    return RidgeGenerator(
        predictor=_predictor(data, means, settings),
        x=data.x,
        order=torch.argsort(data.y, stable=True),
        starts=counts.cumsum(0) - counts,
        counts=counts,
        means=means,
        neighbours=settings.ridge_neighbours,
        signed=data.signed,
    )


def fit_predictor(data: TrainingTensors, settings: Generation) -> RidgePredictor:
    """Regress the seen classes' mean features on their descriptors."""
    means = class_means(data.x, data.y, data.num_classes)[data.seen]
    return _predictor(data, means, settings)


def _predictor(data: TrainingTensors, means: Tensor, settings: Generation) -> RidgePredictor:
    descriptors, kernel = data.descriptors[data.seen], settings.ridge_kernel
    if kernel == "auto":
        kernel = best_kernel(descriptors, means)
    return RidgePredictor.fit(descriptors, means, kernel, settings.ridge_lambda)
