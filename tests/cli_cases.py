"""What the tests of the command line share: a small dataset, quick settings, how to call it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlis.cli import main
from mlis.data.dataset import GZSLDataset
from mlis.data.io.folder import save_dataset

SEEN, UNSEEN, FEATURES = 9, 3, 16
NAMES = tuple(f"kind {i}" for i in range(SEEN + UNSEEN))

# a fit of about a second; float32, as "auto" depends on the machine
QUICK = (
    *("--generator", "ridge", "--precision", "float32", "--device", "cpu"),
    *("--refinement-steps", "25", "--refinement-hidden", "24"),
    *("--classes-per-batch", "5", "--samples-per-class", "3"),
    *("--classification-synthetic-per-unseen", "20", "--tolerance", "0.01", "--calibration", "1"),
)


def small_dataset(seed: int = 0, name: str = "small") -> GZSLDataset:
    """Twelve classes, the last three unseen; features depend on descriptors of six attributes."""
    rng = np.random.default_rng(seed)
    descriptors = rng.random((len(NAMES), 6))
    labels = np.repeat(np.arange(len(NAMES)), 14)
    features = np.maximum((descriptors[labels] - 0.5) @ rng.standard_normal((6, FEATURES)), 0)
    features += 0.1 * rng.random(features.shape)
    return GZSLDataset.from_arrays(
        features.astype(np.float32),
        labels,
        descriptors,
        class_names=NAMES,
        unseen_classes=NAMES[SEEN:],
        name=name,
    )


def save_small(folder: Path, **changes) -> Path:
    """Save the small dataset to `folder`, and return it."""
    save_dataset(small_dataset(**changes), folder)
    return folder


def last_json(text: str) -> dict:
    """The last line of what a command printed, as strict JSON."""
    return json.loads(text.splitlines()[-1], parse_constant=lambda name: 1 / 0)


def one_line_error(text: str) -> str:
    """The error line on stderr, if that is all there is beside progress."""
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("mlis: error: ")]
    assert len(lines) == 1
    assert text.splitlines()[-1] == lines[0]
    return lines[0]


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that succeeds prints."""
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The error line of a command that must be refused; it prints nothing else."""
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return one_line_error(captured.err)


def environment() -> dict[str, str]:
    """One thread, so that bits and times depend on no other process."""
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def start(*arguments: str | Path, **options) -> subprocess.Popen:
    """Start `mlis` in a process of its own."""
    command = [sys.executable, "-m", "mlis", *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), **options)


GAN = (
    *(*QUICK, "--generator", "wgan-gp", "--generation-hidden", "8", "--noise", "4"),
    *("--batch-size", "8", "--critic-steps", "1", "--generation-steps", "20"),
    *("--snapshot-every", "0", "--no-reuse"),
)
