"""`mlis calibrate`, and --calibration of predict and evaluate."""

import csv
import io

import numpy as np
import pytest

from cli_cases import last_json, printed, refused, small_dataset
from mlis.cli import main
from mlis.data.io.folder import save_dataset
from mlis.evaluation.words import legend
from mlis.io.checkpoint import load_model, save_model
from mlis.model.recognizer import Metadata, replace


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    save_dataset(small_dataset(), folder / "data")
    fit = ["fit", str(folder / "data"), "-o", str(folder / "run"), "--method", "gaussian"]
    assert main([*fit, "--device", "cpu"]) == 0
    return folder / "run"


def test_the_table_says_what_each_choice_gives(run, capsys):
    out = printed(capsys, "calibrate", run, "--json")
    choices = last_json(out)["choices"]
    assert all(f"  {line}\n" in out for line in legend("USH"))
    known = load_model(run / "seed-0/gaussian/model").metadata.tradeoff
    assert known is not None
    for name in ("seen-loss=0", "seen-loss=2", "seen-loss=5", "seen-loss=10", "h"):
        point = known.at(known.constant(name))
        assert choices[name]["constant"] == point.constant
        assert choices[name]["S"] == pytest.approx(point.S, abs=0.01)
    assert choices["of the model"] == choices["h"]
    assert choices["0"]["constant"] == 0


def test_a_model_with_another_constant_and_in_place(run, tmp_path, capsys):
    model, out = run / "seed-0/gaussian/model", tmp_path / "out"
    constant = load_model(model).metadata.tradeoff.constant("seen-loss=5")
    arguments = ("calibrate", model, "--calibration", "seen-loss=5")
    assert "--force" in refused(capsys, *arguments)
    found = last_json(printed(capsys, *arguments, "-o", out, "--json"))
    assert found["calibration"] == load_model(out).calibration == constant
    assert found["expected"]["constant"] == constant
    assert "a model" in refused(capsys, *arguments, "-o", out)
    printed(capsys, "calibrate", out, "--calibration", "-0.5", "--force")
    assert load_model(out).calibration == -0.5
    assert "calibrate -0.5" in printed(capsys, "classes", out)
    assert "--output" in refused(capsys, "calibrate", out, "-o", tmp_path / "x")


def test_predictions_and_measures_with_another_constant(run, tmp_path, capsys):
    np.save(tmp_path / "x.npy", small_dataset().features[:40])
    seen: list[set[str]] = []
    for constant in ("-1000000", "1e6"):
        arguments = ("predict", run, tmp_path / "x.npy", "--calibration", constant)
        rows = csv.DictReader(io.StringIO(printed(capsys, *arguments, "--top-k", "1")))
        seen.append({row["seen_1"] for row in rows})
    assert seen == [{"true"}, {"false"}]
    text = printed(capsys, "evaluate", run, "--calibration", "1e6", "--json")
    measured = last_json(text)
    assert measured["S"] == 0 < measured["U"]
    same = printed(capsys, "evaluate", run, "--calibration", "h").splitlines()
    assert printed(capsys, "evaluate", run).splitlines()[1] == same[1]


def test_a_model_without_a_curve_says_what_to_do(run, tmp_path, capsys):
    model = load_model(run / "seed-0/gaussian/model")
    save_model(replace(model, metadata=Metadata()), tmp_path / "old")
    np.save(tmp_path / "x.npy", small_dataset().features[:2])
    for arguments in (
        ("calibrate", tmp_path / "old"),
        ("predict", tmp_path / "old", tmp_path / "x.npy", "--calibration", "h"),
    ):
        said = refused(capsys, *arguments)
        assert "has no validation curve" in said
        assert "--calibration h" in said
    printed(capsys, "calibrate", tmp_path / "old", "--calibration", "2", "--force")
    assert "seen-loss=P" in refused(capsys, "calibrate", run, "--calibration", "auc")
