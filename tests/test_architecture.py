"""The one import direction, and the wall between training and test rows."""

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import mlis
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.pipeline import fit
from simulated import small, tiny

ROOT = Path(mlis.__file__).parent

BASE = ("errors", "files", "folders", "locks", "shortage")
# A module imports its own layer and those above it in this list, never one below.
LAYERS = [
    {*BASE, "cluster"},
    {"section"},
    {"settings"},
    {"compute", "config", "packing", "training"},
    {"data"},
    {"features"},
    {"preprocessing", "streaming", "spill"},
    {"generation"},
    {"refinement"},
    {"classification", "tensorfile"},
    {"growth"},
    # a recognizer changes, saves and loads itself: one layer
    {"checkpoint", "class_changes", "fused", "image_prediction", "inference"}
    | {"model_card", "row_batches", "sharing"},
    {"evaluation", "export", "snapshots", "generators"},
    {"pipeline"},
    {"provenance", "protocol", "run_plan", "runs"},
    {"baselines"},
    {"pages"},
    {"class_table", "estimator", "demo", "presets", "experiments", "serving"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TRAINING = ("generation", "refinement", "classification", "inference", "preprocessing", "training")
BASELINES = ("base", "raw", "eszsl", "prototype", "cosine", "cegzsl")


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def component(path: Path) -> str:
    """`data` for src/mlis/data/splits.py, `config` for src/mlis/config.py."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and component of every import of the package, also inside functions; not for types."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= {id(inner) for inner in ast.walk(node)}
        if id(node) in skipped:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [node.module or ""]
            if node.module == "mlis":
                names = [f"mlis.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "mlis" and len(parts) > 1:
                yield node.lineno, parts[1]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = component(path)
    if path == ROOT / "__init__.py":
        assert not list(imports(path)), "the package's face loads its names when they are used"
        return
    assert own in LEVEL, f"{own} has no layer: add it to LAYERS where it belongs"
    for line, other in imports(path):
        assert other in LEVEL, f"{path}:{line} imports mlis.{other}, which has no layer"
        assert LEVEL[other] <= LEVEL[own], f"{path}:{line}: {own} must not import {other}"
        if own == "features":  # pretrained models: data in, data out
            allowed = ("features", "data", "compute", "cluster", *BASE)
            assert other in allowed, f"{path}:{line}"


def test_training_code_does_not_know_evaluation():
    """Neither directly nor through another module."""
    for name in (*TRAINING, "pipeline"):
        paths = [path for path in modules() if component(path) == name]
        assert paths, f"{name} is no module any more"
        for path in paths:
            assert "evaluation" not in {other for _, other in imports(path)}, path
    baselines = [f"mlis.baselines.{name}" for name in BASELINES]
    for path in (ROOT / "baselines").glob("*.py"):  # what chooses among them is no training code
        assert path.stem in (*BASELINES, "__init__", "protocol"), f"{path.stem}: name it here"
    code = (
        f"import sys, mlis.pipeline, {', '.join(baselines)};"
        "print([m for m in sys.modules if m.startswith('mlis.evaluation')"
        " or m.split('.')[0] in ('sklearn', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, mlis; print({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_public_names_exist():
    for name in mlis.__all__:
        assert getattr(mlis, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mlis.nonsense  # noqa: B018


# --- no test row reaches training ---------------------------------------------------------------


def test_a_training_split_has_no_place_for_test_rows():
    names = {field.name for field in dataclasses.fields(TrainingSplit)}
    expected = {"features", "labels", "descriptors", "class_names", "seen_mask", "class_ids", "key"}
    assert names == expected
    data = tiny()
    training = data.for_training()
    rows = {row.tobytes() for row in training.features}
    test = np.concatenate([data.split.test_seen, data.split.test_unseen])
    assert len(test) > 20
    assert not rows & {row.tobytes() for row in data.features[test]}
    assert training.features.base is None  # a copy: nothing to climb back through
    assert set(training.labels) == set(np.flatnonzero(training.seen_mask))


@pytest.mark.parametrize("generator", ["wgan-gp", "ridge"])
def test_test_rows_may_be_noise(generator):
    """Features and labels of all test rows replaced: every trained weight stays as it was."""
    data = tiny()
    rng = np.random.default_rng(0)
    features, labels = data.features.copy(), data.labels.copy()
    for rows in (data.split.test_seen, data.split.test_unseen):
        features[rows] = rng.random((len(rows), features.shape[1])) * 100
        labels[rows] = rng.permutation(labels[rows])
    other = GZSLDataset(
        features, labels, data.descriptors, data.class_names, data.split, data.provenance
    )
    assert other.sha256 != data.sha256
    config = small(generation={"generator": generator})
    pairs = [(data.for_training(), other.for_training())]
    pairs.append((data.for_validation()[0], other.for_validation()[0]))
    for ours, theirs in pairs:
        one = fit(ours, config, seed=2, device="cpu")
        two = fit(theirs, config, seed=2, device="cpu")
        for a, b in (
            (one.scaler.shift, two.scaler.shift),
            (one.scaler.factor, two.scaler.factor),
            (one.encoder_weight, two.encoder_weight),
            (one.encoder_bias, two.encoder_bias),
            (one.classifier.weight, two.classifier.weight),
            (one.classifier.bias, two.classifier.bias),
        ):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b)
