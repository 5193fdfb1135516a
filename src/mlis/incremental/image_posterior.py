"""Synthetic features of classes with a few images, drawn around the posterior mean.

What a generator says of a class's mean is uncertain, as is the mean of a few images. In every
feature, with m the mean of the class's synthetic features, v its prior variance, x̄ the mean of n
images and w the variance within classes, the mean is normal about

    m + n v / (n v + w) · (x̄ − m)

(Bayes' theorem for a normal mean). Synthetic features are shifted to it; their shape stays. v is
the mean squared leave-one-class-out error of ridge regression from descriptors to the means of the
seen classes, whatever the generator is: it says how well descriptions tell where a class lies.

A class without a descriptor (zeros) has the prior of any class: mean and variance of the seen
classes' means. The shape of its features is that of the seen class nearest to its images.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlis.compute.class_sums import sum_by_class
from mlis.config import Generation
from mlis.generators.base import FeatureGenerator, Sampler, synthesise
from mlis.model.regression import best_kernel, kernel_matrix, left_out_errors, median_distance

_DRAWS = 512  # synthetic features whose mean is m

Rows = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of the rows, in float64.

    Attributes:
        counts: (C, 1) rows of each class.
        means: (C, Dx); zero for a class without rows.
        within: (Dx,) variance within the seen classes.
    """

    counts: Tensor
    means: Tensor
    within: Tensor

    @classmethod
    def of(cls, rows: Rows, known: Tensor) -> "_Moments":
        """Go through the rows twice, so that no difference of large squares is taken."""
        counts = torch.zeros(len(known), dtype=torch.float64, device=known.device)
        sums = torch.zeros((), dtype=torch.float64, device=known.device)
        for x, y in rows():
            counts += torch.bincount(y, minlength=len(known))
            sums = sums + sum_by_class(x, y, len(known))
        means = sums / counts.clamp(min=1)[:, None]
        squares = torch.zeros_like(means[0])
        for x, y in rows():
            squares += (x - means[y])[known[y]].square().sum(0)
        seen = int(((counts > 0) & known).sum())
        return cls(counts[:, None], means, squares / (counts[known].sum() - seen).clamp(min=1))


def informed_sampler(
    generator: FeatureGenerator,
    settings: Generation,
    rows: Rows,
    described: Tensor,
    known: Tensor,
    rng: torch.Generator,
    *,
    signed: bool,
) -> Sampler:
    """The generator's sampler, shifted for classes that have rows but are not `known`.

    Args:
        generator: as trained.
        settings: kernel and penalty of the regression.
        rows: gives parts (B, Dx) and (B,) of the scaled features and classes of all rows.
        described: (C, Da) normalised descriptors; zeros for a class without.
        known: (C,) bool, the seen classes.
        rng: of the draws that m is the mean of.
        signed: whether features may be negative; else they are clipped at zero.
    """
    moments = _Moments.of(rows, known)
    silent = ~described.any(dim=1)
    given = torch.nonzero((moments.counts[:, 0] > 0) & ~known).flatten()
    lent = _lent(described, silent, moments, known)
    sampler = generator.sampler(lent)
    m, v = _priors(sampler, lent, given, settings, moments, known, rng)
    seen = moments.means[known & (moments.counts[:, 0] > 0)]
    drawn = m.clone()  # a class without a descriptor is not expected where it is drawn
    m[silent[given]] = seen.mean(0)
    v[silent[given]] = seen.var(0, unbiased=len(seen) > 1) * (1 + 1 / len(seen))
    evidence = moments.counts[given] * v
    gain = evidence / (evidence + moments.within).clamp(min=torch.finfo(m.dtype).tiny)
    shift = torch.zeros(len(known), m.shape[1], dtype=described.dtype, device=m.device)
    shift[given] = (torch.lerp(m, moments.means[given], gain) - drawn).to(shift.dtype)

    def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
        x = sampler(labels, rng) + shift[labels]
        return x if signed else torch.relu_(x)

    return sample


def _lent(described: Tensor, silent: Tensor, moments: _Moments, known: Tensor) -> Tensor:
    """Descriptors (C, Da); classes without have that of the seen class nearest to their images."""
    candidates = torch.nonzero(known & (moments.counts[:, 0] > 0)).flatten()
    lent = described.clone()
    scale = moments.within.clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    for c in torch.nonzero(silent).flatten().tolist():
        off = (moments.means[candidates] - moments.means[c]) / scale
        lent[c] = described[candidates[off.square().sum(1).argmin()]]
    return lent


def _priors(
    sampler: Sampler,
    described: Tensor,
    given: Tensor,
    settings: Generation,
    moments: _Moments,
    known: Tensor,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Means of synthetic features of the `given` (G,) classes, and their variances: (G, Dx)."""
    drawn = [torch.cat([x for x, _ in synthesise(sampler, c, _DRAWS, rng)]) for c in given.split(1)]
    m = torch.stack([x.double().mean(0) for x in drawn])
    regressed = known & (moments.counts[:, 0] > 0)
    points, values = described[regressed].double(), moments.means[regressed]
    kernel = settings.ridge_kernel
    kernel = best_kernel(points, values) if kernel == "auto" else kernel
    width = median_distance(points) if kernel == "rbf" else 1.0
    gram = kernel_matrix(kernel, points, points, width)
    errors = left_out_errors(gram, values - values.mean(0), settings.ridge_lambda)
    return m, errors.square().mean(0).expand_as(m).clone()
