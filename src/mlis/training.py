"""The one training loop, and what a loop tells the outside: losses, snapshots, divergence.

A stage is a :class:`Trainer`: it owns networks, optimisers and its stream of random numbers, and
knows how to take one step and how to be written down. :func:`train` runs it. Because a snapshot
holds everything that the next step depends on, a run continued from a snapshot ends with the same
bits as one that was never stopped.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mlis.compute import flushed_denormals
from mlis.errors import DivergenceError
from mlis.stacking import Seeds, by_name

LOG_EVERY = 20  # steps between two host synchronisations


class Trainer(Protocol):
    """One stage of training."""

    def step(self) -> Mapping[str, Tensor]:
        """Take one step; return its losses as 0-d tensors, without waiting for them.

        Where several seeds are stacked the losses are (S,) tensors.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, by name. Tensors may be live: copy or write."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that `state` gave."""
        ...

    def outcome(self) -> dict[str, Tensor]:
        """What is left of the state when the last step is taken: the networks that are used."""
        ...

    def load_outcome(self, outcome: Mapping[str, Tensor]) -> None:
        """Take over what `outcome` gave; no further step can be taken."""
        ...


@dataclass(frozen=True)
class Account:
    """What a stage has cost until its last snapshot.

    Attributes:
        key: hash of everything that the stage depends on.
        seconds: of all processes that worked on it.
        earlier: those of them that this training spent in processes before this one.
        reused: whether another training (another run, other components) did it or part of it.
        waited: seconds that this process waited for another one that was at it.
    """

    key: str
    seconds: float
    earlier: float
    reused: bool
    waited: float = 0.0


class Monitor:
    """Listens to training. This one does nothing; a run folder and progress bars derive from it."""

    def restore(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Return the last snapshot of a stage as (steps taken, state), or None."""
        return None

    def started(self, stage: str, step: int, total: int) -> None:
        """Note that a stage begins, `step` of its `total` steps having been taken before."""

    def report(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        """Take the losses at `step` of `total`."""

    def wants_snapshot(self, stage: str, step: int) -> bool:
        """Whether to be handed the state after `step` steps."""
        return False

    def snapshot(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep the state after `step` steps."""

    def finished(self, stage: str) -> None:
        """Note that a stage has taken its last step."""

    def account(self, stage: str) -> Account | None:
        """Say what a stage has cost; None where that is not kept."""
        return None


def train(stage: str, trainer: Trainer, steps: int, monitor: Monitor, seed: Seeds = 0) -> None:
    """Run `trainer` until it has taken `steps` steps, continuing from a snapshot if there is one.

    Of several seeds that are stacked, each loss is reported with its seed.

    Raises:
        DivergenceError: a loss is NaN or infinite. No snapshot of that state is kept.
    """
    done = 0
    if (found := monitor.restore(stage)) is not None:
        done, state = found
        (trainer.load_state if done < steps else trainer.load_outcome)(state)
    monitor.started(stage, done, steps)
    for step in range(done + 1, steps + 1):
        with flushed_denormals():
            losses = trainer.step()
        snapshot = step == steps or monitor.wants_snapshot(stage, step)
        if step % LOG_EVERY == 0 or step == steps:
            values = by_name(losses, seed)
            _check_finite(stage, step, values)
            monitor.report(stage, step, steps, values)
        if snapshot:
            state = trainer.state()
            _check_state(stage, step, state, seed)
            # Critic and optimisers are four fifths of the bytes, and nobody needs them any more.
            monitor.snapshot(stage, step, state if step < steps else trainer.outcome())
    monitor.finished(stage)


def _check_finite(stage: str, step: int, values: Mapping[str, float]) -> None:
    stages = ("generation", "refinement") if stage == "joint" else (stage,)
    rates = " or ".join(f"{name}.learning_rate" for name in stages)
    for name, value in values.items():
        if not math.isfinite(value):
            raise DivergenceError(
                f"{stage} diverged: {name} is {value} at step {step}. Try a smaller {rates}, "
                "precision='float32', or descriptors of unit length "
                "(preprocessing.descriptor_norm='l2'). The last good checkpoint is kept."
            )


def _check_state(stage: str, step: int, state: Mapping[str, Tensor], seed: Seeds) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            _check_finite(stage, step, {f"the tensor {name}{_whose(name, value, seed)}": math.nan})


def _whose(name: str, value: Tensor, seed: Seeds) -> str:
    """Which of several seeds a stacked tensor is not finite for."""
    alone = {"loss", "adam"} & set(name.split("."))  # copies of a user's loss are not stacked
    if isinstance(seed, int) or alone or value.shape[:1] != (len(seed),):
        return ""
    bad = [str(one) for one, own in zip(seed, value, strict=True) if not torch.isfinite(own).all()]
    return f" of seed {', '.join(bad)}"


def adam(
    parameters: Iterable[Tensor], learning_rate: float, beta1: float, beta2: float
) -> torch.optim.Adam:
    """Adam with its update fused into one kernel."""
    return torch.optim.Adam(list(parameters), lr=learning_rate, betas=(beta1, beta2), fused=True)
