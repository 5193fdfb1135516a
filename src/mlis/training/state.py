"""A trainer's state as one dictionary of tensors, and back: nothing is pickled."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from mlis.errors import ModelFileError

Part = torch.nn.Module | torch.optim.Optimizer | torch.Generator
"""What a trainer's state is made of."""


def pack(**parts: Part) -> dict[str, Tensor]:
    """Flatten modules, optimisers and random streams into one dictionary of tensors."""
    packed: dict[str, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, torch.Generator):
            packed[name] = part.get_state()
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
            own = {k[len(name) + 1 :]: v for k, v in packed.items() if k.startswith(f"{name}.")}
            if isinstance(part, torch.Generator):
                part.set_state(packed[name].cpu())
            elif isinstance(part, torch.nn.Module):
                part.load_state_dict(own)
            else:
                _load_moments(part, own)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"the snapshot does not fit these settings: {error}. Delete it to train the stage again"
        ) from None


def _load_moments(optimiser: torch.optim.Optimizer, packed: Mapping[str, Tensor]) -> None:
    """PyTorch checks no shape, and the fused Adam writes beyond a moment that is too short."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in packed.items():
        index, moment = key.split(".")
        state.setdefault(int(index), {})[moment] = value
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for index, moments in state.items():
        shape = parameters[index].shape
        for moment in {"exp_avg", "exp_avg_sq"} | (moments.keys() - {"step"}):
            if moments[moment].shape != shape:
                raise ValueError(
                    f"{moment} {index}: expected shape {tuple(shape)}, got "
                    f"{tuple(moments[moment].shape)}"
                )
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


class PackedTrainer(ABC):
    """The state of a :class:`~mlis.training.loop.Trainer`, made of its parts.

    Attributes:
        rows: row numbers of the next step, which are drawn one step ahead.
    """

    rows: Tensor

    @abstractmethod
    def step(self) -> Mapping[str, Tensor]:
        """Take one step; return its losses as 0-d tensors, without waiting for them."""

    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """Everything the next step depends on besides its rows, by name."""

    @abstractmethod
    def kept(self) -> Mapping[str, Part]:
        """The parts that are used after the last step."""

    def state(self) -> dict[str, Tensor]:
        """All parts, and the rows of the next step."""
        return {**pack(**self.parts()), "rows": self.rows}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        unpack(state, **self.parts())
        self.rows = state["rows"].to(self.rows.device)

    def outcome(self) -> dict[str, Tensor]:
        """The parts that are kept."""
        return pack(**self.kept())

    def load_outcome(self, outcome: Mapping[str, Tensor]) -> None:
        """Restore what `outcome` returned."""
        unpack(outcome, **self.kept())


class EpochCount(torch.nn.Module):
    """A trainer's part that counts steps, for schedules by the epoch.

    Args:
        rows, batch_size: an epoch is `rows / batch_size` steps, rounded.
    """

    def __init__(self, rows: int, batch_size: int):
        super().__init__()
        self.per_epoch: int = max(1, round(rows / batch_size))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def epoch(self) -> int:
        """From 0."""
        return int(self.steps) // self.per_epoch

    def advance(self) -> None:
        """One step more."""
        self.steps += 1
