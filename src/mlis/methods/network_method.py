"""Base of methods that train one network by Adam: settings, loop, several lengths of training.

Methods of several networks: :mod:`mlis.methods._snapshots`.

Published programs of this kind take the best epoch on test rows. Here the number of steps is chosen
on validation classes: one training to the longest gives the network after each number of steps.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeVar, cast, get_args, get_origin

import torch
from torch import Tensor, nn

from mlis.compute.random import stream
from mlis.errors import SettingsError
from mlis.methods.base import Job, Method
from mlis.training.loop import train
from mlis.training.state import pack, unpack

Network = TypeVar("Network", bound=nn.Module)
Losses = Callable[[torch.Generator], Mapping[str, Tensor]]
"""Draws a batch from a random stream and gives its losses, by name; their sum is minimised."""


def within(default: Any, low: float, high: float = 1e30) -> Any:
    """Declare a numeric setting: its default and inclusive range."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class NetworkMethod(Method):
    """Settings of the training, which `trained` follows.

    Attributes:
        config: the settings that methods share; each method says which it uses.
        steps: updates of the network, one a batch.
        choices: numbers of steps to choose from on validation classes.
        batch_size: samples a step.
        learning_rate, beta1, beta2, weight_decay: of Adam; the decay is added to the gradient.
        decay, decay_every: factor on the learning rate, and after how many steps each time; 0 for
            never.

    Raises:
        SettingsError: a setting is of another type or out of range.
    """

    steps: int = within(1000, 1)
    choices: tuple[int, ...] = (100, 300, 1000)
    batch_size: int = within(256, 1)
    learning_rate: float = within(1e-4, 0)
    beta1: float = within(0.9, 0, 0.9999)
    beta2: float = within(0.999, 0, 0.99999)
    weight_decay: float = within(0.0, 0)
    decay: float = within(1.0, 0, 1)
    decay_every: int = within(0, 0)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            where, value = f"{type(self).__name__}.{f.name}", getattr(self, f.name)
            if "low" in f.metadata:
                _check_number(where, value, cast(type, f.type), **f.metadata)
            elif get_origin(f.type) is Literal and value not in get_args(f.type):
                known = ", ".join(map(repr, get_args(f.type)))
                raise SettingsError(f"{where}: expected one of {known}, got {value!r}")
        if not self.choices:
            raise SettingsError(f"{type(self).__name__}.choices: expected numbers of steps, got ()")
        for steps in self.choices:
            _check_number(f"{type(self).__name__}.choices", steps, int, 1, 1e9)

    def alternatives(self) -> Sequence[Self]:
        """Each number of steps among the choices."""
        return [replace(self, steps=steps) for steps in sorted(self.choices)]

    def trainings(self, job: Job) -> Iterator[tuple[Self, tuple[int, ...]]]:
        """What a job trains, in its order: settings, and all numbers of steps wanted of them."""
        for one, group in itertools.groupby(self.among(job), lambda one: replace(one, steps=1)):
            yield one, tuple(member.steps for member in group)

    def trained(
        self, stage: str, network: Network, losses: Losses, steps: Sequence[int], job: Job
    ) -> Iterator[tuple[Self, Network]]:
        """Train the network; yield these settings and a copy of it after each number of steps.

        Args:
            stage: its name in progress and errors.
            network: is trained in place.
            losses: of a batch, drawn from a stream on the network's device.
            steps: ascending.
            job: seed, callbacks and snapshots.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        device = next(network.parameters()).device
        rng = stream(job.seed, f"{stage}-batches", device=device)
        kept = job.series(self, steps, ("network",))
        train(stage, NetworkTrainer(network, losses, self, rng), max(steps), job.callbacks, kept)
        for number in steps:
            one = copy.deepcopy(network)
            unpack(kept.states[number], network=one)
            yield replace(self, steps=number), one.eval().requires_grad_(False)


class NetworkTrainer:
    """One step = one update of a network on a batch; a :class:`~mlis.training.loop.Trainer`.

    Args:
        network: is trained in place.
        losses: see `Losses`.
        settings: of Adam and its learning rate.
        rng: of the batches.
    """

    def __init__(
        self, network: nn.Module, losses: Losses, settings: NetworkMethod, rng: torch.Generator
    ):
        self.network: nn.Module = network
        self.losses: Losses = losses
        self.settings: NetworkMethod = settings
        self.rng: torch.Generator = rng
        self.done: int = 0
        self.adam: torch.optim.Adam = torch.optim.Adam(
            network.parameters(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def step(self) -> Mapping[str, Tensor]:
        """Draw a batch and follow the gradient of the sum of its losses."""
        every = self.settings.decay_every
        rate = self.settings.learning_rate * self.settings.decay ** (
            self.done // every if every else 0
        )
        for group in self.adam.param_groups:
            group["lr"] = rate
        losses = self.losses(self.rng)
        self.adam.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.adam.step()
        self.done += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def state(self) -> dict[str, Tensor]:
        """Network, optimiser, random stream and number of steps taken."""
        packed = pack(network=self.network, adam=self.adam, rng=self.rng)
        return {**packed, "done": torch.tensor(self.done)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        unpack(state, network=self.network, adam=self.adam, rng=self.rng)
        self.done = int(state["done"])

    def outcome(self) -> dict[str, Tensor]:
        """The network."""
        return pack(network=self.network)

    def load_outcome(self, outcome: Mapping[str, Tensor]) -> None:
        """Restore what `outcome` returned."""
        unpack(outcome, network=self.network)


def _check_number(where: str, value: Any, kind: type, low: float, high: float) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{where}: expected {what} from {low:g} to {high:g}, got {value!r}")
