"""ZLAP: prototypes from descriptors, their logits adjusted in training for what is unseen.

Chen, Shen, Zhang, Torr: "Zero-Shot Logit Adjustment", IJCAI 2022, on any generator. A network P
maps the descriptor of each class to a prototype; an image's logit is its cosine with that, over a
temperature τ. P learns from all real rows and a few synthetic ones of each unseen class (10, where
a softmax takes hundreds). So few would lose against the real rows; the logits of a training batch,
and of no other, are therefore adjusted by the classes' priors (eqs. 11, 14 and 16):

    seen c:    log(n_c / Σ n) + log(r / (1 + r))
    unseen c:  log(1 / |U|)   + log(1 / (1 + r))

with n_c real rows of a class and the ratio r of seen to unseen. A loss on adjusted logits leaves a
network whose raw cosines suit a world where all classes are equally frequent.

As in the authors' program: P one hidden layer of 1024, LeakyReLU(0.2), no last activation, τ 0.04,
batches of 512, Adam with 1e-4, β (0.5, 0.999), weight decay 1e-4, the learning rate halved half-way
of 60 epochs (FLO 720 steps, CUB 900, SUN 1,300, AWA2 2,800); r 1000 for AWA2, 300 for aPY, 60 for
SUN, 30 for CUB; none is given for FLO. What differs here:

- The program trains such a head after each of 2,000 generator epochs, and reports the best of all
  heads' epochs on test rows. Here one generator is trained, and r and steps are chosen on
  validation classes.
- Its generator is a WGAN-GP without a regression; here it is the one of `config`, with the same
  preprocessing and descriptors of unit length.
- A constant is subtracted from seen scores as for every method. If the adjustment does what it
  promises, the best one is near 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.data.samplers import uniform_rows
from mlis.generators.base import synthesise
from mlis.methods.base import ByBenchmark, Job
from mlis.methods.network_method import Losses, NetworkMethod, within
from mlis.model.heads import CosineHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.recognizer import Recognizer
from mlis.pipeline import train_generator
from mlis.training.layers import Perceptron

RATIOS = (30.0, 100.0, 300.0, 1000.0)
SLOPE = 0.2  # of negative hidden units


def log_prior(counts: Tensor, ratio: float) -> Tensor:
    """Adjustment (C,) of the logits in training.

    Args:
        counts: (C,) real rows of each class; 0 where it is unseen.
        ratio: r, how much more likely a seen class is than an unseen one; > 0.
    """
    unseen = (counts == 0).to(counts.dtype)
    among_seen, among_unseen = counts / counts.sum(), unseen / unseen.sum().clamp(min=1)
    return torch.log((ratio * among_seen + among_unseen) / (1 + ratio))


def cosine_logits(x: Tensor, prototypes: Tensor, scale: float) -> Tensor:
    """`scale` times the cosine of each row with each prototype: (B, C) of (B, Dx) and (C, Dx)."""
    return scale * (normalize(x, dim=1) @ normalize(prototypes, dim=1).T)


@dataclass(frozen=True)
class ZLAP(NetworkMethod):
    """ZLAP on a generator that is trained before it; see `NetworkMethod` for the other settings.

    Attributes:
        config: `preprocessing`, `generation` and `precision` are used.
        ratio: r of the prior.
        synthetic: rows of each unseen class.
        hidden: units of P.
        temperature: τ.
        init_std: of initial weights.
    """

    remedy: ClassVar[str] = (
        "Lower batch_size or hidden of ZLAP, generation.batch_size or generation.hidden"
    )
    published: ClassVar[ByBenchmark] = {
        "CUB": {"steps": 900, "choices": (300, 900), "decay_every": 450},
        "AWA2": {"steps": 2800, "choices": (930, 2800), "decay_every": 1400},
        "SUN": {"steps": 1300, "choices": (430, 1300), "decay_every": 650},
        "aPY": {"steps": 700, "choices": (230, 700), "decay_every": 350},
    }
    uses_generator: ClassVar[bool] = True

    steps: int = within(720, 1)
    choices: tuple[int, ...] = (240, 720)
    batch_size: int = within(512, 1)
    beta1: float = within(0.5, 0, 0.9999)
    weight_decay: float = within(1e-4, 0)
    decay: float = within(0.5, 0, 1)
    decay_every: int = within(360, 0)
    ratio: float = within(100.0, 1e-9)
    synthetic: int = within(10, 1)
    hidden: int = within(1024, 1)
    temperature: float = within(0.04, 1e-6)
    init_std: float = within(0.02, 0)

    @property
    def name(self) -> str:
        """As in the paper, with the generator where it is not the paper's."""
        generator = self.config.generation.generator
        return "ZLAP" if generator == "wgan-gp" else f"ZLAP, {generator} generator"

    def alternatives(self) -> Sequence[Self]:
        """Each ratio with each number of steps among the choices."""
        return [
            replace(self, ratio=ratio, steps=steps)
            for ratio in RATIOS
            for steps in sorted(self.choices)
        ]

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train the generator, unless it is in the cache, and a network P for each ratio.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        precision = Precision.of(self.config.precision, job.device)
        scaler, data = job.prepare(self.config)
        how = (precision, job.seed, job.callbacks, job.checkpoints, job.reuse)
        generator, _ = train_generator(job.training, data, self.config, *how)
        rng = stream(job.seed, "zlap-synthetic", device=data.y.device)
        fakes, labels = [data.descriptors.new_zeros((0, data.x.shape[1]))], [data.y]
        if generator is not None:  # it is None where no class is unseen
            sampler = generator.sampler(data.descriptors)
            for x, y in synthesise(sampler, data.unseen, self.synthetic, rng):
                fakes, labels = [*fakes, x], [*labels, y]
        for one, steps in self.trainings(job):
            network = one.network(data, precision, job.seed)
            losses = one.losses(network, data, torch.cat(fakes), torch.cat(labels))
            for chosen, P in one.trained("zlap", network, losses, steps, job):
                head = CosineHead(P(data.descriptors), 1 / one.temperature)
                yield chosen, job.recognizer(scaler, head)

    def network(self, data: TrainingTensors, precision: Precision, seed: int) -> Perceptron:
        """P, from descriptors (C, Da) to prototypes (C, Dx)."""
        sizes = data.descriptors.shape[1], self.hidden, data.x.shape[1]
        rng = stream(seed, "zlap-weights")
        return Perceptron(*sizes, SLOPE, self.init_std, precision, rng)

    def losses(self, P: nn.Module, data: TrainingTensors, fakes: Tensor, labels: Tensor) -> Losses:
        """Cross-entropy over all classes, of batches of real rows and `fakes` (m, Dx).

        Args:
            P: the network.
            data: the real rows.
            fakes: synthetic rows of unseen classes.
            labels: (n + m,) of the real rows and the synthetic ones.
        """
        real = len(data.y)
        counts = torch.bincount(data.y, minlength=data.num_classes).to(data.x.dtype)
        prior = log_prior(counts, self.ratio)

        def losses(rng: torch.Generator) -> dict[str, Tensor]:
            rows = uniform_rows(len(labels), self.batch_size, rng).sort().values
            ours, theirs = rows[rows < real], rows[rows >= real] - real
            x = torch.cat((data.x[ours], fakes[theirs]))
            logits = cosine_logits(x, P(data.descriptors), 1 / self.temperature)
            return {"cross_entropy": cross_entropy(logits + prior, labels[rows])}

        return losses
