"""Gaussian-process regression of a class's mean feature on its descriptor."""

import math
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

Kernel = Literal["linear", "rbf"]

PENALTIES: tuple[float, ...] = tuple(10.0 ** (i / 4) for i in range(-20, 5))
"""λ to choose from; the kernel of a descriptor with itself is at most 1."""


def median_distance(points: Tensor) -> float:
    """Median of the positive distances between (S, Da) points; 1 where there is none."""
    distances = torch.pdist(points)
    distances = distances[distances > 0]
    return float(distances.median()) if len(distances) else 1.0


def kernel_matrix(kernel: Kernel, a: Tensor, b: Tensor, width: float) -> Tensor:
    """Kernel of (n, Da) with (S, Da) points, (n, S): a·b, or exp(−½ (‖a − b‖ / width)²)."""
    if kernel == "linear":
        return a @ b.T
    # By matrix products, equal descriptors would not be at distance zero.
    between = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-0.5 * (between / width).square())


CLEARLY = 0.95
"""Share of the linear kernel's leave-one-out error below which the other one is taken."""


def best_kernel(descriptors: Tensor, means: Tensor) -> Kernel:
    """ "rbf" where it predicts left out class means clearly better than "linear", else "linear".

    Args:
        descriptors: (S, Da) of the seen classes.
        means: (S, Dx) of their features.
    """
    points, values = descriptors.double(), means.double()
    values = values - values.mean(0)
    curved = left_out_error(kernel_matrix("rbf", points, points, median_distance(points)), values)
    straight = left_out_error(kernel_matrix("linear", points, points, 1.0), values)
    return "rbf" if curved < CLEARLY * straight else "linear"


def left_out_error(gram: Tensor, values: Tensor) -> float:
    """Squared leave-one-out error of kernel ridge regression at its best penalty.

    Row i is off by α_i / (A⁻¹)_ii with A = K + λI and α = A⁻¹ Y (Rasmussen & Williams, 2006,
    eq. 5.12), so that no row is really left out.

    Args:
        gram: (S, S) K.
        values: (S, k) Y.
    """
    e, Q = torch.linalg.eigh(gram)
    e, rotated = e.clamp(min=0), Q.T @ values

    def error(penalty: float) -> float:
        inverse = 1 / (e + penalty)
        left_out = (Q @ (inverse[:, None] * rotated)) / (Q.square() @ inverse)[:, None]
        return float(left_out.square().sum())

    return min(map(error, PENALTIES))


def left_out_errors(gram: Tensor, values: Tensor, penalty: float) -> Tensor:
    """Errors (S, k) of kernel ridge regression where each row is left out; as `left_out_error`."""
    inverse = torch.linalg.inv(gram + penalty * torch.eye(len(gram)).to(gram))
    return (inverse @ values) / inverse.diagonal()[:, None]


