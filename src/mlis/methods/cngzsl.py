"""CN-GZSL: prototypes from descriptors by a network whose units are standardised over classes.

Skorokhodov, Elhoseiny: "Class Normalization for (Continual)? Generalized Zero-Shot Learning", ICLR
2021. A network maps descriptors to prototypes; an image's logits are scaled cosines with them, and
cross-entropy over the **seen** classes trains it: nothing is synthesised. That such a network also
ranks unseen classes needs, the paper shows, hidden units of one scale, and an initialisation of the
last layer that keeps the logits' variance (eq. 10):

    descriptor (norm √Da) → 1024 ReLU → 1024 → CS → ReLU → CS → Dx → ReLU = prototype
    logit of class c = (5 x / ‖x‖) · (5 p_c / ‖p_c‖)

CS, class standardisation (eq. 9), subtracts a unit's mean over the seen classes and divides by its
spread over them. Running averages of both are used for all classes afterwards: statistics of the
classes of a test would make the prototype of one class depend on which others there are.

As in the authors' notebook: features are not scaled, Adam with 5e-4, weight decay 1e-4, batches of
256, 50 epochs (FLO 1,100 steps, CUB 1,400, SUN 2,000, AWA2 4,600), a tenth of the learning rate
after half of them; the same settings for all datasets. What differs:

- The notebook takes features as they are; here they are square-rooted where none is negative, as
  for every method (`preprocessing.feature_transform`: "none" for the notebook's).
- The paper divides by the standard deviation, the notebook by the variance + 1e-5. Validation
  chooses between them.
- A unit that is nearly constant over the seen classes would let one unseen class that activates it
  dominate its prototype: no variance counts as less than a thousandth of the units' average.
- The last ReLU is left out for features of both signs, whose prototypes must have both.
- The notebook multiplies seen logits by 0.95 (CUB: 1) and takes the last epoch. Here the constant
  of every method is subtracted, and steps are chosen on validation classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.data.samplers import uniform_rows
from mlis.methods.base import ByBenchmark, Job
from mlis.methods.network_method import Losses, NetworkMethod, within
from mlis.methods.zlap import cosine_logits
from mlis.model.heads import CosineHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.recognizer import Recognizer
from mlis.training.layers import Linear

Spread = Literal["variance", "deviation"]
SPREADS: tuple[Spread, ...] = ("variance", "deviation")
MOMENTUM = 0.1  # of the running averages
LEAST = 1e-3  # variance of a unit, as a share of the units' mean variance
EPSILON = 1e-5


class ClassStandardisation(nn.Module):
    """CS: `(h − mean) / spread` of each unit, both over the classes of a training batch.

    In eval mode by their running averages.

    Args:
        units: number of units.
        spread: "variance" as in the notebook, "deviation" as in the paper.
        like: dtype and device of the averages.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, units: int, spread: Spread, like: Tensor):
        super().__init__()
        self.spread: Spread = spread
        self.register_buffer("mean", like.new_zeros(units))
        self.register_buffer("variance", like.new_ones(units))

    def forward(self, h: Tensor) -> Tensor:
        """Standardise (C, units) activations of C classes."""
        mean, variance = self.mean, self.variance
        if self.training:
            variance, mean = torch.var_mean(h, dim=0, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean, MOMENTUM)
                self.variance.lerp_(variance, MOMENTUM)
        variance = torch.maximum(variance, LEAST * variance.mean()) + EPSILON
        return (h - mean) / (variance if self.spread == "variance" else variance.sqrt())


