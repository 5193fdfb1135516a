"""Every method's training goes on where a killed process stopped, and ends with the same bits."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiment_cases import config
from mlis.data.dataset import GZSLDataset
from mlis.experiments.budget import QUICK_OPTIONS
from mlis.methods.base import Method
from mlis.methods.registry import METHODS, build_method
from mlis.pipeline import Trained
from mlis.training.checkpoints import CheckpointFolder
from simulated import linear_world, of_regions, tiny

CLOSED = {"cosine", "prototype", "eszsl", "gaussian", "ridge", "auto"}  # no step to continue from
OF_REGIONS = {"dazle", "dvbe", "vgse-patches"}
LENGTHS = {"steps": 6, "choices": (2, 6), "epochs": 6, "cluster_steps": 6}


def short(name: str) -> Method:
    """With several alternatives, of at most 6 steps each."""
    options: dict[str, Any] = dict(QUICK_OPTIONS.get(name, {}))
    return build_method(name, config(), **{**options, **_among(LENGTHS, options)})


def _among(values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in options}


def world(name: str) -> GZSLDataset:
    if name == "cosine":
        return linear_world(classes=9, unseen=3, signal=6, nuisance=2)
    return of_regions(tiny(), 3) if name in OF_REGIONS else tiny()


class Killed(BaseException):
    """Where a process would be killed."""


class Mortal(CheckpointFolder):
    """Snapshots, by default after every step; the process dies of the last of so many."""

    def __init__(self, folder: Path, snapshots: int, every: float = 0.0):
        super().__init__(folder, "key", every=every)
        self.saved, self.life = 0, snapshots

    def save(self, stage: str, step: int, state: Any) -> None:
        super().save(stage, step, state)
        self.saved += 1
        if self.saved == self.life:
            raise Killed


def trained(name: str, checkpoints: CheckpointFolder | None = None) -> list[dict[str, Tensor]]:
    """The weights of every alternative."""
    how = {"seed": 1, "device": "cpu", "checkpoints": checkpoints}
    found = short(name).candidates(world(name).for_training(), **how)
    return [Trained.of(one).recognizer.state_dict() for _, one in found]


def same(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_training_ends_with_the_same_bits(name, tmp_path):
    wanted = trained(name)
    whole = Mortal(tmp_path / "whole", 0)
    same(trained(name, whole), wanted)
    assert (whole.saved == 0) == (name in CLOSED)
    lives, found = list[Mortal](), None
    while found is None:
        lives.append(Mortal(tmp_path / "killed", 4))
        with suppress(Killed):
            found = trained(name, lives[-1])
    same(found, wanted)
    assert sum(life.saved for life in lives) == whole.saved  # no step was taken twice
    assert (len(lives) > 1) == (name not in CLOSED)
    again = Mortal(tmp_path / "killed", 1)  # killed after its last step
    same(trained(name, again), wanted)


def test_alternatives_cause_no_snapshot_of_their_own(tmp_path):
    rare = Mortal(tmp_path, 0, every=1e9)
    same(trained("tf-vaegan", rare), trained("tf-vaegan"))
    assert rare.saved == 1  # after the last step