class ClassRegression(nn.Module):
    """Predicts mean and uncertainty of a class from its descriptor, in a space of k dimensions.

    The means of the S seen classes are a Gaussian process of their descriptors: with the kernel
    matrix K and A = K + λI, a class of descriptor a, with k_a its kernel with the seen ones, has

        mean m + k_aᵀ A⁻¹ (M − m)   and covariance (k(a, a) + λ − k_aᵀ A⁻¹ k_a) · diag(spread)

    (Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, eqs. 2.25 and 2.26).
    Computed in float64.

    Args:
        kernel: of the descriptors.
        width: of the kernel "rbf".
        noise: λ.
        unit: whether descriptors are brought to unit length, before and after they are centred.
        centre: (Da,) mean of the seen descriptors.
        known: (S, Da) seen descriptors, centred.
        root: (S, S) with root rootᵀ = A⁻¹.
        dual: (S, k), A⁻¹ (M − m).
        mean: (k,) m, the mean of the seen classes' means.
        spread: (k,) variance of the means in each direction, per unit of the regression's.
    """

    centre: Tensor
    known: Tensor
    root: Tensor
    dual: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(
        self, kernel: Kernel, width: float, noise: float, unit: bool, **tensors: Tensor
    ) -> None:
        super().__init__()
        self.kernel: Kernel = kernel
        self.width: float = float(width)
        self.noise: float = float(noise)
        self.unit: bool = bool(unit)
        for name in ("centre", "known", "root", "dual", "mean", "spread"):
            self.register_buffer(name, tensors[name])

    @classmethod
    def fit(
        cls,
        descriptors: Tensor,
        means: Tensor,
        *,
        kernel: Kernel,
        width: float,
        unit: bool,
        shrinkage: float,
    ) -> tuple[Self, Tensor]:
        """Regress class means, in a space where the covariance within classes is I.

        Leave-one-out errors are in closed form: with α = A⁻¹ (M − m), class i is off by
        α_i / (A⁻¹)_ii, and its predictive variance is 1 / (A⁻¹)_ii (ibid., eq. 5.12). The errors,
        each over its standard deviation, have the covariance Σ; λ is where the density of the left
        out means is highest if Σ is a multiple of I (ibid., eq. 5.11). Σ, shrunk, is diagonalised.

        Args:
            descriptors: (S, Da) of the seen classes.
            means: (S, k) float64.
            kernel: of the descriptors.
            width: of "rbf", in median distances of the seen descriptors.
            unit: whether lengths of descriptors mean nothing.
            shrinkage: of Σ towards a multiple of I, 0 to 1.

        Returns:
            The regression in the coordinates of the eigenvectors of Σ, and these, (k, k).
        """
        points = descriptors.double()
        points = normalize(points, dim=1) if unit else points
        centre = points.mean(0)
        points = _centred(points, centre, unit)
        width = width * median_distance(points)
        e, Q = torch.linalg.eigh(kernel_matrix(kernel, points, points, width))
        e, mean = e.clamp(min=0), means.mean(0)
        rotated = Q.T @ (means - mean)
        noise = min(PENALTIES, key=lambda penalty: _left_out(e, Q, rotated, penalty)[0])
        _, errors, dual = _left_out(e, Q, rotated, noise)
        spread, basis = torch.linalg.eigh(errors.T @ errors / len(errors))
        spread = spread.clamp(min=0)
        spread = torch.lerp(spread, spread.mean(), shrinkage)
        tensors = {"centre": centre, "known": points, "root": Q * (e + noise).rsqrt()}
        placed = {"dual": dual @ basis, "mean": mean @ basis, "spread": spread}
        return cls(kernel, width, noise, unit, **tensors, **placed), basis

    def forward(self, descriptors: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances, each (n, k) float64, of classes with these (n, Da) descriptors.

        A descriptor of zeros says nothing: its class is that of `of_any_class`.
        """
        known, root, dual = (part.double() for part in (self.known, self.root, self.dual))
        points = _centred(descriptors.double(), self.centre.double(), self.unit)
        with_known = kernel_matrix(self.kernel, points, known, self.width)
        own = points.square().sum(1) if self.kernel == "linear" else 1.0
        variance = own + self.noise - (with_known @ root).square().sum(1)
        variance = variance.clamp(min=self.noise)  # it is λ at least, except for rounding
        means, variances = self.mean.double() + with_known @ dual, variance[:, None] * self.spread
        if bool((silent := ~descriptors.any(dim=1)).any()):
            means[silent], variances[silent] = self.of_any_class()
        return means, variances

    def of_any_class(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (k,) float64 of a class of which nothing is known but that it is one.

        Classes are a sample of S from a normal distribution of means: mean and variance of the
        seen classes' means, the variance times 1 + 1/S for a further one.
        """
        known, dual = self.known.double(), self.dual.double()
        gram = kernel_matrix(self.kernel, known, known, self.width)
        means = gram @ dual + self.noise * dual  # less m: A α = M − m
        classes = len(means)
        variance = means.square().sum(0) / max(classes - 1, 1) * (1 + 1 / classes)
        return self.mean.double(), variance

    def sizes(self) -> dict[str, Any]:
        """JSON-compatible arguments of `empty`."""
        (described, attributes), components = self.known.shape, len(self.mean)
        own = {"kernel": self.kernel, "width": self.width, "noise": self.noise, "unit": self.unit}
        return {**own, "described": described, "attributes": attributes, "components": components}

    @classmethod
    def empty(cls, described: int, attributes: int, components: int, **own: Any) -> Self:
        """A regression of these sizes whose tensors are on the meta device."""
        if own["kernel"] not in ("linear", "rbf") or not 0 < own["noise"] < math.inf:
            raise ValueError(f"no such regression: {own}")
        shapes = {
            **{"centre": (attributes,), "known": (described, attributes)},
            **{"root": (described, described), "dual": (described, components)},
            **{"mean": (components,), "spread": (components,)},
        }
        arguments: dict[str, Any] = dict(own)
        arguments |= {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        return cls(**arguments)


def _centred(descriptors: Tensor, centre: Tensor, unit: bool) -> Tensor:
    if not unit:
        return descriptors - centre
    return normalize(normalize(descriptors, dim=1) - centre, dim=1)


def _left_out(
    e: Tensor, Q: Tensor, rotated: Tensor, penalty: float
) -> tuple[float, Tensor, Tensor]:
    """A figure that falls with the density of the left out means, their standardised errors, and α.

    Args:
        e, Q: eigenvalues (S,) and eigenvectors (S, S) of K.
        rotated: (S, k), Qᵀ (M − m).
        penalty: λ.
    """
    inverse = 1 / (e + penalty)
    dual = Q @ (inverse[:, None] * rotated)
    diagonal = Q.square() @ inverse
    errors = dual * diagonal.rsqrt()[:, None]
    least = torch.finfo(errors.dtype).tiny  # where all classes look alike
    figure = (errors.square().mean() + least).log() - diagonal.log().mean()
    return float(figure), errors, dual
