"""PyTorch's global modes, whoever set them, change no number and stop no training."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mlis.data.dataset import GZSLDataset
from mlis.methods.cegzsl import CEGZSL
from mlis.pipeline import fit
from pairs import trained_pair
from simulated import small, tiny

DATA: GZSLDataset = tiny()

SETTINGS = {
    "defaults": {},
    "warm start": {"generation": {"generator_init": "ridge"}},
    "a loss by autograd": {"refinement": {"loss": "contrastive"}},
    "joint": {"refinement": {"schedule": "joint"}},
}


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device() -> Iterator[None]:
    """Tensors without a device of their own hold nothing."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES = {
    "float64": default_dtype,
    "device": default_device,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def scores(settings: dict) -> np.ndarray:
    """Of a recognizer and of one that it grew into."""
    model = trained_pair(DATA.for_training(), small(**settings), seed=1, device="cpu")
    grown = model.add(["another"], DATA.descriptors[:1] + 0.1)
    return np.concatenate([model.scores(DATA.features), grown.scores(DATA.features)], axis=1)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_training_in_any_mode_gives_the_same_bits(settings):
    expected = scores(settings)
    for name, mode in MODES.items():
        with mode():
            found = scores(settings)
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_prediction_in_any_mode_gives_the_same_bits(mode):
    model = fit(DATA.for_training(), small(), seed=1, device="cpu").recognizer
    x = torch.from_numpy(DATA.features)
    expected = fit(DATA.for_training(), small(), seed=1, device="cpu").recognizer.scores(x)
    with mode():
        found = model.scores(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(model.predict(x), expected.argmax(1))  # weights folded in that mode serve on
    assert not found.is_inference()


def test_a_baseline_in_any_mode_gives_the_same_bits():
    baseline = CEGZSL(config=small(), steps=2, batch_size=16, embedding=12, projection=8, hidden=10)
    expected = baseline.fit(DATA.for_training(), device="cpu").recognizer.scores(DATA.features)
    for name, mode in MODES.items():
        with mode():
            found = baseline.fit(DATA.for_training(), device="cpu").recognizer.scores(DATA.features)
        np.testing.assert_array_equal(found, expected, err_msg=name)
