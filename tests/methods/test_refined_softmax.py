"""Stage 2 on refined features: the same whether they are held or made again when they are read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mlis.compute.precision import Precision
from mlis.config import Classification, Config
from mlis.data.out_of_core.streaming import CHUNK_ROWS, ConcatenatedRows, RefinedRows
from mlis.generators.ridge import fit_ridge
from mlis.methods._refined_softmax import decoded, fit_domains, fit_softmax
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import Identity
from mlis.training.layers import Perceptron

SETTINGS = Classification(synthetic_per_unseen=900, weight_decay=0.05, max_iterations=30)
HIDDEN, ROWS, SIZE, ATTRIBUTES = 64, 6000, 6, 4
WIDTH = SIZE + HIDDEN + ATTRIBUTES


@pytest.fixture
def data() -> TrainingTensors:
    rng = torch.Generator().manual_seed(0)
    descriptors = torch.randn(9, ATTRIBUTES, generator=rng)
    y = torch.arange(ROWS) % 6
    noise = torch.randn(ROWS, SIZE, generator=rng)
    x = torch.relu(descriptors[y] @ torch.randn(ATTRIBUTES, SIZE, generator=rng) + noise)
    return TrainingTensors(x, y, descriptors, torch.arange(6), torch.arange(6, 9))


def refiner_of_parts():
    rng = torch.Generator().manual_seed(1)
    sizes = (SIZE, HIDDEN, ATTRIBUTES)
    return decoded(Perceptron(*sizes, 0.2, 0.3, Precision.of("float32", "cpu"), rng), "unit")


def softmax(data: TrainingTensors) -> list[LinearHead]:
    generator = fit_ridge(data, Config().generation)
    parts = (SIZE, HIDDEN, ATTRIBUTES)
    return [fit_softmax(data, generator, refiner_of_parts(), SETTINGS, 0, parts)]


def plain(data: TrainingTensors) -> list[LinearHead]:
    generator = fit_ridge(data, Config().generation)
    return [fit_softmax(data, generator, Identity(), SETTINGS, 0)]


def domains(data: TrainingTensors) -> list[LinearHead]:
    generator = fit_ridge(data, Config().generation)
    parts = (SIZE, HIDDEN, ATTRIBUTES)
    found = fit_domains(data, generator, refiner_of_parts(), SETTINGS, 0, parts)
    return [found.seen, found.unseen]


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation made or returned."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tree_flatten(found)[0] if isinstance(one, Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return found


@pytest.mark.parametrize("fit", [softmax, plain, domains])
def test_rows_that_are_refined_when_they_are_read_give_the_same(fit, data, monkeypatch):
    before = data.x.clone()
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "1000")
    wanted = fit(data)
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "0")
    found = fit(data)
    assert torch.equal(data.x, before)
    for one, other in zip(found, wanted, strict=True):
        for value, right in ((one.weight, other.weight), (one.bias, other.bias)):
            scale = float(right.abs().max())
            np.testing.assert_allclose(value.numpy(), right.numpy(), atol=0.01 * scale)


@pytest.mark.parametrize("fit", [softmax, domains])
def test_no_more_than_a_chunk_of_them_is_in_memory(fit, data, monkeypatch):
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "0")
    with Largest() as refined:
        fit(data)
    assert refined.numbers <= CHUNK_ROWS * WIDTH
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "1000")
    with Largest() as held:
        fit(data)
    assert held.numbers >= ROWS * WIDTH


def test_each_chunk_is_a_new_tensor():
    x = torch.arange(10.0).reshape(5, 2)
    rows = RefinedRows(ConcatenatedRows(x, x), lambda part: part, 2)
    for part in rows.split(2):
        part.zero_()
    assert torch.equal(x, torch.arange(10.0).reshape(5, 2))
    doubled = RefinedRows(x, lambda part: torch.cat((part, 2 * part), dim=1), 4)
    assert doubled.shape == (5, 4)
    chunks = list(doubled.split(2))
    assert [len(one) for one in chunks] == [2, 2, 1]
    assert torch.equal(torch.cat(chunks), torch.cat((x, 2 * x), dim=1))
