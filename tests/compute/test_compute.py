"""Devices, precisions and denormal numbers."""

import subprocess
import sys

import pytest
import torch

import mlis.compute.precision
from mlis.compute.precision import (
    Precision,
    flushed_denormals,
    prefers_bfloat16,
    resolve_device,
)
from mlis.errors import SettingsError
from mlis.features.backbones import load_backbone

TINY = 1e-40  # below the smallest normal float32

CODE = f"""
import torch
torch.set_num_threads(2)
from mlis.compute.precision import Precision, flushed_denormals
Precision.of("float32", "cpu")
x = torch.full((1 << 20,), {TINY})
with flushed_denormals():
    print(int((x * 1.0 != 0).sum()))
print(float(x[0] * 1.0) > 0)
"""


def test_denormals_are_zero_in_all_threads_of_a_step_and_are_kept_outside_of_it():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "True"]


def test_flushing_is_left_as_it_was():
    with flushed_denormals():
        with flushed_denormals():
            pass
        assert float(torch.tensor(TINY) * 1.0) == 0
    assert float(torch.tensor(TINY) * 1.0) > 0


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [((7.0, 1.0), "bfloat16"), ((1.0, 1.0), "float32"), ((0.01, 1.0), "float32")],
)
def test_auto_never_emulates_bfloat16(monkeypatch, rates, chosen):
    """A CPU may report instructions that its libraries do not use."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(mlis.compute.precision, "_product_rates", lambda: rates)
    assert prefers_bfloat16(*rates) is (chosen == "bfloat16")
    product = Precision.of("auto", "cpu").product
    assert product == getattr(torch, chosen)
    assert load_backbone("efficientnet-lite0", device="cpu").precision == chosen


def test_without_the_instructions_auto_is_float32_unmeasured(monkeypatch):
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: False)
    monkeypatch.setattr(mlis.compute.precision, "_product_rates", lambda: (7.0, 1.0))
    assert Precision.of("auto", "cpu").product == torch.float32


@pytest.mark.parametrize("name", ["mps", "cuda:99", "cpu:1", "foo", None])
def test_a_device_that_is_not_here_gets_a_list_of_those_that_are(name):
    with pytest.raises(SettingsError, match=rf"\(cpu.*\), got '{name}'"):
        resolve_device(name)
