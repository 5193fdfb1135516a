"""Photographs to classes: the model's own image model, odd inputs, and the command line."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image

import coloured
from cli_cases import environment, last_json, refused
from coloured import COLOURS, UNSEEN, Colours, picture
from mlis.cli import main
from mlis.data.io.feature_folder import ImageFeatures, write_feature_folder
from mlis.data.io.folder import load_folder, save_dataset
from mlis.errors import DataError
from mlis.image_classifier import ImageClassifier
from mlis.io.checkpoint import load_model, save_model
from mlis.model.recognizer import Metadata, replace

EVERY = COLOURS | UNSEEN


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A saved model and pictures, to be read only."""
    folder = tmp_path_factory.mktemp("coloured")
    data = coloured.coloured_dataset(folder)
    save_dataset(data, folder / "data")
    recognizer, exemplars = coloured.coloured_model(folder / "again")
    save_model(recognizer, folder / "model", exemplars)
    (folder / "bad").mkdir()
    (folder / "bad" / "broken.png").write_bytes(b"no image")
    picture(COLOURS["red"], 77).save(folder / "bad" / "fine.png")
    return folder


@pytest.fixture
def model(place):
    return load_model(place / "model")


@pytest.fixture(autouse=True)
def _fake_backbone(monkeypatch):
    """The name `colours` loads the fake image model, `others` another one."""

    def load(name: str, **_: object) -> Colours:
        assert name in ("colours", "others"), name
        return Colours() if name == "colours" else Colours("two", "others")

    monkeypatch.setattr("mlis.features.backbones.load_backbone", load)
    monkeypatch.setattr("mlis.image_classifier.load_backbone", load)


# --- in Python ----------------------------------------------------------------------------------


def test_pictures_are_recognised_seen_or_not(model):
    found = ImageClassifier(model).predict([picture(colour, 50) for colour in EVERY.values()], k=3)
    assert [one.classes[0].name for one in found] == list(EVERY)
    assert [one.classes[0].seen for one in found] == [name in COLOURS for name in EVERY]
    assert [one.path for one in found] == [f"image {i}" for i in range(len(EVERY))]
    assert all(len(one.classes) == 3 and not one.reason for one in found)


