"""The one import direction, and the wall between training and test rows."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlis
from mlis.data.dataset import TrainingSplit
from simulated import tiny

ROOT = Path(mlis.__file__).parent


def test_imports_point_one_way():
    """The contracts in pyproject.toml."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_training_loads_no_evaluation_and_nothing_heavy():
    code = (
        "import sys, mlis.pipeline;"
        "print([m for m in sys.modules if m.startswith('mlis.evaluation')"
        " or m.split('.')[0] in ('sklearn', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist():
    for name in mlis.__all__:
        assert getattr(mlis, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mlis.nonsense  # noqa: B018


# --- no test row reaches training ---------------------------------------------------------------


def test_a_training_split_has_no_place_for_test_rows():
    names = {field.name for field in dataclasses.fields(TrainingSplit)}
    expected = {"features", "labels", "descriptors", "class_names", "seen_mask", "class_ids"}
    words = {"attribute_vectors", "name_vectors"}  # of names, in a dataset's provenance
    assert names == expected | words | {"regions"}
    data = tiny()
    training = data.for_training()
    rows = {row.tobytes() for row in training.features}
    test = np.concatenate([data.split.test_seen, data.split.test_unseen])
    assert len(test) > 20
    assert not rows & {row.tobytes() for row in data.features[test]}
    assert training.features.base is None  # a copy: nothing to climb back through
    assert set(training.labels) == set(np.flatnonzero(training.seen_mask))
