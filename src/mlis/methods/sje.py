"""SJE: a bilinear compatibility of feature and class vector, trained to rank the own class first.

Akata, Reed, Walter, Lee, Schiele: "Evaluation of Output Embeddings for Fine-Grained Image
Classification", CVPR 2015. A class with the vector a scores

    F(x, a) = (W x + b) · a

W is learned from seen classes by the structured loss of the paper (eq. 3), which demands that the
own class y leads every other by a margin of 1 and follows the worst offender alone:

    max_c [ 1(c ≠ y) + F(x, a_c) − F(x, a_y) ]

The evaluation program of VGSE (:mod:`.vgse`) trains the same F by cross-entropy, with a softmax
taken twice: `CE(softmax(F))` where CE takes its own. That is offered as "double softmax", since the
table's row is made with it. Validation chooses between the two losses.

From that program: batches of 64, Adam with β (0.5, 0.999), weights N(0, 0.02); learning rate and
length 1e-4 and 100 epochs for CUB (11,000 steps), 5e-4 and 100 for SUN (16,000), 2e-4 and 200 for
AWA2 (74,000), there with 0.001 (‖W‖ + ‖b‖), not squared, in the loss (`penalty`). What differs:

- The paper descends by plain SGD, without b. Adam here, for both losses.
- Steps are chosen on validation classes, there the best epoch on test rows.
- The program subtracts 0.95 (AWA2) or 0.8 from seen probabilities; here the constant of every
  method is subtracted from F.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.data.samplers import uniform_rows
from mlis.methods.base import ByBenchmark, Job
from mlis.methods.network_method import Losses, NetworkMethod, within
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import FeatureScaler, TrainingTensors
from mlis.model.recognizer import Recognizer
from mlis.training.layers import Linear

Loss = Literal["ranking", "double softmax"]
LOSSES: tuple[Loss, ...] = ("ranking", "double softmax")


def ranking_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Structured loss: by how much the worst class of each row violates the margin 1; mean.

    Args:
        scores: (B, S).
        labels: (B,), among the S classes.
    """
    margin = 1 - one_hot(labels, scores.shape[1]).to(scores.dtype)
    return (scores + margin).amax(1).sub(scores.gather(1, labels[:, None])[:, 0]).mean()


def double_softmax_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy that takes probabilities, of (B, S) scores, for logits."""
    return cross_entropy(scores.softmax(1), labels)


@dataclass(frozen=True)
class SJE(NetworkMethod):
    """SJE; see `NetworkMethod` for the other settings.

    Attributes:
        config: `preprocessing` and `precision` are used.
        loss: what W is trained by.
        penalty: weight of the norms of W and b, not squared.
        init_std: of the initial W.
    """

    remedy: ClassVar[str] = "Lower batch_size of SJE"
    published: ClassVar[ByBenchmark] = {
        "CUB": {"steps": 11_000, "choices": (1000, 3000, 11_000), "learning_rate": 1e-4},
        "SUN": {"steps": 16_000, "choices": (1000, 4000, 16_000), "learning_rate": 5e-4},
        "AWA2": {"steps": 74_000, "choices": (3000, 15_000, 74_000), "penalty": 1e-3},
    }

    steps: int = within(3000, 1)
    choices: tuple[int, ...] = (1000, 3000)
    batch_size: int = within(64, 1)
    learning_rate: float = within(2e-4, 0)
    beta1: float = within(0.5, 0, 0.9999)
    loss: Loss = "ranking"
    penalty: float = within(0.0, 0)
    init_std: float = within(0.02, 0)

    @property
    def name(self) -> str:
        """As in the paper."""
        return "SJE"

    def alternatives(self) -> Sequence[Self]:
        """Both losses with each number of steps among the choices."""
        return [
            replace(self, loss=loss, steps=steps)
            for loss in LOSSES
            for steps in sorted(self.choices)
        ]

    def class_vectors(self, data: TrainingTensors) -> Tensor:
        """(C, D) vectors of all classes: their descriptors."""
        return data.descriptors

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train W for each loss.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        scaler, data = job.prepare(self.config)
        yield from self.train_on(job, scaler, data, lambda one: one.class_vectors(data))

    def train_on(
        self,
        job: Job,
        scaler: FeatureScaler,
        data: TrainingTensors,
        vectors_of: Callable[[Self], Tensor],
    ) -> Iterator[tuple[Self, Recognizer]]:
        """Train W for each loss and what else there is to choose.

        Args:
            job, scaler, data: the job, and what it prepared.
            vectors_of: (C, D) vectors of all classes with these settings.
        """
        precision = Precision.of(self.config.precision, job.device)
        for one, steps in self.trainings(job):
            vectors = vectors_of(one)
            rng = stream(job.seed, "sje-weights")
            sizes = data.x.shape[1], vectors.shape[1]
            network = Linear(*sizes, one.init_std, precision, rng)
            losses = one.losses(network, data, vectors)
            for chosen, trained in one.trained("sje", network, losses, steps, job):
                # F is linear in x: class c has the weights Wᵀ a_c and the bias b · a_c
                head = LinearHead(vectors @ trained.weight, vectors @ trained.bias)
                yield chosen, job.recognizer(scaler, head)

    def losses(self, network: nn.Module, data: TrainingTensors, vectors: Tensor) -> Losses:
        """The loss over seen classes of batches of real rows, and the penalty.

        Args:
            network: `x → W x + b`.
            data: the real rows.
            vectors: (C, D) of all classes.
        """
        seen = vectors[data.seen]
        own = torch.searchsorted(data.seen, data.y)
        loss = ranking_loss if self.loss == "ranking" else double_softmax_loss

        def losses(rng: torch.Generator) -> dict[str, Tensor]:
            rows = uniform_rows(len(own), self.batch_size, rng)
            found = {self.loss: loss(network(data.x[rows]) @ seen.T, own[rows])}
            if self.penalty:
                norms = torch.stack([p.norm() for p in network.parameters()])
                found["penalty"] = self.penalty * norms.sum()
            return found

        return losses
