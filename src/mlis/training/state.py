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
            if isinstance(part, torch.Generator):
                part.set_state(packed[name].cpu())
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


def _check_moments(
    name: str, optimiser: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Tensor]]
) -> None:
    """PyTorch takes moments of any shape, and none at all."""
    if not state:
        raise KeyError(name)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    step = torch.empty((), dtype=torch.float32, device="cpu")
    for index, moments in state.items():
        parameter = parameters[index]
        for moment, shape in (("exp_avg", parameter.shape), ("exp_avg_sq", parameter.shape)):
            _check_alike(f"{name}.{index}.{moment}", moments[moment], parameter, shape)
        _check_alike(f"{name}.{index}.step", moments["step"], step, step.shape)


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


class PackedTrainer(ABC):
    """The half of a :class:`~mlis.training.loop.Trainer` that is written down, made of its parts.

    Attributes:
        rows: row numbers of the next step, which is drawn one step ahead.
    """

    rows: Tensor

    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """Everything the next step depends on beside its rows, by name."""

    @property
    @abstractmethod
    def row_count(self) -> int:
        """Training rows, of which `rows` are numbers."""

    @abstractmethod
    def kept(self) -> Mapping[str, Part]:
        """Those of the parts that are used when the last step is taken."""

    def state(self) -> dict[str, Tensor]:
        """All parts, and the rows of the next step."""
        return {**pack(**self.parts()), "rows": self.rows}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that `state` gave."""
        unpack(state, **self.parts())
        self.rows = _unpack_rows(state, self.rows, self.row_count)

    def outcome(self) -> dict[str, Tensor]:
        """The parts that are kept."""
        return pack(**self.kept())

    def load_outcome(self, outcome: Mapping[str, Tensor]) -> None:
        """Take over what `outcome` gave."""
        unpack(outcome, **self.kept())


def _unpack_rows(packed: Mapping[str, Tensor], like: Tensor, count: int) -> Tensor:
    """Return the row numbers of the next step, which a trainer draws one step ahead.

    Raises:
        ModelFileError: there are none, not as many as in `like`, or one is not below `count`.
    """
    rows = packed.get("rows")
    fits = rows is not None and rows.shape == like.shape and rows.dtype == like.dtype
    if rows is None or not fits or bool(((rows < 0) | (rows >= count)).any()):
        raise ModelFileError(
            "the checkpoint does not fit this run's settings: expected rows of the next step, "
            f"{tuple(like.shape)} numbers from 0 to {count - 1}"
        )
    return rows.to(like.device)
