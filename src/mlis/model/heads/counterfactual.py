"""Scores of two domains, seen and unseen classes, and a gate between them by counterfactuals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mlis.model.heads.base import Head
from mlis.model.heads.domains import check_order, choose_of, gated
from mlis.model.heads.linear import LinearHead
from mlis.model.parts import describe, empty_part
from mlis.model.refiners import REFINERS, LinearReLU, Refiner

SLOPE = 0.2  # of G's hidden units
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    **{"unit": torch.sigmoid, "positive": torch.relu},
    "signed": nn.Identity(),
}


class Counterfactuals(nn.Module):
    """What an image would look like if it were of a class: `G(z, a)` with z of the image itself.

    `z_i = μ(x) + σ(x) ε_i` with stored ε_i, so that an image has one answer.

    Args:
        encoder: of features, before μ and log σ².
        mean, log_variance: linear.
        from_noise: (H, Dz), first layer of G.
        class_terms: (U, H), what each class adds to the hidden units.
        output: G's last layer, from H to Dx, linear.
        noise: (n, Dz), ε.
        kind: key of `OUTPUTS`, where features lie.
    """

    def __init__(
        self,
        encoder: Refiner,
        mean: LinearReLU,
        log_variance: LinearReLU,
        from_noise: Tensor,
        class_terms: Tensor,
        output: LinearReLU,
        noise: Tensor,
        kind: str,
    ):
        super().__init__()
        self.encoder: Refiner = encoder
        self.mean: LinearReLU = mean
        self.log_variance: LinearReLU = log_variance
        self.from_noise: nn.Parameter = nn.Parameter(from_noise, requires_grad=False)
        self.class_terms: nn.Parameter = nn.Parameter(class_terms, requires_grad=False)
        self.output: LinearReLU = output
        self.noise: nn.Parameter = nn.Parameter(noise, requires_grad=False)
        self.kind: str = kind
        self._activate = OUTPUTS[kind]

    def of(self, classes: Tensor) -> "Counterfactuals":
        """For these of the classes (K,)."""
        parts = (self.encoder, self.mean, self.log_variance, self.from_noise)
        terms = self.class_terms[classes]
        return Counterfactuals(*parts, terms, self.output, self.noise, self.kind)

    def by_class(self, x: Tensor) -> Iterator[Iterator[Tensor]]:
        """For each class, for each ε, the features (B, Dx) that (B, Dx) would be; one at a time."""
        h = self.encoder(x)
        mean, deviation = self.mean(h), (0.5 * self.log_variance(h)).exp()
        hidden = [(mean + deviation * eps) @ self.from_noise.T for eps in self.noise]
        for term in self.class_terms:
            yield (self._activate(self.output(leaky_relu(h + term, SLOPE))) for h in hidden)


class CounterfactualHead(Head):
    """Seen or unseen by a gate, and a softmax within each.

    With φ the scaled `described` features, m_s the centres of seen classes, x̃_ui counterfactuals:

        t(x) = min_u mean_i ‖φ(x) − φ(x̃_ui)‖² − min_s ‖φ(x) − m_s‖²
        score = t + ε p_seen,   ε p_unseen

    so that a calibration constant γ means "seen where t(x) > γ".

    Args:
        counterfactuals: of the unseen classes.
        described: from features (B, Dx) to (B, Dh).
        scale: (Dh,), of `described`.
        centres: (S, Dh), m.
        seen, unseen: softmaxes on scaled `described` features.
        order: C numbers, where each class is among seen classes followed by unseen ones.
    """

    kind = "counterfactual"

    def __init__(
        self,
        counterfactuals: Counterfactuals,
        described: Refiner,
        scale: Tensor,
        centres: Tensor,
        seen: LinearHead,
        unseen: LinearHead,
        order: Sequence[int],
    ):
        super().__init__()
        check_order(order, len(centres) + len(counterfactuals.class_terms))
        self.counterfactuals: Counterfactuals = counterfactuals
        self.described: Refiner = described
        self.scale: nn.Parameter = nn.Parameter(scale, requires_grad=False)
        self.centres: nn.Parameter = nn.Parameter(centres, requires_grad=False)
        self.seen: LinearHead = seen
        self.unseen: LinearHead = unseen
        self.order: list[int] = list(order)

    def chosen(self, classes: Tensor) -> Self:
        """A head of these classes."""
        of_seen, of_unseen, order = choose_of(self.order, classes, len(self.centres))
        return type(self)(
            *(self.counterfactuals.of(of_unseen), self.described, self.scale),
            *(self.centres[of_seen], self.seen.chosen(of_seen), self.unseen.chosen(of_unseen)),
            order,
        )

    def sizes(self) -> dict[str, Any]:
        """Of all tensors."""
        made = self.counterfactuals
        return {
            "encoder": describe(made.encoder),
            "described": describe(self.described),
            "widths": [
                made.mean.weight.shape[1],
                *reversed(made.from_noise.shape),
                len(self.scale),
            ],
            "counts": [len(self.centres), len(made.class_terms), len(made.noise)],
            "features": len(made.output.bias),
            "output": made.kind,
            "order": self.order,
        }

    @classmethod
    def empty(
        cls,
        encoder: Mapping[str, Any],
        described: Mapping[str, Any],
        widths: list[int],
        counts: list[int],
        features: int,
        output: str,
        order: list[int],
    ) -> Self:
        """A head of these parts and sizes."""
        inputs, noise, hidden, width = widths
        seen, unseen, samples = counts

        def new(*shape: int) -> Tensor:
            return torch.empty(shape, device="meta")

        made = Counterfactuals(
            encoder=empty_part(REFINERS, encoder),
            mean=LinearReLU.empty(inputs, noise, 1.0),
            log_variance=LinearReLU.empty(inputs, noise, 1.0),
            from_noise=new(hidden, noise),
            class_terms=new(unseen, hidden),
            output=LinearReLU.empty(hidden, features, 1.0),
            noise=new(samples, noise),
            kind=output,
        )
        return cls(
            made,
            described=empty_part(REFINERS, described),
            scale=new(width),
            centres=new(seen, width),
            seen=LinearHead.empty(width, seen),
            unseen=LinearHead.empty(width, unseen),
            order=order,
        )

    def gate(self, x: Tensor) -> Tensor:
        """t, (B,) of (B, Dx): how much nearer an image is to seen classes."""
        h = self.describe(x)
        seen = torch.stack([self._apart(h, centre) for centre in self.centres]).amin(0)
        unseen = [
            torch.stack([self._apart(h, self.describe(made)) for made in samples]).mean(0)
            for samples in self.counterfactuals.by_class(x)
        ]
        return torch.stack(unseen).amin(0) - seen

    def describe(self, x: Tensor) -> Tensor:
        """φ, (B, Dh) of (B, Dx)."""
        return self.described(x) * self.scale

    @staticmethod
    def _apart(h: Tensor, other: Tensor) -> Tensor:
        return (h - other).square().sum(1)

    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dx) scaled features."""
        described = self.describe(h)
        seen, unseen = self.seen(described).softmax(1), self.unseen(described).softmax(1)
        gate: Tensor | float = 0.0
        if len(self.centres) and len(self.counterfactuals.class_terms):
            gate = self.gate(h)[:, None]
        return gated(gate, seen, unseen, self.order)
