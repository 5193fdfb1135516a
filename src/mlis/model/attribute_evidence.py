"""Predict attributes from features, and weigh what they say about two classes.

Ridge regression of the seen classes' descriptors on the means of their features predicts what an
image shows of each attribute, â. How far to trust it is measured on classes that are left out in
turn (in closed form: Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006, eq.
5.12). Ridge predictions shrink towards the mean, so the prediction of attribute j for an image of a
class that has the value v is taken as N(μ_j(v), e_j²) with μ_j(v) = α_j + ρ_j v: the line through
the predictions of left out classes, the variance about it, and the variance of the prediction
within classes. The evidence of attribute j for class a over class b is the log-likelihood ratio

    ½ [(â_j − μ_j(b_j))² − (â_j − μ_j(a_j))²] / e_j²
      = (â_j − ½ (μ_j(a_j) + μ_j(b_j))) (μ_j(a_j) − μ_j(b_j)) / e_j².

An attribute that features do not tell has ρ_j = 0, and thus no evidence. It is direct attribute
prediction (Lampert, Nickisch, Harmeling, "Attribute-Based Classification for Zero-Shot Visual
Object Categorization", TPAMI 2014) with normal in place of binary attributes. Attributes are taken
one by one: of those that always come together each has the evidence of all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mlis.model.regression import PENALTIES


@dataclass(frozen=True, eq=False)
class AttributeEvidence:
    """A fitted regression from features (B, k) to Da attributes; all tensors are float64.

    Attributes:
        origin: (k,) mean of the seen classes' means.
        weight, bias: (k, Da) and (Da,): attributes, standardised, of features less the origin.
        centre, spread: (Da,) mean and standard deviation of the seen classes' attributes; a spread
            of 0 where they are all the same.
        slope, offset: (Da,) ρ, at least 0, and α, of standardised attributes.
        variance: (Da,) e², standardised.
        penalty: of the ridge regression.
    """

    origin: Tensor
    weight: Tensor
    bias: Tensor
    centre: Tensor
    spread: Tensor
    slope: Tensor
    offset: Tensor
    variance: Tensor
    penalty: float

    def predict(self, features: Tensor) -> Tensor:
        """Attributes (B, Da), on the scale of descriptors, of features (B, k)."""
        standard = (features.double() - self.origin) @ self.weight + self.bias
        return self.centre + standard * self.spread

    def evidence(self, predicted: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """Log-likelihood ratios (B, Da) of two classes' descriptors (B, Da) each.

        Args:
            predicted: (B, Da) of `predict`.
            one, other: descriptors; positive speaks for the former.
        """
        varies = self.spread > 0
        unit = torch.where(varies, self.spread, 1)
        found, one, other = ((each - self.centre) / unit for each in (predicted, one, other))
        middle = self.offset + self.slope * (one + other) / 2
        ratio = (found - middle) * self.slope * (one - other) / self.variance
        return torch.where(varies, ratio, 0.0)

    def similarity(self, predicted: Tensor, descriptors: Tensor) -> Tensor:
        """Cosines (B,) of predicted and true descriptors, the seen classes' mean subtracted."""
        return cosine_similarity(predicted - self.centre, descriptors.double() - self.centre, dim=1)


class AttributeRegression:
    """Ridge regression of any attributes on the means of the seen classes' features.

    Args:
        means: (S, k) float64 of the seen classes' features.
        within: (n, k) features less their class's mean, or (k,) their variances.
    """

    def __init__(self, means: Tensor, within: Tensor):
        self.origin: Tensor = means.mean(0)
        points = means - self.origin
        scale = points.square().sum().div(len(points)).sqrt().clamp(min=1e-30)
        self._points: Tensor = points / scale
        self._scale: Tensor = scale
        self._within: Tensor = within.double()
        e, Q = torch.linalg.eigh(self._points @ self._points.T + 1)  # the 1: an intercept
        self._eigen: tuple[Tensor, Tensor] = (e.clamp(min=0), Q)

    def fit(self, attributes: Tensor, penalty: float | None = None) -> AttributeEvidence:
        """Regress, with the penalty that predicts left out classes best unless one is given.

        Args:
            attributes: (S, Da) float64 of the seen classes.
            penalty: of an earlier fit.
        """
        centre = attributes.mean(0)
        spread = attributes.std(0, correction=0)
        spread = torch.where(spread > 1e-6 * attributes.abs().amax(0), spread, 0)
        values = (attributes - centre) / torch.where(spread > 0, spread, 1)
        e, Q = self._eigen
        rotated = Q.T @ values

        def solved(penalty: float) -> tuple[Tensor, Tensor, float]:
            inverse = 1 / (e + penalty)
            dual = Q @ (inverse[:, None] * rotated)
            return dual, dual / (Q.square() @ inverse)[:, None], penalty

        choices = PENALTIES if penalty is None else (penalty,)
        best = min(map(solved, choices), key=lambda found: float(found[1].square().sum()))
        dual, errors, penalty = best
        weight = self._points.T @ dual / self._scale
        left_out = values - errors
        slope = (left_out * values).mean(0).clamp(min=0)
        offset = left_out.mean(0)
        error = (left_out - offset - slope * values).square().mean(0)
        if self._within.ndim == 1:
            error = error + self._within @ weight.square()
        else:
            error = error + (self._within @ weight).square().mean(0)
        fitted = (self.origin, weight, dual.sum(0), centre, spread, slope, offset)
        return AttributeEvidence(*fitted, error.clamp(min=1e-12), penalty)
