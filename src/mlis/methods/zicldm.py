"""After Liu et al.: a learned metric tells whether image and descriptor match, in one space.

A **reconstruction**, not the system (ZIC-LDM) of Liu et al., Sensors 2021, 21(9), 3241 (doi
10.3390/s21093241), whose text and program were not available.

From its abstract: features and descriptors are embedded into a common space, and a relation network
on the concatenation of both, in place of a fixed distance, scores a pair. It learns 1 for an image
and the descriptor of its class, 0 for those of the other classes of the batch, by squared error:

    v = ReLU(V x)                                 (B, d)
    s = ReLU(A₂ ReLU(A₁ a))                       (S, d)
    r = sigmoid(w · ReLU(R_v v + R_s s + b) + b')  (B, S)

This is RelationNet (Sung et al.: "Learning to Compare", CVPR 2018), whose published figures lie
within two points, plus V. From RelationNet's program come the layers of s and r (A₁ of 1,200 for
CUB, 1,024 for AWA2; 1,200 or 400 relation units), ReLU, batches of 32, the squared error over the
classes of the batch, and a weight decay of 1e-5 on A alone. Ours are:

- the size d of the common space;
- features standardised, after the transform that all methods share (a square root by default), and
  descriptors of unit length less the seen classes' mean, at a mean length of √Da. That program
  takes raw features and up to 500,000 steps with 1e-5. With descriptors as similar as
  FLO's sentences (median cosine 0.78) the network was at chance after 800 steps without this, and
  right for most training rows after 100 with it;
- steps are chosen on validation classes, there by test accuracy.

A class's score is what the sigmoid is taken of, which ranks classes alike; calibration constants
act on it before it saturates. Published S far above U (AWA2 31.9 / 92.5) is what the method gives
without such a constant: with it, H is not comparable with the published one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.data.samplers import uniform_rows
from mlis.methods.base import ByBenchmark, Job
from mlis.methods.network_method import Losses, NetworkMethod, within
from mlis.methods.pairs import PairScorer
from mlis.model.heads import PairHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import Layers, LinearReLU
from mlis.training.layers import Linear


class RelationNetwork(nn.Module):
    """Scores of pairs, before the sigmoid.

    Args:
        features, attributes: Dx and Da.
        settings: sizes of the layers.
        precision: device and dtypes.
        rng: CPU generator that draws the initial weights.
    """

    def __init__(
        self,
        features: int,
        attributes: int,
        settings: "ZICLDMReconstruction",
        precision: Precision,
        rng: torch.Generator,
    ):
        super().__init__()

        def layer(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, (2 / inputs) ** 0.5, precision, rng)

        common, relation = settings.common, settings.relation
        self.visual: Linear = layer(features, common)
        self.semantic: nn.Sequential = nn.Sequential(
            *(layer(attributes, settings.hidden), nn.ReLU()),
            *(layer(settings.hidden, common), nn.ReLU()),
        )
        std = common**-0.5
        self.metric: PairScorer = PairScorer(common, common, relation, std, precision, rng, slope=0)
        # r starts at the share of matching pairs in a batch, not at a half
        odds = self.metric.output.detach().new_tensor(-math.log(settings.batch_size))
        self.bias: nn.Parameter = nn.Parameter(odds)

    def forward(self, x: Tensor, descriptors: Tensor) -> Tensor:
        """Scores (B, S) of (B, Dx) features with (S, Da) descriptors."""
        return self.metric(torch.relu(self.visual(x)), self.semantic(descriptors)) + self.bias

    def parts(self, descriptors: Tensor) -> tuple[Layers, PairHead]:
        """Refiner and head that score features as `forward` does, except for the common bias."""
        first, second = (
            LinearReLU(one.weight.detach(), one.bias.detach(), slope)
            for one, slope in ((self.visual, 0.0), (self.metric.visual, 1.0))
        )
        terms = self.metric.class_terms(self.semantic(descriptors))
        return Layers([first, second]), PairHead(terms, self.metric.output.detach())


def centred(descriptors: Tensor, seen: Tensor) -> Tensor:
    """Descriptors (C, Da) less the mean of the `seen` ones, whose mean length becomes √Da."""
    moved = descriptors - descriptors[seen].mean(0)
    length = moved[seen].norm(dim=1).mean().clamp(min=1e-12)
    return math.sqrt(descriptors.shape[1]) / length * moved


def relation_loss(scores: Tensor, own: Tensor) -> Tensor:
    """Mean squared error of `sigmoid(scores)` (B, S) against one-hot labels `own` (B,)."""
    return mse_loss(scores.sigmoid(), one_hot(own, scores.shape[1]).to(scores.dtype))


@dataclass(frozen=True)
class ZICLDMReconstruction(NetworkMethod):
    """After Liu et al.; see `NetworkMethod` for the other settings.

    Attributes:
        config: `preprocessing` and `precision` are used; features are standardised.
        semantic_decay: weight decay of the layers of descriptors.
        common: d, size of the common space.
        hidden: units between a descriptor and its embedding.
        relation: hidden units of the relation network.
    """

    remedy: ClassVar[str] = "Lower batch_size, common, hidden or relation of ZICLDMReconstruction"
    reconstruction: ClassVar[bool] = True
    published: ClassVar[ByBenchmark] = {
        # of another system's program, for lengths alone
        "RelationNet, CUB": {"steps": 200_000},
        "RelationNet, AWA2": {"steps": 500_000},
    }

    steps: int = within(3000, 1)
    choices: tuple[int, ...] = (300, 1000, 3000)
    batch_size: int = within(32, 1)
    learning_rate: float = within(3e-4, 0)
    semantic_decay: float = within(1e-5, 0)
    common: int = within(512, 1)
    hidden: int = within(1024, 1)
    relation: int = within(400, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        config = self.config.replace({"preprocessing": {"feature_scaling": "standard"}})
        object.__setattr__(self, "config", config)

    @property
    def name(self) -> str:
        """What it follows; not the system's own name."""
        return "after Liu et al. (reconstruction)"

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train one network to the longest number of steps.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        precision = Precision.of(self.config.precision, job.device)
        scaler, data = job.prepare(self.config)
        descriptors = centred(data.descriptors, data.seen)
        for one, steps in self.trainings(job):
            sizes = data.x.shape[1], data.descriptors.shape[1]
            rng = stream(job.seed, "zicldm-weights")
            network = RelationNetwork(*sizes, one, precision, rng)
            losses = one.losses(network, data, descriptors)
            for chosen, trained in one.trained("zicldm", network, losses, steps, job):
                refiner, head = trained.parts(descriptors)
                yield chosen, job.recognizer(scaler, head, refiner)

    def losses(
        self, network: RelationNetwork, data: TrainingTensors, descriptors: Tensor
    ) -> Losses:
        """Squared error over the classes of a batch of real rows, and the penalty."""

        def losses(rng: torch.Generator) -> dict[str, Tensor]:
            rows = uniform_rows(len(data.y), self.batch_size, rng)
            present, own = torch.unique(data.y[rows], return_inverse=True)
            scores = network(data.x[rows], descriptors[present])
            squares = [p.square().sum() for p in network.semantic.parameters()]
            # the gradient of Adam's weight decay, for these parameters alone
            penalty = 0.5 * self.semantic_decay * torch.stack(squares).sum()
            return {"relation": relation_loss(scores, own), "penalty": penalty}

        return losses
