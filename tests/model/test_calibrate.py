"""Another constant for a trained model: kept by files and by changes of the classes."""

import json
import re
from functools import cache

import numpy as np
import pytest

import mlis
from mlis.errors import ModelFileError, SettingsError
from mlis.io.checkpoint import load_exemplars, load_model, save_model
from mlis.io.hub import from_pretrained, save_pretrained
from mlis.methods.gaussian import Gaussian
from mlis.storage.tensors import load_tensors, save_tensors
from serve_cases import feature_recognizer
from simulated import linear_world, small

DATA = linear_world(classes=16, unseen=4, per_class=10, noise=0.3)


@cache
def trained():
    return Gaussian(small(classification={"calibration": "h"})).choose(DATA, device="cpu")


def test_another_constant_changes_the_constant_alone():
    model = trained().recognizer
    before = model.calibration
    found = mlis.calibrate(model, "seen-loss=5")
    seen = model.seen_mask.numpy()
    assert model.calibration == before
    assert found.calibration == model.metadata.tradeoff.constant("seen-loss=5") > 0
    np.testing.assert_allclose(
        found.scores(DATA.features),
        model.scores(DATA.features) - (found.calibration - before) * seen,
        atol=1e-4 * np.abs(model.scores(DATA.features)).max(),
    )
    assert found.metadata.history[-1]["action"] == "calibrate"
    assert "seen-loss=5" in found.metadata.history[-1]["to"]
    assert (
        mlis.calibrate(found, "h").calibration
        == before
        == mlis.calibrate(found, before).calibration
    )


def test_files_and_changes_of_classes_keep_the_curve(tmp_path):
    model = trained().recognizer
    known = model.metadata.tradeoff
    new = np.random.default_rng(0).random((1, DATA.descriptors.shape[1])).astype(np.float32)
    grown, _ = mlis.add_classes(model, None, ["okapi"], new)
    smaller, _ = mlis.remove_classes(grown, None, [DATA.class_names[0]])
    renamed = mlis.rename_classes(smaller, {"okapi": "Okapi"})
    save_model(mlis.calibrate(renamed, "seen-loss=2"), tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.metadata.tradeoff == known
    assert again.calibration == known.constant("seen-loss=2")
    save_pretrained(again, tmp_path / "shared")
    shared = from_pretrained(tmp_path / "shared")
    assert shared.metadata.tradeoff == known
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "calibrate seen-loss=2" in re.sub(r"[\\:]", "", card)
    assert f"S {known.at(again.calibration).S:.1f}" in card
    assert load_exemplars(tmp_path / "model") is None


def test_a_model_without_a_curve_takes_a_number_alone(tmp_path):
    model = feature_recognizer()
    assert model.metadata.tradeoff is None
    save_model(model, tmp_path)
    assert "tradeoff" not in json.loads((tmp_path / "config.json").read_text())
    assert load_model(tmp_path).metadata.tradeoff is None
    assert mlis.calibrate(model, 0.5).calibration == 0.5
    for word in ("h", "seen-loss=5"):
        with pytest.raises(SettingsError, match=r"has no validation curve .* --calibration h"):
            mlis.calibrate(model, word)


@pytest.mark.parametrize("bad", ["auc", "", None, True, [1], float("nan"), 1e40])
def test_what_is_no_calibration(bad):
    with pytest.raises(SettingsError, match="calibration must be h, seen-loss=P"):
        mlis.calibrate(trained().recognizer, bad)


@pytest.mark.parametrize("change", [{"S": []}, {"U": [1e9]}, {"best": None}, {"splits": "3"}])
def test_a_damaged_curve_is_refused(tmp_path, change):
    """Even where both files agree on it."""
    save_model(trained().recognizer, tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    description["tradeoff"] |= change
    (tmp_path / "config.json").write_text(json.dumps(description))
    record = description.pop("record")
    tensors, _ = load_tensors(tmp_path / "model.safetensors")
    text = json.dumps(description, sort_keys=True)
    save_tensors(tmp_path / "model.safetensors", tensors, {"description": text})
    assert isinstance(record, dict)
    with pytest.raises(ModelFileError, match="tradeoff is not what a model has"):
        load_model(tmp_path)
