"""The one training loop, and what a loop tells the outside: losses, snapshots, divergence.

A stage is a :class:`Trainer`: it owns networks, optimisers and its stream of random numbers, and
knows how to take one step and how to be written down. :func:`train` runs it. Because a snapshot
holds everything that the next step depends on, a run continued from a snapshot ends with the same
bits as one that was never stopped.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from mlis.compute.precision import flushed_denormals
from mlis.errors import DivergenceError

LOG_EVERY = 20  # steps between two host synchronisations


class Trainer(Protocol):
    """One stage of training."""

    def step(self) -> Mapping[str, Tensor]:
        """Take one step; return its losses as 0-d tensors, without waiting for them."""
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


def train(stage: str, trainer: Trainer, steps: int, monitor: Monitor) -> None:
    """Run `trainer` until it has taken `steps` steps, continuing from a snapshot if there is one.

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
            values = {name: float(value) for name, value in losses.items()}
            _check_finite(stage, step, values)
            monitor.report(stage, step, steps, values)
        if snapshot:
            state = trainer.state()
            _check_state(stage, step, state)
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


def _check_state(stage: str, step: int, state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            _check_finite(stage, step, {f"the tensor {name}": math.nan})


def adam(
    parameters: Iterable[Tensor], learning_rate: float, beta1: float, beta2: float
) -> torch.optim.Adam:
    """Adam with its update fused into one kernel."""
    return torch.optim.Adam(list(parameters), lr=learning_rate, betas=(beta1, beta2), fused=True)
