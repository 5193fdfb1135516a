"""Gaussian classifier: an image belongs to the class whose normal distribution it fits best.

Features are centred and projected on their k principal directions. A seen class is normal about the
mean of its n images, all classes with one covariance Σw, so that a new image of it has the
covariance (1 + 1/n) Σw. The mean of an unseen class is what a Gaussian process predicts from its
descriptor; the prediction is uncertain by v Σb, where v is the predictive variance of the class and
Σb the covariance of the process's leave-one-class-out errors (:mod:`mlis.model.regression`). So its
images have the covariance Σw + v Σb: a class about which less is known is wider, which keeps seen
and unseen classes comparable.

Class-conditional normal distributions whose parameters are regressed on descriptors are from Verma,
Rai: "A Simple Exponential Family Framework for Zero-Shot Learning", ECML 2017. The uncertainty by
leave-one-class-out errors, kernel and shrinkages are our choice. Everything is in closed form and
nothing is random. With W such that Wᵀ Σw W = I and Wᵀ Σb W = D is diagonal, a score is two matrix
products (:class:`~mlis.model.heads.GaussianHead`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mlis.compute.class_sums import sum_by_class
from mlis.compute.random import stream
from mlis.data.out_of_core.streaming import CHUNK_ROWS
from mlis.errors import SettingsError
from mlis.methods.base import Job, Method
from mlis.model.heads import GaussianHead
from mlis.model.preprocessing import FeatureScaler, TrainingTensors
from mlis.model.recognizer import Recognizer
from mlis.model.regression import ClassRegression, Kernel

_OVERSAMPLING, _ROUNDS = 20, 8  # of the subspace iteration
_LEAST = 1e-6  # eigenvalues below this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over the training rows, from which all alternatives follow; in float64.

    Attributes:
        offset: (Dx,) mean of the rows.
        directions: (k, Dx) principal directions, of the features as they come.
        means: (S, k) of the seen classes, in the principal directions.
        counts: (S,) their rows.
        within: eigenvalues (k,) and eigenvectors (k, k) of the covariance within classes.
    """

    offset: Tensor
    directions: Tensor
    means: Tensor
    counts: Tensor
    within: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, data: TrainingTensors, components: int, unit: Tensor) -> "Statistics":
        """Go through the training rows once.

        Args:
            data: the training rows.
            components: k at most.
            unit: (Dx,) that features are multiplied by, at least 0.
        """
        n, width = data.x.shape
        near = data.x[:CHUNK_ROWS].mean(0)  # squares of what is left are small
        gram = torch.zeros((width, width), dtype=data.x.dtype, device=data.y.device)
        sums = torch.zeros((data.num_classes, width), dtype=torch.float64, device=data.y.device)
        for x, y in zip(data.x.split(CHUNK_ROWS), data.y.split(CHUNK_ROWS), strict=True):
            x = (x - near) * unit
            gram.addmm_(x.T, x)
            sums += sum_by_class(x, y, data.num_classes)
        counts = torch.bincount(data.y, minlength=data.num_classes)[data.seen].double()
        centre = sums.sum(0) / n
        total = gram.double() / n - torch.outer(centre, centre)
        directions = _principal(total.to(gram.dtype), components).double()
        means = (sums[data.seen] / counts[:, None] - centre) @ directions
        total = directions.T @ total @ directions
        within = n * total - means.T @ (means * counts[:, None])
        e, U = torch.linalg.eigh(within / max(n - len(counts), 1))
        if e.mean() < _LEAST * total.diagonal().mean():  # one image a class, or equal ones
            e, U = torch.linalg.eigh(total)
        unit = unit.double()
        offset = near.double() + torch.where(unit > 0, centre / unit.clamp(min=1e-30), 0.0)
        return cls(offset, directions.T * unit, means, counts, (e.clamp(min=0), U))


def _own_unit(scaler: FeatureScaler) -> Tensor:
    """(Dx,) what brings scaled features back to their own unit, 0 for a constant feature.

    Principal directions depend on units. A feature that varies more tells more, where all come from
    one network; scaling makes the others as loud. (Divided by its mean, as only ratios count.)
    """
    factor = scaler.factor.double()
    unit = torch.where(factor > 0, 1 / factor.clamp(min=1e-30), 0.0)
    return unit / unit.mean().clamp(min=1e-30)