def test_a_bar_is_shown_where_it_is_asked_for(model, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    images = [picture(colour, 3) for colour in COLOURS.values()]
    plain = ImageClassifier(model).predict(images)
    assert capsys.readouterr().err == ""
    assert ImageClassifier(model).predict(iter(images), verbose=True) == plain
    assert f"{len(images)}/{len(images)} [" in capsys.readouterr().err


def test_scores_are_probabilities_after_calibration(model):
    image = picture(COLOURS["blue"], 5)
    (found,) = ImageClassifier(model).predict([image], k=99)
    features = Colours()([Colours().prepare(image)])
    probabilities = scipy.special.softmax(model.scores(features).astype(float), axis=1)[0]
    order = np.argsort(-probabilities)
    assert [one.name for one in found.classes] == [model.class_names[c] for c in order]
    np.testing.assert_allclose(
        [one.score for one in found.classes], probabilities[order], rtol=1e-9
    )
    other = ImageClassifier(replace(model, calibration=50.0)).predict([image], k=1)
    assert not other[0].classes[0].seen


def test_paths_and_images_in_any_mode_give_the_same(model, tmp_path):
    image = picture(COLOURS["green"], 3)
    image.save(tmp_path / "a.png")
    alpha, palette = image.convert("RGBA"), image.quantize(64)
    mixed = [tmp_path / "a.png", str(tmp_path / "a.png"), image, alpha, palette]
    found = ImageClassifier(model).predict(mixed, k=2)
    assert found[0].classes == found[1].classes == found[2].classes == found[3].classes
    assert found[4].classes[0].name == "green"
    assert found[0].path == str(tmp_path / "a.png")


def test_what_cannot_be_read_has_a_reason_and_its_place(place, model, tmp_path):
    good, bad = place / "bad" / "fine.png", place / "bad" / "broken.png"
    found = ImageClassifier(model).predict([bad, good, tmp_path / "absent.jpg", good, tmp_path])
    assert [bool(one.classes) for one in found] == [False, True, False, True, False]
    assert "not an image" in found[0].reason
    assert "No such file" in found[2].reason
    assert "not a regular file" in found[4].reason
    assert found[1].to_dict()["predictions"][0]["class"] == "red"
    assert "reason" not in found[1].to_dict()
    assert ImageClassifier(model).predict([]) == []


def test_another_image_model_is_refused(model):
    with pytest.raises(DataError, match=r"others \(12 numbers.*trained on features of colours"):
        ImageClassifier(model, Colours("two", "others"))
    with pytest.raises(DataError, match="of others"):
        ImageClassifier(model, "others")


def test_a_model_that_does_not_know_needs_to_be_told(model, caplog):
    bare = replace(model, metadata=Metadata())
    with pytest.raises(DataError, match="does not know which image model"):
        ImageClassifier(bare)
    (found,) = ImageClassifier(bare, Colours()).predict([picture(COLOURS["red"])])
    assert found.classes[0].name == "red"
    assert "this model does not record its image model" in caplog.text


# --- on the command line ------------------------------------------------------------------------


def rows(capsys, *arguments: object, code: int = 0) -> tuple[list[dict[str, str]], str]:
    assert main(["predict", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(captured.out))), captured.err


def test_a_folder_a_file_and_a_pattern(place, capsys):
    pictures = place / "pictures"
    found, err = rows(capsys, place / "model", pictures, "--top-k", "1")
    assert err == ""
    assert len(found) == 12 * len(COLOURS) + 4 * len(UNSEEN)
    right = [row["class_1"] == Path(row["path"]).parent.name for row in found]
    assert np.mean(right) > 0.95
    assert set(found[0]) == {"path", "class_1", "score_1", "seen_1", "reason"}
    one, _ = rows(capsys, place / "model", pictures / "red" / "0.png")
    assert [row["class_1"] for row in one] == ["red"]
    some, _ = rows(capsys, place / "model", pictures / "gr*" / "[0-4].png", pictures / "red/0.png")
    assert [row["class_1"] for row in some] == ["green"] * 5 + ["red"]
    assert some[-1] == one[0]


def test_a_list_on_standard_input(place, capsys, monkeypatch):
    names = [place / "pictures/blue/1.png", place / "absent.png", place / "pictures/red/1.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, names)) + "\n\n"))
    found, err = rows(capsys, place / "model", "-")
    assert [row["path"] for row in found] == list(map(str, names))
    assert [row["class_1"] for row in found] == ["blue", "", "red"]
    assert found[1]["reason"].startswith("cannot be read")
    assert "1 of 3 images could not be read:" in err


def test_bad_files_come_at_the_end_and_in_their_rows(place, capsys, tmp_path):
    output = tmp_path / "found.jsonl"
    assert main(["predict", str(place / "model"), str(place / "bad"), "-o", str(output)]) == 0
    err = capsys.readouterr().err
    assert "1 of 2 images could not be read:\n" in err
    assert "broken.png: not an image" in err
    broken, fine = map(json.loads, output.read_text().splitlines())
    assert broken["predictions"] == []
    assert broken["reason"] in err
    assert fine["predictions"][0]["class"] == "red"


def test_features_of_the_same_image_model_alone(place, capsys, tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    row = Colours()([Colours().prepare(picture(COLOURS["red"]))])
    for weights in ("one", "two"):
        identity = Colours(weights).identity.to_dict()
        images = ImageFeatures(row, ("a.png",), ("",), None, ("0",), identity)
        write_feature_folder(images, folder)
        if weights == "two":
            said = refused(capsys, "predict", place / "model", folder)
            assert "Compute them with that image model" in said
        else:
            found, _ = rows(capsys, place / "model", folder)
            assert (found[0]["path"], found[0]["class_1"]) == ("a.png", "red")
            assert "label" not in found[0]
    found, _ = rows(capsys, place / "model", place / "data")
    data = load_folder(place / "data")
    assert [row["label"] for row in found] == [data.class_names[i] for i in data.labels]
    assert found[0]["row"] == "0"  # no images.csv lies beside it


def test_paths_and_labels_of_features_are_printed_where_they_are_known(place, capsys, tmp_path):
    pictures = place / "pictures"
    given = ["features", "images", pictures, "-o", tmp_path / "f", "--backbone", "colours"]
    assert main([*map(str, given)]) == 0
    given = ["data", "build", "--features", tmp_path / "f", "--classes", place / "classes.csv"]
    assert main([*map(str, [*given, "-o", tmp_path / "data"])]) == 0
    capsys.readouterr()
    wanted = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    for features in (tmp_path / "f", tmp_path / "data"):
        found, _ = rows(capsys, place / "model", features, "--top-k", "1")
        assert list(found[0]) == ["path", "class_1", "score_1", "seen_1", "label"]
        assert [row["path"] for row in found] == wanted
        assert [row["label"] for row in found] == [path.partition("/")[0] for path in wanted]
    assert main(["predict", str(place / "model"), str(tmp_path / "f"), "--format", "jsonl"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (first["path"], first["label"]) == (wanted[0], wanted[0].partition("/")[0])


def test_other_descriptions_of_a_datasets_rows(place, capsys, tmp_path):
    folder = tmp_path / "old"
    given = ["data", "build", "--images", place / "pictures", "--backbone", "colours", "-o", folder]
    assert main([*map(str, [*given, "--classes", place / "classes.csv"])]) == 0
    lines = [f"{name},{i},{9 - i}" for i, name in enumerate([*reversed(EVERY), "one more"])]
    (tmp_path / "other.csv").write_text("\n".join(["name,weight,size", *lines]))
    command = ["data", "build", "--features", folder, "-o", tmp_path / "new", "--classes"]
    assert main([*map(str, [*command, tmp_path / "other.csv", "--json"])]) == 0
    captured = capsys.readouterr()
    assert "one more" in captured.out
    old, new = load_folder(folder), load_folder(tmp_path / "new")
    for name in ("features", "labels", "class_names"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    for name in old.split.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(new.split, name), getattr(old.split, name))
    assert new.descriptors.shape == (len(EVERY), 2)
    place_of = {name: i for i, name in enumerate(reversed(EVERY))}
    weights = [place_of[name] / len(EVERY) for name in new.class_names]
    np.testing.assert_allclose(
        new.descriptors[:, 0] / new.descriptors[:, 0].max(),
        np.array(weights) / max(weights),
        atol=1e-6,
    )
    assert new.provenance.sources["backbone"] == old.provenance.sources["backbone"]
    assert new.provenance.sources["descriptors"]["attributes"][0]["name"] == "weight"
    assert (tmp_path / "new/images.csv").read_bytes() == (folder / "images.csv").read_bytes()
    for text, flags, said in (
        ("name,w,h\nred,1,2\nblue,2,1\n", (), "expected a description for each class with images"),
        (
            "\n".join(["name,w,h,split", *(f"{n},{i},{9 - i},seen" for i, n in enumerate(EVERY))]),
            (),
            "'cyan': expected unseen",
        ),
        ("name,w,h\nred,1,2\nblue,2,1\n", ("--skip-undescribed",), "not allowed with a dataset"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        assert said in refused(capsys, *command, tmp_path / "bad.csv", "--force", *flags)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["MODEL", "absent/*.png"], "matches no file"),
        (["MODEL", "empty"], "empty: expected files, got none"),
        (["MODEL", "x.npy", "--workers", "2"], "--workers: not allowed with features"),
        (["MODEL", "a.png", "--backbone", "others"], "of others"),
        (["MODEL", "a.png", "--workers", "0"], "--workers: expected a whole number ≥ 1"),
    ],
)
def test_wrong_use(place, capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    picture((0, 0, 0)).save("a.png")
    np.save("x.npy", np.zeros((1, 12), dtype=np.float32))
    given = [place / "model" if word == "MODEL" else word for word in arguments]
    assert said in refused(capsys, "predict", *given)


# --- evaluation of labelled photographs -----------------------------------------------------------


@pytest.fixture
def photographs(tmp_path) -> Path:
    """New pictures by class folder, one of them broken, one in no folder."""
    for name, colour in EVERY.items():
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(4):
            picture(colour, 100 + i).save(tmp_path / "test" / name / f"{i}.png")
    (tmp_path / "test" / "red" / "broken.png").write_bytes(b"no image")
    picture((0, 0, 0)).save(tmp_path / "test" / "alone.png")
    return tmp_path / "test"


def evaluated(capsys, place, *arguments: object) -> tuple[dict, str, str]:
    given = ["evaluate", place / "model", *arguments, "--per-class", "--json"]
    assert main([*map(str, given)]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1]), captured.out, captured.err


def test_labelled_photographs_in_folders(place, photographs, capsys):
    found, text, err = evaluated(capsys, place, photographs)
    assert found["images"] == 4 * len(EVERY)
    assert all(found[name] is not None for name in ("U", "S", "H", "T1"))
    assert found["S"] > 90
    assert {row["name"]: row["images"] for row in found["per_class"]} == dict.fromkeys(EVERY, 4)
    assert {row["name"] for row in found["per_class"] if not row["seen"]} == set(UNSEEN)
    assert "2 of 30 images could not be read" in err
    assert "red/broken.png: not an image" in err
    assert "alone.png: no class" in err
    assert "Recall@1" in text


def test_a_table_and_features_of_photographs_say_the_same(place, photographs, tmp_path, capsys):
    wanted, _, _ = evaluated(capsys, place, photographs)
    paths = sorted(path.relative_to(tmp_path) for path in photographs.rglob("[0-9].png"))
    rows = [f"{path},{path.parent.name},test" for path in paths]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,split", *rows, "no.png,mauve,train"]))
    root = [f"{path.relative_to('test')},{path.parent.name}" for path in paths]
    (tmp_path / "classes.csv").write_text("\n".join(["path,class", *root]))
    given = ["features", "images", photographs, "-o", tmp_path / "f", "--backbone", "colours"]
    assert main([*map(str, given)]) == 0
    capsys.readouterr()
    for arguments in (
        [tmp_path / "t.csv"],
        [photographs, "--labels", tmp_path / "classes.csv"],
        [tmp_path / "f"],
    ):
        found, _, _ = evaluated(capsys, place, *arguments)
        for name in ("U", "S", "H", "T1", "images", "confusions"):
            assert found[name] == wanted[name]


def test_photographs_of_a_class_that_the_model_does_not_know(place, photographs, capsys):
    (photographs / "red").rename(photographs / "Red")
    said = refused(capsys, "evaluate", place / "model", photographs)
    assert "other classes: Red. Did you mean 'red'?" in said
    for path in photographs.rglob("*.png"):
        path.write_bytes(b"no image")
    said = refused(capsys, "evaluate", place / "model", photographs)
    assert "expected labelled photographs, got 30 unusable" in said


# --- start-up -----------------------------------------------------------------------------------

QUICK = """
import sys
from pathlib import Path
import numpy as np
from mlis.image_classifier import top_classes
from mlis.io.checkpoint import load_model
from mlis.io.saved_models import one_model
model = load_model(one_model(Path(sys.argv[1])))
top_classes(model, np.zeros((1, model.num_features), np.float32), 3)
heavy = {"torch._dynamo", "sympy", "scipy", "h5py", "sklearn", "pandas", "matplotlib", "fastapi"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""


def test_predicting_loads_nothing_heavy_but_torch(place):
    """PyTorch's compiler, which operations on the meta device load, takes longer than PyTorch."""
    command = [sys.executable, "-W", "ignore", "-c", QUICK, str(place / "model")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("tool", ["label-studio", "fiftyone"])
def test_predictions_are_corrected_in_a_tool_and_come_back(place, tmp_path, capsys, tool):
    photos, out = tmp_path / "photos", tmp_path / "out.json"
    for name in ("red", "blue"):
        (photos / name).mkdir(parents=True)
        picture(COLOURS[name], 7).save(photos / name / "1.png")
    (photos / "broken.png").write_bytes(b"no image")
    command = ["predict", place / "model", photos, "--format", tool, "--top-k", "2"]
    assert main([*map(str, command)]) == 2  # no file
    assert main([*map(str, [*command, "-o", out])]) == 0
    assert "broken.png" in capsys.readouterr().err
    content = json.loads(out.read_text())
    if tool == "fiftyone":
        assert content["labels"]["red/1"]["label"] == "red"
        assert 0.2 < content["labels"]["red/1"]["confidence"] <= 1
        content["labels"]["red/1"]["label"] = "pink"
    else:
        blue, red = content
        (guess,) = red["predictions"]
        assert (red["data"]["image"], guess["result"][0]["value"]["choices"]) == (
            "/data/local-files/?d=red/1.png",
            ["red"],
        )
        assert guess["model_version"].startswith("model (mlis ")
        assert red["data"]["likely"].startswith("red ")
        interface = out.with_suffix(".xml").read_text()
        assert '<Choice value="red"/>' in interface
        assert f'name="{guess["result"][0]["from_name"]}"' in interface
        blue["annotations"] = [{"result": blue["predictions"][0]["result"]}]
        red["annotations"] = [{"result": [{**guess["result"][0], "value": {"choices": ["pink"]}}]}]
    out.write_text(json.dumps(content))
    given = ("data", "import", out, "--images", photos, "-o", tmp_path / "in", "--json")
    assert main([*map(str, given)]) == 0
    assert last_json(capsys.readouterr().out) == {"images": 2, "classes": 2, "bad": 0}
    found = (tmp_path / "in" / "labels.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1:3] for line in found] == [
        ["blue", "blue/1.png"],
        ["pink", "red/1.png"],
    ]


def test_crops_of_new_photographs_are_recognised(place, tmp_path, capsys):
    photo = Image.new("RGB", (60, 30))
    for i, name in enumerate(("red", "blue")):
        photo.paste(COLOURS[name], (30 * i, 0, 30 * i + 30, 30))
    photo.save(tmp_path / "photo.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,x,y,width,height\nphoto.png,0,0,30,30\nphoto.png,30,0,30,30\n")
    assert main(["data", "import", str(boxes), "-o", str(tmp_path / "crops")]) == 0
    capsys.readouterr()
    found, _ = rows(capsys, place / "model", tmp_path / "crops", "--top-k", "1")
    assert [row["class_1"] for row in found] == ["red", "blue"]
    assert found[0]["path"].endswith("photo_0-0-30-30.png")