@dataclass(frozen=True)
class CNGZSL(NetworkMethod):
    """CN-GZSL; see `NetworkMethod` for the other settings.

    Attributes:
        config: `preprocessing.feature_transform` and `precision` are used. Features are not scaled,
            and descriptors get the length √Da.
        spread: what class standardisation divides by.
        hidden: units of both hidden layers.
        scale: of feature and of prototype; logits lie within ± scale².
    """

    remedy: ClassVar[str] = "Lower batch_size or hidden of CNGZSL"
    published: ClassVar[ByBenchmark] = {
        "CUB": {"steps": 1400, "choices": (280, 700, 1400), "decay_every": 700},
        "AWA1": {"steps": 3900, "choices": (780, 1950, 3900), "decay_every": 1950},
        "AWA2": {"steps": 4600, "choices": (920, 2300, 4600), "decay_every": 2300},
        "SUN": {"steps": 2000, "choices": (400, 1000, 2000), "decay_every": 1000},
        "FLO": {},
    }

    steps: int = within(1100, 1)
    choices: tuple[int, ...] = (220, 550, 1100)
    learning_rate: float = within(5e-4, 0)
    weight_decay: float = within(1e-4, 0)
    decay: float = within(0.1, 0, 1)
    decay_every: int = within(550, 0)
    spread: Spread = "variance"
    hidden: int = within(1024, 1)
    scale: float = within(5.0, 1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        raw = {"feature_scaling": "none", "descriptor_norm": "l2"}
        object.__setattr__(self, "config", self.config.replace({"preprocessing": raw}))

    @property
    def name(self) -> str:
        """As in the paper."""
        return "CN-GZSL"

    def alternatives(self) -> Sequence[Self]:
        """Both spreads with each number of steps among the choices."""
        return [
            replace(self, spread=spread, steps=steps)
            for spread in SPREADS
            for steps in sorted(self.choices)
        ]

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train a network for each spread.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        precision = Precision.of(self.config.precision, job.device)
        scaler, data = job.prepare(self.config)
        descriptors = math.sqrt(data.descriptors.shape[1]) * data.descriptors
        for one, steps in self.trainings(job):
            network = one.network(data, precision, job.seed)
            losses = one.losses(network, data, descriptors)
            for chosen, prototypes in one.trained("cngzsl", network, losses, steps, job):
                head = CosineHead(prototypes(descriptors), one.scale**2)
                yield chosen, job.recognizer(scaler, head)

    def network(self, data: TrainingTensors, precision: Precision, seed: int) -> nn.Sequential:
        """From descriptors (C, Da) to prototypes (C, Dx)."""
        rng = stream(seed, "cngzsl-weights")

        def layer(inputs: int, outputs: int, variance: float | None = None) -> Linear:
            bound = 1 / math.sqrt(inputs) if variance is None else math.sqrt(3 * variance)
            made = Linear(inputs, outputs, 0.0, precision, rng)
            for part in (made.weight, made.bias):
                drawn = torch.rand(part.shape, generator=rng, dtype=torch.float32, device="cpu")
                with torch.no_grad():
                    part.copy_(bound * (2 * drawn - 1))
            return made

        def standardisation() -> ClassStandardisation:
            return ClassStandardisation(self.hidden, self.spread, data.descriptors)

        hidden, outputs = self.hidden, data.x.shape[1]
        return nn.Sequential(
            layer(data.descriptors.shape[1], hidden),
            nn.ReLU(),
            layer(hidden, hidden),
            standardisation(),
            nn.ReLU(),
            standardisation(),
            layer(hidden, outputs, 1 / (hidden * outputs)),
            nn.Identity() if data.signed else nn.ReLU(),
        )

    def losses(self, network: nn.Module, data: TrainingTensors, descriptors: Tensor) -> Losses:
        """Cross-entropy over the seen classes, of batches of real rows.

        Args:
            network: from descriptors to prototypes.
            data: the real rows.
            descriptors: (C, Da) as the network takes them.
        """
        seen = descriptors[data.seen]
        own = torch.searchsorted(data.seen, data.y)

        def losses(rng: torch.Generator) -> dict[str, Tensor]:
            rows = uniform_rows(len(own), self.batch_size, rng)
            logits = cosine_logits(data.x[rows], network(seen), self.scale**2)
            return {"cross_entropy": cross_entropy(logits, own[rows])}

        return losses