def _principal(covariance: Tensor, most: int) -> Tensor:
    """Eigenvectors (Dx, k) of the largest eigenvalues, none that is zero; k ≤ `most`.

    By subspace iteration, which a fixed start makes reproducible: the last directions may differ
    from eigenvectors, but are as good for a projection.
    """
    size = most + _OVERSAMPLING
    if 2 * size >= len(covariance):
        e, V = torch.linalg.eigh(covariance)
    else:
        rng = stream(0, "principal", device=covariance.device)
        start = torch.randn(len(covariance), size, generator=rng, device=covariance.device)
        Q = start.to(covariance.dtype)
        for _ in range(_ROUNDS):
            Q = torch.linalg.qr(covariance @ Q)[0]
        e, U = torch.linalg.eigh(Q.T @ covariance @ Q)
        V = Q @ U
    rank = max(1, int((e > _LEAST * e[-1]).sum()))
    return V[:, -min(most, rank) :]


@dataclass(frozen=True)
class Gaussian(Method):
    """The Gaussian classifier with its settings.

    Attributes:
        config: `preprocessing` and `precision` are used.
        components: k, principal directions at most.
        kernel: of the descriptors, "rbf" or "linear".
        width: of "rbf", in median distances of the seen descriptors.
        shrinkage: of Σw towards a multiple of I, above 0 up to 1.
        choices: shrinkages to choose from on validation classes.
        error_shrinkage: of Σb towards a multiple of Σw, 0 to 1.

    Raises:
        SettingsError: a number is out of its range.
    """

    components: int = 200
    kernel: Kernel = "rbf"
    width: float = 2.0
    shrinkage: float = 0.5
    choices: tuple[float, ...] = (0.5, 0.3, 0.1)
    error_shrinkage: float = 0.1

    def __post_init__(self) -> None:
        ranges = {
            "components": self.components >= 1,
            "kernel": self.kernel in ("linear", "rbf"),
            "width": self.width > 0,
            "shrinkage": 0 < self.shrinkage <= 1,
            "choices": len(self.choices) > 0 and all(0 < one <= 1 for one in self.choices),
            "error_shrinkage": 0 <= self.error_shrinkage <= 1,
        }
        if wrong := [name for name, fits in ranges.items() if not fits]:
            raise SettingsError(
                f"gaussian: {wrong[0]}={getattr(self, wrong[0])!r} is out of range. See the "
                "ranges in mlis.methods.gaussian.Gaussian."
            )

    @property
    def name(self) -> str:
        """As it stands in a table."""
        return "Gaussian"

    def alternatives(self) -> Sequence[Self]:
        """Each shrinkage among the choices."""
        return [replace(self, shrinkage=shrinkage) for shrinkage in self.choices]

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Solve in closed form; nothing is random, and the rows are read once."""
        scaler, data = job.prepare(self.config)
        statistics = self.statistics(scaler, data)
        for one in self.among(job):
            yield one, job.recognizer(scaler, one.head(statistics, data))

    def statistics(self, scaler: FeatureScaler, data: TrainingTensors) -> Statistics:
        """Of the training rows; descriptors play no part."""
        return Statistics.of(data, self.components, _own_unit(scaler).to(data.descriptors))

    def head(self, statistics: Statistics, data: TrainingTensors) -> GaussianHead:
        """Of the seen classes by their images, of the others by their descriptors."""
        e, U = statistics.within
        e = torch.lerp(e, e.mean(), self.shrinkage).clamp(min=1e-30)
        whitening = U * e.rsqrt()
        means = statistics.means @ whitening
        regression, basis = ClassRegression.fit(
            data.descriptors[data.seen],
            means,
            kernel=self.kernel,
            width=self.width,
            unit=self.config.preprocessing.descriptor_norm == "l2",
            shrinkage=self.error_shrinkage,
        )
        variances = (1 + 1 / statistics.counts)[:, None].expand_as(means)
        projection = (whitening @ basis).T @ statistics.directions
        terms = GaussianHead.terms(means @ basis, variances)
        head = GaussianHead(statistics.offset, projection, *terms, regression)
        head = head.to(data.descriptors.dtype).with_classes(data.descriptors[data.unseen])
        return head.chosen(torch.cat([data.seen, data.unseen]).argsort())
