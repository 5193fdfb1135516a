"""DVBE: a branch without semantics decides whether an image is of a seen class.

Min, Yao, Xie, Wang, Zha, Zhang: "Domain-aware Visual Bias Eliminating for Generalized Zero-Shot
Learning", CVPR 2020. Two branches on the same regions x_r of an image (R of them):

**ODR**, free of semantics, is to tell seen classes apart as well as it can. With y_r = ReLU(BN(·))
of a linear layer from x_r to K numbers, gates of channels and regions, and their cross-covariance:

    m_c = sigmoid(C₂ ReLU(C₁ mean_r y))         m_s = sigmoid(S₂ ReLU(S₁ y_r))
    A = 1/R Σ_r (y1_r − ȳ1)(y2_r − ȳ2)ᵀ         y1 = y + m_c y,  y2 = y + m_s y
    o = W · upper triangle of A^½               (B, S) logits of the seen classes

    L_ODR = CE with the true logit times 1 − exp(−(p_y − 1)² / σ),   p = softmax(o), detached

**ZSR** aligns images with descriptors: v = mean_r ReLU(BN(V x_r)), and w_c from a_c by two layers:

    L_ZSR = mean 1 − cos(v, w_y)  +  CE of a linear layer on v

An image is of the seen class that o says if max p exceeds a threshold, else of the unseen class
with the largest cosine. As one matrix of scores (:class:`mlis.model.heads.GatedHead`), the
calibration constant is that threshold, which validation classes choose. With one region there is no
covariance: o is linear in y, and the method "DVBE (pooled)".

As in the authors' program: the gate by the largest probability (the paper: by entropy), σ = 0.5,
K = 256, five iterations for the square root, 16 hidden units of gates, 1,024 between a_c and w_c,
the factor of the true logit (the paper prints exp(…), as far as known), no negatives in L_ZSR.
What differs:

- Features are frozen and regions are those of the dataset; they take 28 × 28 places of a 448-pixel
  image, random crops, and finally train the network too.
- S₁ is a 3 × 3 convolution there. Regions of several views have no common plane, so that a region's
  gate sees the region alone.
- Adam for both branches, with β₁ 0.9 and one rate throughout (`beta1`, `decay`). There ODR has SGD
  with momentum and rates of 0.1 to 0.001, ZSR Adam with β₁ 0.5, and all rates fall to a tenth after
  each 30 of the 90 epochs.
- Features are square-rooted where none is negative (`preprocessing.feature_transform`), not scaled;
  descriptors have unit length.
- Logits are of seen classes alone; the program has them of all, where no image is of an unseen one.
- It keeps the threshold and the epoch that are best on test rows; here validation classes choose
  (its 90 epochs of 128 are 4,000 steps of FLO, 5,000 of CUB, 16,500 of AWA2).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.nn.utils.fusion import fuse_linear_bn_weights

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.data.samplers import uniform_rows
from mlis.methods._regions import RegionMethod
from mlis.methods.base import ByBenchmark, Job
from mlis.methods.network_method import Losses, within
from mlis.model.heads import GatedHead, LinearHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import (
    Concatenation,
    Identity,
    Layers,
    LinearReLU,
    Refiner,
    RegionLinear,
    RegionMean,
    SecondOrder,
)
from mlis.training.layers import Linear, Perceptron

SLOPE = 0.01  # of the layers from descriptors
_DECAY = {"beta1": 0.5, "decay": 0.1}
Layer = TypeVar("Layer", bound=LinearReLU)


class RegionUnits(nn.Module):
    """ReLU(BN(linear)) of each region: (B, R · D) to (B, R · K).

    Args:
        size, units: D and K.
        precision: device and dtypes.
        rng: CPU generator that draws the weights.
    """

    def __init__(self, size: int, units: int, precision: Precision, rng: torch.Generator):
        super().__init__()
        self.linear: Linear = Linear(size, units, (2 / size) ** 0.5, precision, rng)
        self.norm: nn.BatchNorm1d = nn.BatchNorm1d(
            units, device=precision.device, dtype=precision.master
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, R · D) features; in training mode by the batch's statistics."""
        size = self.linear.weight.shape[1]
        return torch.relu(self.norm(self.linear(x.reshape(-1, size)))).reshape(len(x), -1)

    def refiner(self) -> RegionLinear:
        """A layer that does the same by the running averages."""
        norm = self.norm
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        return RegionLinear(
            *fuse_linear_bn_weights(
                *(self.linear.weight, self.linear.bias),
                *(mean, variance, norm.eps, norm.weight, norm.bias),
            )
        )


