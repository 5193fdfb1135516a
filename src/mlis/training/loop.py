"""The training loop: steps, losses, snapshots, divergence.

A stage is a :class:`Trainer`: it owns networks, optimisers and its random generators. :func:`train`
runs it. A snapshot holds everything that the next step depends on, so a run continued from a
snapshot ends with the same bits as one that was never stopped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mlis.compute.precision import flushed_denormals
from mlis.errors import DivergenceError
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore

LOG_EVERY = 20  # steps between two host synchronisations


class Trainer(Protocol):
    """One stage of training."""

    def step(self) -> Mapping[str, Tensor]:
        """Take one step; return its losses as 0-d tensors, without waiting for them."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, by name. The next step may change the tensors."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        ...

    def outcome(self) -> dict[str, Tensor]:
        """The part of the state that is used after the last step: the trained networks."""
        ...

    def load_outcome(self, outcome: Mapping[str, Tensor]) -> None:
        """Restore what `outcome` returned; no further step can be taken."""
        ...


def train(
    stage: str,
    trainer: Trainer,
    steps: int,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
) -> None:
    """Run `trainer` until it has taken `steps` steps, continuing from a snapshot if there is one.

    Raises:
        DivergenceError: a loss is NaN or infinite. No snapshot of that state is kept.
        ModelFileError: the snapshot does not fit the trainer.
    """
    done = 0
    if checkpoints is not None and (found := checkpoints.load(stage)) is not None:
        done, state = found
        (trainer.load_state if done < steps else trainer.load_outcome)(state)
    for callback in callbacks:
        callback.on_start(stage, done, steps)
    for step in range(done + 1, steps + 1):
        with flushed_denormals():
            losses = trainer.step()
        due = checkpoints is not None and (step == steps or checkpoints.due(stage, step))
        if step % LOG_EVERY == 0 or step == steps:
            values = {name: float(value) for name, value in losses.items()}
            _check_finite(stage, step, values)
            for callback in callbacks:
                callback.on_step(stage, step, steps, values)
        if checkpoints is not None and due:
            state = trainer.state()
            _check_state(stage, step, state)
            # After the last step, critic and optimisers (four fifths of the bytes) are not needed.
            checkpoints.save(stage, step, state if step < steps else trainer.outcome())
    for callback in callbacks:
        callback.on_end(stage)


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
    parameters: Iterable[Tensor],
    learning_rate: float,
    beta1: float,
    beta2: float,
    *,
    amsgrad: bool = False,
    weight_decay: float = 0.0,
) -> torch.optim.Adam:
    """Adam with its update fused into one kernel."""
    options = {"lr": learning_rate, "betas": (beta1, beta2), "weight_decay": weight_decay}
    return torch.optim.Adam(list(parameters), amsgrad=amsgrad, fused=True, **options)
