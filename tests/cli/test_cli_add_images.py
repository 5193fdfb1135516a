"""`mlis add-images`: folders of images or features in, a model that knows them out."""

from pathlib import Path

import numpy as np
import pytest

import coloured
from cli_cases import last_json, printed, refused
from coloured import LATER, Colours, picture, write_pictures, write_table
from mlis import image_classifier
from mlis.image_classifier import ImageClassifier
from mlis.io.checkpoint import load_model, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    recognizer, exemplars = coloured.coloured_model(folder / "data")
    save_model(recognizer, folder / "model", exemplars)
    return folder / "model"


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(image_classifier, "load_backbone", lambda *_, **__: Colours())


def features(count: int) -> np.ndarray:
    return Colours()([Colours().prepare(picture(LATER["magenta"], i)) for i in range(count)])


def test_a_class_from_three_images_with_and_without_a_description(model, tmp_path, capsys):
    photos = tmp_path / "photos"
    write_pictures(photos, LATER, 3)
    (photos / "magenta" / "torn.jpg").write_bytes(b"no image")
    table = write_table(tmp_path / "later.csv", LATER)
    one, two = tmp_path / "one", tmp_path / "two"
    out = printed(capsys, "add-images", model, photos / "magenta", "-o", one, "--json")
    assert "added 3 images of 1 class, of which are new: magenta in " in out
    assert last_json(out)["classes"] == 8
    printed(capsys, "add-images", model, photos, "--classes", table, "-o", two)
    for folder in (one, two):
        found = ImageClassifier(load_model(folder), Colours())
        (answer,) = found.predict([picture(LATER["magenta"], 60)], k=1)
        assert answer.classes[0].name == "magenta"
        assert not answer.classes[0].seen
    assert not load_model(one).descriptors[-1].any()
    assert load_model(two).descriptors[-1].any()
    write_pictures(photos, {"red": coloured.COLOURS["red"]}, 2)
    out = printed(capsys, "add-images", one, photos, "-o", one, "--force")
    assert "added 5 images of 2 classes in " in out
    listed = printed(capsys, "classes", one)
    assert listed.count("add images") == 2


def test_features_in_place_of_images(model, tmp_path, capsys):
    split = np.array(["train"] * 3 + ["test"])
    labels = np.array(["magenta"] * 4)
    np.savez(tmp_path / "rows.npz", features=features(4), labels=labels, split=split)
    out = printed(capsys, "add-images", model, tmp_path / "rows.npz", "-o", tmp_path / "new")
    assert "added 3 images of 1 class" in out  # rows marked test are not trained on
    (entry,) = load_model(tmp_path / "new").metadata.history
    assert entry["note"] == "rows.npz"
    np.save(tmp_path / "rows.npy", features(2))
    (tmp_path / "labels.txt").write_text("cyan\nred\n")
    named = ("--labels", tmp_path / "labels.txt")
    out = printed(
        *(capsys, "add-images", model, tmp_path / "rows.npy", *named, "-o", tmp_path / "npy")
    )
    assert "added 2 images of 2 classes in " in out


def test_wrong_use_writes_nothing(model, tmp_path, capsys):
    write_pictures(tmp_path / "mixed", LATER, 1)
    picture(LATER["magenta"]).save(tmp_path / "mixed" / "loose.png")
    np.savez(tmp_path / "short.npz", features=np.ones((2, 3)), labels=["a", "b"])
    marked = {"features": features(2), "labels": ["a", "b"], "split": ["test", "test"]}
    np.savez(tmp_path / "tests.npz", **marked)
    other = write_table(tmp_path / "table.csv", {"other": (1, 2, 3)})
    magenta, new = tmp_path / "mixed/magenta", tmp_path / "new"
    cases = [
        ((tmp_path / "absent",), "absent: no such file or folder"),
        ((tmp_path / "mixed",), "loose.png"),
        ((magenta, tmp_path / "short.npz"), "expected images or features, got both"),
        ((tmp_path / "short.npz",), "got (1, 3)"),
        ((tmp_path / "tests.npz",), "got none"),
        ((magenta, "--classes", other), "got other"),
        ((magenta / "0.png",), "expected a folder of images named after their class"),
        ((magenta, "--vectors"), "--vectors: not allowed without --classes"),
        ((magenta, "--label-column", "x"), "--label-column: not allowed"),
    ]
    for arguments, said in cases:
        assert said in refused(capsys, "add-images", model, *arguments, "-o", new), arguments
    assert not new.exists()


def test_of_a_table_only_descriptions_of_added_classes_are_used(model, tmp_path, capsys):
    write_pictures(tmp_path, LATER, 1)
    table = write_table(tmp_path / "all.csv", coloured.COLOURS | LATER | {"later": (1, 2, 3)})
    out = printed(
        *(capsys, "add-images", model, tmp_path / "magenta", "--classes", table),
        *("-o", tmp_path / "new"),
    )
    assert "red, green" in out
    assert "later" in out
    assert "added 1 image of 1 class" in out
    assert load_model(tmp_path / "new").descriptors[-1].any()


def test_a_name_spelt_almost_like_a_known_one_is_told(model, tmp_path, capsys, caplog):
    write_pictures(tmp_path, {"yelow": coloured.COLOURS["yellow"]}, 1)
    printed(capsys, "add-images", model, tmp_path / "yelow", "-o", tmp_path / "new")
    (told,) = [record.getMessage() for record in caplog.records if "yelow" in record.getMessage()]
    assert "'yellow'" in told