class Branches(nn.Module):
    """Both branches.

    Args:
        size, attributes, classes: D, Da and S.
        regions: R.
        settings: sizes of the layers.
        precision: device and dtypes.
        rng: CPU generator that draws the weights.
    """

    def __init__(
        self,
        size: int,
        attributes: int,
        classes: int,
        regions: int,
        settings: "DVBE",
        precision: Precision,
        rng: torch.Generator,
    ):
        super().__init__()

        def layer(kind: type[Layer], inputs: int, outputs: int, slope: float = 0.0) -> Layer:
            made = Linear(inputs, outputs, (2 / inputs) ** 0.5, precision, rng)
            return kind(made.weight.detach(), made.bias.detach(), slope)

        channels, hidden, width = settings.channels, settings.gate_hidden, settings.width
        self.units: RegionUnits = RegionUnits(size, channels, precision, rng)
        self.pooling: Refiner = Identity()
        if regions > 1:
            self.pooling = SecondOrder(
                (layer(RegionLinear, channels, hidden), layer(RegionLinear, hidden, 1, 1.0)),
                (layer(LinearReLU, channels, hidden), layer(LinearReLU, hidden, channels, 1.0)),
            ).requires_grad_(True)
        pooled = self.pooling.width(channels)
        self.seen: Linear = Linear(pooled, classes, pooled**-0.5, precision, rng)
        self.aligned: RegionUnits = RegionUnits(size, width, precision, rng)
        self.mean: RegionMean = RegionMean(width)
        sizes = attributes, settings.hidden, width
        self.semantic: Perceptron = Perceptron(
            *sizes, SLOPE, math.sqrt(2 / settings.hidden), precision, rng
        )
        self.auxiliary: Linear = Linear(width, classes, width**-0.5, precision, rng)

    def logits(self, x: Tensor) -> Tensor:
        """o, (B, S), of (B, R · D) features."""
        return self.seen(self.pooling(self.units(x)))

    def embedding(self, x: Tensor) -> Tensor:
        """v, (B, width), of (B, R · D) features."""
        return self.mean(self.aligned(x))

    def prototypes(self, descriptors: Tensor) -> Tensor:
        """w, (C, width), of (C, Da) descriptors."""
        return nn.functional.leaky_relu(self.semantic(descriptors), SLOPE)

    def parts(self, data: TrainingTensors) -> tuple[Refiner, GatedHead]:
        """Refiner and head."""
        odr = Layers([self.units.refiner(), self.pooling])
        zsr = Layers([self.aligned.refiner(), self.mean])
        order = torch.cat((data.seen, data.unseen)).argsort().tolist()
        seen = LinearHead(self.seen.weight.detach(), self.seen.bias.detach())
        prototypes = self.prototypes(data.descriptors[data.unseen])
        return Concatenation([odr, zsr]), GatedHead(seen, prototypes, order)


def adaptive_margin(logits: Tensor, own: Tensor, sigma: float) -> Tensor:
    """Cross-entropy whose true logit is multiplied by `1 − exp(−(p − 1)² / σ)`.

    The better a row is classified, the less of its logit counts.

    Args:
        logits: (B, S).
        own: (B,), among the S classes.
        sigma: σ.
    """
    at = own[:, None]
    p = logits.detach().softmax(1).gather(1, at)
    factor = 1 - (-(p - 1).square() / sigma).exp()
    return cross_entropy(logits.scatter(1, at, logits.gather(1, at) * factor), own)


@dataclass(frozen=True)
class DVBE(RegionMethod):
    """DVBE; see `RegionMethod` for the other settings.

    Attributes:
        channels: K, numbers of a region whose covariance is pooled.
        gate_hidden: hidden units of both gates.
        width: of v and w.
        hidden: units between a descriptor and w.
        sigma: σ of the adaptive margin.
    """

    title: ClassVar[str] = "DVBE"
    pooled_title: ClassVar[str] = "DVBE (pooled)"
    remedy: ClassVar[str] = "Lower batch_size, channels or width of DVBE, or set its pca"
    published: ClassVar[ByBenchmark] = {
        "CUB": {**_DECAY, "steps": 5000, "choices": (1000, 5000), "decay_every": 1667},
        "AWA2": {**_DECAY, "steps": 16_500, "choices": (3000, 16_500), "decay_every": 5500},
        "SUN": {**_DECAY, "steps": 7300, "choices": (1500, 7300), "decay_every": 2433},
        "aPY": {**_DECAY, "steps": 4200, "choices": (1000, 4200), "decay_every": 1400},
    }

    steps: int = within(1000, 1)
    choices: tuple[int, ...] = (300, 1000)
    batch_size: int = within(128, 2)
    learning_rate: float = within(1e-3, 0)
    weight_decay: float = within(1e-4, 0)
    channels: int = within(256, 1)
    gate_hidden: int = within(16, 1)
    width: int = within(2048, 1)
    hidden: int = within(1024, 1)
    sigma: float = within(0.5, 1e-6)

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train both branches to the longest number of steps.

        Raises:
            DivergenceError: a loss became NaN or infinite.
            SettingsError: `pca` exceeds the numbers of a region.
        """
        precision = Precision.of(self.config.precision, job.device)
        scaler, data, reader = self.read(job)
        regions = job.training.regions
        size = reader.width(data.x.shape[1]) // regions
        for one, steps in self.trainings(job):
            rng = stream(job.seed, "dvbe-weights")
            sizes = size, data.descriptors.shape[1], len(data.seen), regions
            network = Branches(*sizes, one, precision, rng)
            losses = one.losses(network, data, reader)
            for chosen, trained in one.trained("dvbe", network, losses, steps, job):
                refiner, head = trained.parts(data)
                yield chosen, job.recognizer(scaler, head, Layers([reader, refiner]))

    def losses(self, network: Branches, data: TrainingTensors, reader: Refiner) -> Losses:
        """Of both branches, which share no weight, on batches of real rows."""
        own_of = torch.searchsorted(data.seen, data.y)

        def losses(rng: torch.Generator) -> dict[str, Tensor]:
            rows = uniform_rows(len(data.y), self.batch_size, rng)
            x, own = reader(data.x[rows]), own_of[rows]
            v, w = network.embedding(x), network.prototypes(data.descriptors[data.seen])
            return {
                "odr": adaptive_margin(network.logits(x), own, self.sigma),
                "zsr": (1 - cosine_similarity(v, w[own], dim=1)).mean(),
                "auxiliary": cross_entropy(network.auxiliary(v), own),
            }

        return losses
