"""E, G, D and the losses of the VAE-GAN family from their formulas, of parameters "part.name"."""

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def leaky(u: Tensor) -> Tensor:
    return torch.where(u > 0, u, 0.2 * u)


def layer(P: Parameters, name: str, u: Tensor) -> Tensor:
    return u @ P[f"{name}.weight"].T + P[f"{name}.bias"]


def encode(P: Parameters, rows: Tensor) -> tuple[Tensor, Tensor]:
    """μ and log σ² of E, which has two hidden layers."""
    h = leaky(layer(P, "encoder.layers.1", leaky(layer(P, "encoder.layers.0", rows))))
    return layer(P, "encoder.mean", h), layer(P, "encoder.log_variance", h)


def code(P: Parameters, rows: Tensor, eps: Tensor) -> Tensor:
    mean, log_variance = encode(P, rows)
    return mean + torch.exp(log_variance / 2) * eps


def hidden(P: Parameters, z: Tensor, a: Tensor) -> Tensor:
    """Of G."""
    first = torch.cat((P["generator.from_noise"], P["generator.from_descriptor"]), 1)
    return leaky(torch.cat((z, a), 1) @ first.T + P["generator.hidden_bias"])


def made(P: Parameters, units: Tensor) -> Tensor:
    """Features in (0, 1) of G's hidden units."""
    return torch.sigmoid(units @ P["generator.to_features"].T + P["generator.feature_bias"])


def score(P: Parameters, x: Tensor, a: Tensor) -> Tensor:
    """D of each row."""
    first = torch.cat((P["critic.from_features"], P["critic.from_descriptor"]), 1)
    return leaky(torch.cat((x, a), 1) @ first.T + P["critic.hidden_bias"]) @ P["critic.to_score"]


def critic_loss(P: Parameters, x: Tensor, fake: Tensor, a: Tensor, alpha: Tensor) -> Tensor:
    """Of the WGAN-GP, λ = 10, by differentiating the gradient."""
    fake = fake.detach()
    between = (alpha * x + (1 - alpha) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(score(P, between, a).sum(), between, create_graph=True)
    penalty = 10 * ((slope.norm(dim=1) - 1) ** 2).mean()
    return score(P, fake, a).mean() - score(P, x, a).mean() + penalty


def variational(
    P: Parameters, target: Tensor, fake: Tensor, rows: Tensor, kl_weight: float = 1.0
) -> Tensor:
    """Cross-entropy of features in [0, 1], and the KL divergence of what E makes of `rows`."""
    mean, log_variance = encode(P, rows)
    cross = -(target * fake.log() + (1 - target) * (1 - fake).log()).sum(1).mean()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return cross + kl_weight * kl


def weighted_errors(found: Tensor, wanted: Tensor) -> Tensor:
    """WL1."""
    d = found - wanted
    return (d.abs() ** 3 / d.norm(dim=1, keepdim=True)).sum() / len(d)


def corrected(P: Parameters, z: Tensor, a: Tensor, strength: float) -> Tensor:
    """x̃ = out(g + α F(h(out(g)))), where h has no gradient."""
    units = hidden(P, z, a)
    h = leaky(layer(P, "decoder.first", made(P, units))).detach()
    for name in ("feedback.layers.first", "feedback.layers.last"):
        h = leaky(layer(P, name, h))
    return made(P, units + strength * h)


def semantic_loss(P: Parameters, x: Tensor, a: Tensor) -> Tensor:
    """WL1 of decoded descriptors of unit length."""
    described = layer(P, "decoder.last", leaky(layer(P, "decoder.first", x)))
    return weighted_errors(described / described.norm(dim=1, keepdim=True), a)


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=rng).double()
