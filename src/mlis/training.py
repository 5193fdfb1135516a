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
from mlis.errors import DivergenceError, ModelFileError
from mlis.stacking import Rng, Seeds, by_name

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


Part = torch.nn.Module | torch.optim.Optimizer | Rng
"""What a trainer's state is made of."""


def pack(**parts: Part) -> dict[str, Tensor]:
    """Flatten modules, optimisers and random streams into one dictionary of tensors."""
    packed: dict[str, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, torch.Generator):
            packed[name] = part.get_state()
        elif isinstance(part, tuple):
            packed[name] = torch.stack([one.get_state() for one in part])
        elif isinstance(part, torch.nn.Module):
            packed |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
        else:
            for index, moments in part.state_dict()["state"].items():
                packed |= {f"{name}.{index}.{key}": value for key, value in moments.items()}
    return packed


def unpack(packed: Mapping[str, Tensor], **parts: Part) -> None:
    """Undo :func:`pack` in place.

    Raises:
        ModelFileError: a tensor is missing or has another shape.
    """
    try:
        for name, part in parts.items():
            if isinstance(part, torch.Generator):
                part.set_state(packed[name].cpu())
                continue
            if isinstance(part, tuple):
                for one, state_of_one in zip(part, packed[name].cpu(), strict=True):
                    one.set_state(state_of_one.clone())  # it takes no view
                continue
            own = {k[len(name) + 1 :]: v for k, v in packed.items() if k.startswith(f"{name}.")}
            if isinstance(part, torch.nn.Module):
                _check_networks(name, part, own)
                part.load_state_dict(own)
            else:
                state: dict[int, dict[str, Tensor]] = {}
                for key, value in own.items():
                    index, moment = key.split(".")
                    state.setdefault(int(index), {})[moment] = value
                _check_moments(name, part, state)
                part.load_state_dict({**part.state_dict(), "state": state})
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(f"the checkpoint does not fit this run's settings: {error}") from None


def unpack_rows(packed: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Return the row numbers of the next step, which a trainer draws one step ahead.

    Raises:
        ModelFileError: there are none, or not as many as in `like`.
    """
    rows = packed.get("rows")
    if rows is None or rows.shape != like.shape or rows.dtype != like.dtype:
        raise ModelFileError(
            "the checkpoint does not fit this run's settings: expected rows of the next step, "
            f"{tuple(like.shape)}"
        )
    return rows.to(like.device)


def _check_moments(
    name: str, optimiser: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Tensor]]
) -> None:
    """PyTorch takes moments of any shape, and none at all."""
    if not state:
        raise KeyError(name)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for index, moments in state.items():
        parameter = parameters[index]
        for moment, shape in (("exp_avg", parameter.shape), ("exp_avg_sq", parameter.shape)):
            _check_alike(f"{name}.{index}.{moment}", moments[moment], parameter, shape)
        _check_alike(f"{name}.{index}.step", moments["step"], torch.empty(0), torch.Size())


def _check_networks(name: str, part: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """PyTorch converts tensors of any type without a word."""
    for key, own in part.state_dict().items():
        if key in state:
            _check_alike(f"{name}.{key}", state[key], own, own.shape)


def _check_alike(name: str, value: Tensor, like: Tensor, shape: torch.Size) -> None:
    """The fused Adam writes beyond the end of a moment that is too short."""
    if value.shape != shape or value.dtype != like.dtype:
        raise ValueError(
            f"{name} is {tuple(value.shape)} of {value.dtype}, expected {tuple(shape)} of "
            f"{like.dtype}"
        )
