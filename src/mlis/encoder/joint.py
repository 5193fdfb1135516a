"""Stages 1a and 1b in the paper's order: each step trains the generator, then the encoder."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from mlis.compute.precision import Precision
from mlis.config import Config
from mlis.encoder.metric_losses import EmbeddingLoss
from mlis.encoder.network import Encoder
from mlis.encoder.trainer import RefinementTrainer
from mlis.generators.base import FeatureGenerator
from mlis.generators.wgan_gp.trainer import AdversarialTrainer
from mlis.model.preprocessing import TrainingTensors
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore
from mlis.training.loop import train


class JointTrainer:
    """The paper's order: each step trains critic and generator, then the encoder."""

    adversarial: AdversarialTrainer
    refinement: RefinementTrainer

    def __init__(self, adversarial: AdversarialTrainer, refinement: RefinementTrainer):
        self.adversarial, self.refinement = adversarial, refinement
        if refinement.settings.generator_feedback > 0:
            seen = adversarial.data.seen
            adversarial.feedback = lambda fake, own: refinement.feedback(fake, seen[own])

    def step(self) -> Mapping[str, Tensor]:
        """One step of each."""
        return {**self.adversarial.step(), **self.refinement.step()}

    def state(self) -> dict[str, Tensor]:
        """Both states."""
        return _joined(self.adversarial.state(), self.refinement.state())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that `state` gave."""
        adversarial, refinement = _parted(state)
        self.adversarial.load_state(adversarial)
        self.refinement.load_state(refinement)

    def outcome(self) -> dict[str, Tensor]:
        """Generator and encoder."""
        return _joined(self.adversarial.outcome(), self.refinement.outcome())

    def load_outcome(self, outcome: Mapping[str, Tensor]) -> None:
        """Take over what `outcome` gave."""
        adversarial, refinement = _parted(outcome)
        self.adversarial.load_outcome(adversarial)
        self.refinement.load_outcome(refinement)


def _joined(adversarial: Mapping[str, Tensor], refinement: Mapping[str, Tensor]):
    parts = {"a": adversarial, "r": refinement}
    return {f"{p}.{key}": value for p, part in parts.items() for key, value in part.items()}


def _parted(both: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{k[2:]: v for k, v in both.items() if k.startswith(prefix)} for prefix in ("a.", "r.")]


def fit_joint(
    data: TrainingTensors,
    config: Config,
    precision: Precision,
    seed: int,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
    loss: EmbeddingLoss | None = None,
) -> tuple[FeatureGenerator, Encoder]:
    """Train generator and encoder together, `generation.steps` steps (`schedule="joint"`)."""
    adversarial = AdversarialTrainer(data, config.generation, precision, seed)
    refinement = RefinementTrainer(
        data,
        config.refinement,
        precision,
        seed,
        lambda: adversarial.generator.sampler(data.descriptors),
        loss,
    )
    trainer = JointTrainer(adversarial, refinement)
    train("joint", trainer, config.generation.steps, callbacks, checkpoints)
    return adversarial.generator, refinement.encoder
