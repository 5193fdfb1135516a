"""`mlis adapt`: unlabelled images or features in, a model that says it is transductive out."""

from pathlib import Path

import numpy as np
import pytest

import coloured
from cli_cases import last_json, printed, refused
from coloured import Colours, picture, write_pictures
from mlis import image_classifier
from mlis.cli import main
from mlis.data.io.folder import save_dataset
from mlis.io.checkpoint import load_model, save_model
from mlis.methods.gaussian import Gaussian
from mlis.methods.raw import RidgeSoftmax


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two models, and their dataset."""
    folder = tmp_path_factory.mktemp("models")
    data = coloured.coloured_dataset(folder / "pictures")
    save_dataset(data, folder / "data")
    for name, method in (("model", Gaussian()), ("linear", RidgeSoftmax(coloured.CONFIG))):
        save_model(method.choose(data, device="cpu").recognizer, folder / name)
    return folder


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(image_classifier, "load_backbone", lambda *_, **__: Colours())


def test_photographs_or_their_features_make_the_same_model(place, tmp_path, capsys):
    write_pictures(tmp_path / "photos", coloured.COLOURS, 3)
    images = [picture(colour, i) for colour in coloured.COLOURS.values() for i in range(3)]
    backbone = Colours()
    np.save(tmp_path / "rows.npy", backbone([backbone.prepare(one) for one in images]))
    found = {}
    for given in ("photos", "rows.npy"):
        out = tmp_path / f"of {given}"
        said = printed(
            *(capsys, "adapt", place / "model", "--unlabelled", tmp_path / given),
            *("-o", out, "--json"),
        )
        assert f"{len(images)} unlabelled images: transductive; calibration" in said
        assert last_json(said)["transductive"]
        assert last_json(said)["images"] == len(images)
        found[given] = load_model(out)
    probe = np.load(tmp_path / "rows.npy")
    np.testing.assert_allclose(*(one.scores(probe) for one in found.values()), rtol=1e-3, atol=1e-2)
    assert "unlabelled images: transductive" in printed(capsys, "classes", out)


def test_its_figures_carry_the_label(place, tmp_path, capsys):
    adapted = tmp_path / "adapted"
    printed(capsys, "adapt", place / "model", "--unlabelled", place / "data", "-o", adapted)
    plain = printed(capsys, "evaluate", place / "model", place / "data", "--json")
    page = tmp_path / "page.html"
    said = printed(capsys, "evaluate", adapted, place / "data", "--json", "--html", page)
    assert "transductive: the model was adapted" in page.read_text(encoding="utf-8")
    assert "transductive" not in plain
    assert "transductive: the model was adapted" in said
    assert last_json(said)["protocol"].startswith("transductive")
    assert last_json(said)["component"] == "model (transductive)"
    assert last_json(plain)["component"] == "model"


def test_what_is_refused(place, tmp_path, capsys):
    new = tmp_path / "new"
    done = tmp_path / "done"
    printed(capsys, "adapt", place / "model", "--unlabelled", place / "data", "-o", done)
    (tmp_path / "empty").mkdir()
    for model, given, said in (
        (done, place / "data", "adapted to unlabelled images already"),
        (place / "linear", place / "data", "expected a Gaussian classifier"),
        (place / "model", tmp_path / "empty", "empty"),
        (place / "model", tmp_path / "absent.npy", "absent.npy"),
    ):
        assert said in refused(capsys, "adapt", model, "--unlabelled", given, "-o", new), said
        assert not new.exists()
    run = tmp_path / "run"
    (run / "seed-0" / "gaussian").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for folder, said in ((done, "--force"), (run / "seed-0" / "gaussian" / "model", "inductive")):
        assert said in refused(
            capsys, "adapt", place / "model", "--unlabelled", place / "data", "-o", folder
        )


def test_predict_and_calibrate_say_that_a_model_is_transductive(place, tmp_path, capsys):
    adapted = tmp_path / "adapted"
    printed(capsys, "adapt", place / "model", "--unlabelled", place / "data", "-o", adapted)
    for model, label in ((place / "model", False), (adapted, True)):
        assert main(["predict", str(model), str(place / "data"), "--top-k", "1"]) == 0
        said = capsys.readouterr()
        assert ("transductive" in said.err) is label
        assert "transductive" not in said.out
    told = refused(capsys, "calibrate", adapted)
    assert "transductive" in told
    assert "seen-loss" not in told
