"""Devices, precisions and denormal numbers."""

import subprocess
import sys

import numpy as np
import torch

from mlis.compute.precision import flushed_denormals

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


def test_numpy_does_not_notice():
    with flushed_denormals():
        pass
    assert np.finfo(np.float32).smallest_subnormal > 0  # it would warn, and warnings are errors


def test_flushing_is_left_as_it_was():
    with flushed_denormals():
        with flushed_denormals():
            pass
        assert float(torch.tensor(TINY) * 1.0) == 0
    assert float(torch.tensor(TINY) * 1.0) > 0
