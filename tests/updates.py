"""Watches the updates of a trainer, so that each can be compared with an independent loss."""

from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from mlis.generators.vae_gan.trainer import update
from mlis.training.state import PackedTrainer


@dataclass(frozen=True)
class Update:
    """One step of some optimisers.

    Attributes:
        loss: what it minimised.
        before: copies of all parameters of the trainer when it began, "part.name", which a
            reference is computed with.
        gradients: of the parameters that it moved.
    """

    loss: float
    before: dict[str, Tensor]
    gradients: dict[str, Tensor]

    def follows(self, loss: Tensor) -> None:
        """The loss, made of `before`, has this value and these gradients."""
        assert self.loss == pytest.approx(float(loss.detach()), rel=1e-9)
        of = [self.before[name] for name in self.gradients]
        found = torch.autograd.grad(loss, of, allow_unused=True)
        for (name, gradient), wanted in zip(self.gradients.items(), found, strict=True):
            expected = torch.zeros_like(gradient) if wanted is None else wanted
            torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-10, msg=name)

    @property
    def moved(self) -> set[str]:
        """Names of the networks that it trained."""
        return {name.partition(".")[0] for name in self.gradients}


def watched(
    monkeypatch: pytest.MonkeyPatch, trainer: PackedTrainer, *modules: ModuleType
) -> list[Update]:
    """The updates that the functions of these modules make from now on."""
    updates: list[Update] = []

    def watch(loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
        parameters = {
            f"{part}.{name}": parameter
            for part, network in trainer.parts().items()
            if isinstance(network, nn.Module)
            for name, parameter in network.named_parameters()
        }
        before = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        update(loss, *optimisers)
        groups = [group for one in optimisers for group in one.param_groups]
        moved = {id(p) for group in groups for p in group["params"]}
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in parameters.items()
            if id(p) in moved
        }
        updates.append(Update(float(loss.detach()), before, gradients))

    for module in modules:
        monkeypatch.setattr(module, "update", watch)
    return updates
