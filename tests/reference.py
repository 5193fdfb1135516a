"""References that share no code with the package: loops and textbook formulas in float64."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor


def numerical_gradient(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences, one entry at a time."""
    gradient = np.zeros_like(at)
    step = 1e-5
    for index in np.ndindex(*at.shape):
        ahead, behind = at.copy(), at.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


# --- stage 1a -----------------------------------------------------------------------------------


def leaky(value: float) -> float:
    return value if value > 0 else 0.2 * value


def dense(weight: Sequence[Sequence[float]], bias: Sequence[float], x: Sequence[float]):
    outputs = []
    for row, b in zip(weight, bias, strict=True):
        outputs.append(sum(w * v for w, v in zip(row, x, strict=True)) + b)
    return outputs


def critic_score(W, b, w, x: Sequence[float], a: Sequence[float]) -> float:
    """D of one image: `[x ; a] → linear → LeakyReLU(0.2) → linear`."""
    hidden = [leaky(p) for p in dense(W, b, [*x, *a])]
    return sum(u * v for u, v in zip(w, hidden, strict=True))


def critic_input_gradient(W, b, w, x: Sequence[float], a: Sequence[float]) -> list[float]:
    """∂D/∂x of one image, by the chain rule, unit by unit; nothing for `a`."""
    gradient = [0.0] * len(x)
    for row, p, u in zip(W, dense(W, b, [*x, *a]), w, strict=True):
        for i in range(len(x)):
            gradient[i] += u * (1.0 if p > 0 else 0.2) * row[i]
    return gradient


def wgan_gp_loops(W, b, w, real, fake, descriptors, alphas, weight: float) -> tuple[float, float]:
    """Eq. (2) image by image: (E[D(x̃)] − E[D(x)], λ E[(‖∇D(x̂)‖ − 1)²])."""
    distance = penalty = 0.0
    for x, x_fake, a, alpha in zip(real, fake, descriptors, alphas, strict=True):
        distance += critic_score(W, b, w, x_fake, a) - critic_score(W, b, w, x, a)
        between = [alpha * p + (1 - alpha) * q for p, q in zip(x, x_fake, strict=True)]
        gradient = critic_input_gradient(W, b, w, between, a)
        penalty += (math.sqrt(sum(g * g for g in gradient)) - 1) ** 2
    return distance / len(real), weight * penalty / len(real)


class TextbookCritic(torch.nn.Module):
    """D as everyone writes it, on concatenated inputs, for autograd."""

    def __init__(self, features: int, descriptor: int, hidden: int):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(features + descriptor, hidden),
            torch.nn.LeakyReLU(0.2),
            torch.nn.Linear(hidden, 1),
        ).double()

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return self.layers(torch.cat((x, a), dim=1)).squeeze(1)


def wgan_gp_autograd(
    critic: TextbookCritic, real: Tensor, fake: Tensor, a: Tensor, alpha: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """Eq. (2) with the penalty's gradient by `create_graph=True`, as in published code."""
    between = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, a).sum(), between, create_graph=True)
    penalty = weight * ((gradient.norm(2, dim=1) - 1) ** 2).mean()
    return critic(fake, a).mean() - critic(real, a).mean(), penalty


class TextbookGenerator(torch.nn.Module):
    """G as everyone writes it, on concatenated inputs."""

    def __init__(self, noise: int, descriptor: int, hidden: int, features: int):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(noise + descriptor, hidden),
            torch.nn.LeakyReLU(0.2),
            torch.nn.Linear(hidden, features),
            torch.nn.ReLU(),
        ).double()

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.layers(torch.cat((z, a), dim=1))


# --- stage 1b -----------------------------------------------------------------------------------


def cosine(u: Sequence[float], v: Sequence[float]) -> float:
    dot = sum(p * q for p, q in zip(u, v, strict=True))
    return dot / math.sqrt(sum(p * p for p in u)) / math.sqrt(sum(q * q for q in v))


def cosines(embeddings: np.ndarray) -> np.ndarray:
    rows = embeddings.tolist()
    return np.array([[cosine(u, v) for v in rows] for u in rows])


def _pairs(labels: Sequence[int], anchor: int) -> tuple[list[int], list[int]]:
    others = [j for j in range(len(labels)) if j != anchor]
    positive = [j for j in others if labels[j] == labels[anchor]]
    return positive, [j for j in others if labels[j] != labels[anchor]]


def circle_loops(
    s: np.ndarray, labels: Sequence[int], m: float, gamma: float, held: np.ndarray | None = None
) -> float:
    """Sun et al. (2020), eq. 6, anchor by anchor; the weights come from `held` (default: s)."""
    held = s if held is None else held
    terms = []
    for i in range(len(labels)):
        positive, negative = _pairs(labels, i)
        if not positive or not negative:
            continue
        toward = sum(
            math.exp(-gamma * max(0.0, 1 + m - held[i, j]) * (s[i, j] - (1 - m))) for j in positive
        )
        apart = sum(math.exp(gamma * max(0.0, held[i, j] + m) * (s[i, j] - m)) for j in negative)
        terms.append(math.log1p(toward * apart))
    positive_terms = [t for t in terms if t > 0]
    return sum(positive_terms) / len(positive_terms) if positive_terms else 0.0


def circle_eq1_loops(s: np.ndarray, labels: Sequence[int], m: float, gamma: float) -> float:
    """The paper's eq. (1): one logarithm over the unordered pairs of the batch."""
    negative = positive = 0.0
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            if labels[i] == labels[j]:
                positive += math.exp(gamma * -s[i, j])
            else:
                negative += math.exp(gamma * (s[i, j] + m))
    return math.log(1 + negative * positive)


def contrastive_loops(s: np.ndarray, labels: Sequence[int]) -> float:
    toward, apart = [], []
    for i in range(len(labels)):
        positive, negative = _pairs(labels, i)
        toward += [1 - s[i, j] for j in positive if s[i, j] < 1]
        apart += [s[i, j] for j in negative if s[i, j] > 0]
    return sum(sum(terms) / len(terms) for terms in (toward, apart) if terms)


def multi_similarity_loops(
    s: np.ndarray, labels: Sequence[int], alpha: float = 2, beta: float = 50, base: float = 0.5
) -> float:
    total = 0.0
    for i in range(len(labels)):
        positive, negative = _pairs(labels, i)
        toward = sum(math.exp(-alpha * (s[i, j] - base)) for j in positive)
        apart = sum(math.exp(beta * (s[i, j] - base)) for j in negative)
        total += math.log(1 + toward) / alpha + math.log(1 + apart) / beta
    return total / len(labels)


def balanced_cross_entropy_loops(logits: np.ndarray, labels: Sequence[int]) -> float:
    """Mean over the classes present of the mean over their samples."""
    means = []
    for c in sorted(set(labels)):
        losses = []
        for row, label in zip(logits.tolist(), labels, strict=True):
            if label == c:
                losses.append(math.log(sum(math.exp(v) for v in row)) - row[label])
        means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


def library_loss(name: str) -> torch.nn.Module:
    """pytorch-metric-learning's loss that ours of this name equals, at the default settings."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.distances import CosineSimilarity

    return {
        "circle": losses.CircleLoss(m=0.25, gamma=80),
        "contrastive": losses.ContrastiveLoss(1, 0, distance=CosineSimilarity()),
        "multi_similarity": losses.MultiSimilarityLoss(),
    }[name]
