"""Log-densities of normal distributions, whose classes a regression predicts."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from mlis.compute.class_sums import sum_by_class
from mlis.model.heads.base import Head
from mlis.model.regression import ClassRegression


class GaussianHead(Head):
    """Scores are log-densities of normal distributions, less one that is the same for all classes.

    Class c is N(m_c, diag(s_c)) in the coordinates z = P (h − o), in which the covariance within
    classes is I. Its log-density, less that of N(0, I), which cancels in a softmax, is a product
    with [z² ; z]:

        ½ (1 − 1/s_c)·z² + (m_c/s_c)·z − ½ Σ (m_c²/s_c + log s_c)

    Seen classes have small coefficients of z², so that large numbers do not cancel.

    Args:
        offset: (Dh,) o.
        projection: (k, Dh) P.
        weight: (C, 2k), the coefficients of z² and of z.
        bias: (C,).
        regression: predicts m and s − 1 of a class that has a descriptor only.
    """

    kind = "gaussian"

    def __init__(
        self,
        offset: Tensor,
        projection: Tensor,
        weight: Tensor,
        bias: Tensor,
        regression: ClassRegression,
    ):
        super().__init__()
        self.offset: nn.Parameter = nn.Parameter(offset, requires_grad=False)
        self.projection: nn.Parameter = nn.Parameter(projection, requires_grad=False)
        self.weight: nn.Parameter = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter = nn.Parameter(bias, requires_grad=False)
        self.regression: ClassRegression = regression

    @staticmethod
    def terms(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """`weight` (C, 2k) and `bias` (C,) of classes with these (C, k) means and variances."""
        weight = torch.cat([0.5 * (1 - 1 / variances), means / variances], dim=1)
        return weight, -0.5 * (means.square() / variances + variances.log()).sum(1)

    @property
    def knows_by_description(self) -> bool:
        """True."""
        return True

    def with_classes(self, descriptors: Tensor) -> Self:
        """A head that also knows classes of these (n, Da) raw descriptors; other scores stay."""
        means, added = self.regression(descriptors.to(self.weight.device))
        weight, bias = self.terms(means, 1 + added)
        return self._with(
            torch.cat([self.weight, weight.to(self.weight.dtype)]),
            torch.cat([self.bias, bias.to(self.bias.dtype)]),
        )

    def with_images(self, h: Tensor, labels: Tensor) -> Self:
        """A head that has also learnt from these (n, Dh) refined features of its classes (n,).

        What a head knows of a class's mean is N(m, v), with v = s − 1. With n more images, whose
        covariance is I and whose sum is t, it is N((m + v t) / (1 + n v), v / (1 + n v)): Bayes'
        theorem for a normal mean (Murphy, "Conjugate Bayesian analysis of the Gaussian
        distribution", 2007, eqs. 20 to 24), whether images come at once or one after the other.
        """
        z = self.coordinates(h).double()
        counts = torch.bincount(labels, minlength=len(self.bias)).double()
        return self.with_sums(counts, sum_by_class(z, labels, len(counts)))

    def with_sums(self, counts: Tensor, sums: Tensor) -> Self:
        """The same of images of which each class has these float64 (C,) counts and (C, k) sums.

        The sums are of coordinates; counts may be sums of probabilities.
        """
        counts = counts[:, None]
        square, linear = self.weight.double().chunk(2, dim=1)
        variances = 1 / (1 - 2 * square)
        prior = 2 * square * variances  # s − 1, without its cancellation
        shrunk = 1 + counts * prior
        means = (linear * variances + prior * sums) / shrunk
        weight, bias = self.terms(means, 1 + prior / shrunk)
        changed = counts > 0
        return self._with(
            torch.where(changed, weight.to(self.weight.dtype), self.weight),
            torch.where(changed[:, 0], bias.to(self.bias.dtype), self.bias),
        )

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        return self._with(self.weight[classes], self.bias[classes])

    def _with(self, weight: Tensor, bias: Tensor) -> Self:
        other = copy.deepcopy(self)
        other.weight = nn.Parameter(weight, requires_grad=False)
        other.bias = nn.Parameter(bias, requires_grad=False)
        return other

    def sizes(self) -> dict[str, Any]:
        """Of the projection, the weight and the regression."""
        sizes = {"inputs": len(self.offset), "classes": len(self.bias)}
        return {**sizes, **self.regression.sizes()}

    @classmethod
    def empty(cls, inputs: int, classes: int, components: int, **regression: Any) -> Self:
        """A head of `classes` for `inputs` numbers, projected to `components`."""
        return cls(
            offset=torch.empty(inputs, device="meta"),
            projection=torch.empty(components, inputs, device="meta"),
            weight=torch.empty(classes, 2 * components, device="meta"),
            bias=torch.empty(classes, device="meta"),
            regression=ClassRegression.empty(components=components, **regression),
        )

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dh) refined features."""
        return self.of_coordinates(self.coordinates(h))

    def of_coordinates(self, z: Tensor) -> Tensor:
        """Scores (B, C) of (B, k) coordinates."""
        return torch.addmm(self.bias, torch.cat([z.square(), z], dim=1), self.weight.T)

    def background(self, h: Tensor) -> Tensor:
        """Log-density (B,) of (B, Dh) features of any class, less that of N(0, I), as in scores.

        A class that the head does not know has a mean like those that it knows, so that its images
        are N(mean of m, covariance of m + diag(mean of s)).
        """
        means, variances = self.moments()
        z = self.coordinates(h).double()
        centre = means.mean(0)
        covariance = torch.cov(means.T, correction=0).reshape(z.shape[1], z.shape[1])
        root = torch.linalg.cholesky(covariance + variances.mean(0).diag())
        white = torch.linalg.solve_triangular(root, (z - centre).T, upper=False)
        exponent = 0.5 * (z.square().sum(1) - white.square().sum(0))
        return exponent - root.diagonal().log().sum()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances, each (C, k) float64, of the classes."""
        square, linear = self.weight.double().chunk(2, dim=1)
        variances = 1 / (1 - 2 * square)
        return linear * variances, variances

    def coordinates(self, h: Tensor) -> Tensor:
        """z (B, k) of (B, Dh) refined features."""
        return (h - self.offset) @ self.projection.T
