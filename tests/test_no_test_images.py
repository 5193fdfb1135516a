"""Data without test images: the model is trained and saved, and what was not measured is a dash."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cli_cases import NAMES, QUICK, SEEN, last_json, printed, small_dataset
from mlis.data.dataset import GZSLDataset
from mlis.data.io.folder import save_dataset
from mlis.evaluation import evaluate
from mlis.io.checkpoint import load_model
from mlis.io.hub import save_pretrained
from mlis.methods.mlis import MLIS
from simulated import small

MODEL = Path("seed-0/ml+is+sfr/model")
MEASURES = ("U", "S", "H", "T1", "AUSUC", "overall")
NONE = np.empty(0, np.int64)


def untested() -> GZSLDataset:
    data = small_dataset()
    split = dataclasses.replace(data.split, test_seen=NONE, test_unseen=NONE)
    return dataclasses.replace(data, split=split)


def one_image_per_class() -> GZSLDataset:
    data = small_dataset()
    rows = np.array([np.flatnonzero(data.labels == seen)[0] for seen in range(SEEN)])
    return GZSLDataset.from_arrays(
        data.features[rows],
        data.labels[rows],
        data.descriptors,
        class_names=NAMES,
        unseen_classes=NAMES[SEEN:],
    )


def test_measures_of_no_image_are_none():
    seen = np.array([True, True, False])
    found = evaluate(np.empty((0, 3), np.float32), NONE, seen, "abc")
    assert {getattr(found, name) for name in MEASURES} == {None}
    assert found.images == 0
    assert "no test images" in found.notes[0]
    assert "overall –" in str(found)


@pytest.mark.parametrize("make", [untested, one_image_per_class])
def test_the_model_is_saved(make, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    save_dataset(make(), data)
    text = printed(capsys, "fit", data, "-o", run, *QUICK, "--json")
    (row,) = [line.split() for line in text.splitlines() if line.startswith("ml+is+sfr")]
    assert row[1:7] == ["–"] * 6
    found = last_json(text)
    assert {found[name] for name in MEASURES} == {None}
    results = json.loads((run / "results.json").read_text())["components"]["ml+is+sfr"]
    assert all(results[name] == [None] and results[f"{name}_mean"] is None for name in MEASURES)
    recognizer = load_model(run / MODEL)
    assert len(recognizer.predict(small_dataset().features)) == len(small_dataset().labels)
    save_pretrained(recognizer, tmp_path / "card")
    assert re.search(r"\| H@val \| 0 \| –( \| –)+ \|", (tmp_path / "card/README.md").read_text())
    assert "0 test images" in printed(capsys, "evaluate", run / MODEL, data)


def test_the_constant_is_0_where_validation_has_no_image_of_a_seen_class(caplog):
    config = small(classification={"calibration": "validation"})
    trained = MLIS(config).choose(one_image_per_class(), device="cpu")
    assert trained.recognizer.calibration == 0.0
    assert trained.validation is None
    assert "validation images of seen classes" in caplog.text


def test_tables_and_the_report_show_dashes(tmp_path, capsys):
    save_dataset(untested(), tmp_path / "data")
    results = tmp_path / "results"
    command = ("reproduce", "table3", "--datasets", tmp_path / "data", "--budget", "quick")
    text = printed(capsys, *command, "--device", "cpu", "-o", results)
    rows = [line.split() for line in text.splitlines() if line.startswith("data ")]
    assert len(rows) == 3
    assert all(row[2:5] == ["–"] * 3 for row in rows)
    printed(capsys, "report", results, "-o", tmp_path / "page.html")
