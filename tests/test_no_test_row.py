"""No test row reaches training or a choice: they may be noise, and nothing trained changes a bit.

Features and labels of all test rows are replaced; then every weight of every stage at every step,
every constant and every chosen setting must be what it was, of every method; of `auto`, which keeps
no snapshots, every loss in place of the weights on the way.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiment_cases import config
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.evaluation import Evaluation
from mlis.experiments.budget import QUICK_OPTIONS
from mlis.methods.auto import Auto
from mlis.methods.base import Method
from mlis.methods.mlis import MLIS
from mlis.methods.registry import METHODS, build_method
from mlis.protocol import evaluate_on_test
from mlis.training.callbacks import Callback
from simulated import linear_world, tiny


def with_noise(data: GZSLDataset, rows: np.ndarray) -> GZSLDataset:
    """Other features and labels in these rows; labels stay seen or unseen."""
    rng = np.random.default_rng(0)
    features, labels = data.features.copy(), data.labels.copy()
    features[rows] = rng.random((len(rows), features.shape[1])) * 100
    for part in (rows[data.seen_mask[labels[rows]]], rows[~data.seen_mask[labels[rows]]]):
        labels[part] = rng.permutation(labels[part])
    return replace(data, features=features, labels=labels)


def with_noisy_tests(data: GZSLDataset) -> GZSLDataset:
    other = with_noise(data, np.concatenate([data.split.test_seen, data.split.test_unseen]))
    assert other.sha256 != data.sha256
    return other


@pytest.fixture(autouse=True)
def _log_every_step(monkeypatch):
    monkeypatch.setattr("mlis.training.loop.LOG_EVERY", 1)


class Everything(Callback):
    """Keeps every reported loss, and the whole state of every stage at every step."""

    def __init__(self) -> None:
        self.losses: list[Any] = []
        self.states: list[Any] = []

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        self.losses.append((stage, step, dict(losses)))

    def load(self, stage: str) -> None:
        return None

    def due(self, stage: str, step: int) -> bool:
        return True

    def save(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        self.states.append((stage, step, {name: value.clone() for name, value in state.items()}))


def leaves(thing: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """All numbers, texts and arrays in a thing, each with its place."""
    if isinstance(thing, Tensor):
        yield where, thing.detach().cpu().double().numpy().tobytes()
    elif isinstance(thing, np.ndarray):
        yield where, thing.tobytes()
    elif isinstance(thing, nn.Module):
        yield from leaves(thing.state_dict(), where)
    elif isinstance(thing, Config | Evaluation):
        yield where, thing.to_dict()
    elif dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            yield from leaves(getattr(thing, field.name), f"{where}.{field.name}")
    elif isinstance(thing, Mapping):
        for name, value in thing.items():
            yield from leaves(value, f"{where}.{name}")
    elif isinstance(thing, Sequence) and not isinstance(thing, str):
        for i, value in enumerate(thing):
            yield from leaves(value, f"{where}[{i}]")
    else:
        assert thing is None or isinstance(thing, str | int | float | torch.dtype | torch.device)
        yield where, thing


def of(method: Method, data: GZSLDataset) -> list[Any]:
    """All that is trained and chosen, and how it does on the test rows (the last)."""
    seen, validation = Everything(), Everything()
    found = method.choose(
        data,
        seed=2,
        device="cpu",
        callbacks=[seen],
        checkpoints=seen,
        validation_callbacks=[validation],
        validation_checkpoints=validation,
    )
    if not isinstance(method, Auto):
        for one in (seen, validation):
            assert len(one.states) == len(one.losses)  # no step without its state
    watched = [seen.losses, seen.states, validation.losses, validation.states]
    tested = evaluate_on_test(found.recognizer, data).to_dict()
    return [[found.method.settings, found.recognizer, found.validation], watched, tested]


def of_method(data: GZSLDataset, settings: Config) -> list[Any]:
    return of(MLIS(settings), data)


def of_any(data: GZSLDataset, method: str) -> list[Any]:
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in QUICK_OPTIONS.get(method, {}).items()
    }
    return of(build_method(method, config(), **options), data)


def agree(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    """Everything but the tests is the same to the bit; the tests differ."""
    one, two = list(leaves(ours[:-1])), list(leaves(theirs[:-1]))
    assert any(isinstance(value, bytes) for _, value in one)  # weights
    for a, b in zip(one, two, strict=True):
        assert a == b, a[0]
    assert ours[-1] != theirs[-1]


RIDGE = {"generator": "ridge"}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    **{
        f"ridge, {components}": {"generation": RIDGE, "refinement": {"components": components}}
        for components in ("none", "ml", "ml+is", "ml+is+sfr")
    },
    "cold start": {"generation": {"generator_init": "cold"}},
    "warm start": {"generation": {"generator_init": "ridge"}},
    "joint": {"refinement": {"schedule": "joint"}},
    "generator feedback": {"refinement": {"schedule": "joint", "generator_feedback": 0.5}},
    "other loss": {"refinement": {"loss": "multi_similarity"}},
    "square root": {"preprocessing": {"feature_transform": "sqrt"}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_method(name):
    data, settings = tiny(), config(**SETTINGS[name])
    agree(of_method(data, settings), of_method(with_noisy_tests(data), settings))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_by_the_common_protocol(method):
    data = tiny() if method != "cosine" else linear_world(classes=9, unseen=3, signal=6, nuisance=2)
    agree(of_any(data, method), of_any(with_noisy_tests(data), method))


def test_a_single_training_row_would_be_noticed():
    """What the tests above compare depends on what they say that it does."""
    data = tiny()
    for one in (of_method(data, config()), of_any(data, "cegzsl")):
        assert len(list(leaves(one[1]))) > 20  # states of several stages were seen
    for row in (data.split.train[:1], data.split.val_unseen[:1]):
        other = with_noise(data, row)
        with pytest.raises(AssertionError):
            agree(of_method(data, config()), of_method(other, config()))
        for method in ("eszsl", "raw"):
            with pytest.raises(AssertionError):
                agree(of_any(data, method), of_any(other, method))
