"""`mlis features` and `mlis data build`, from pictures and words to a dataset."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import odd_images
from cli_cases import QUICK
from coloured import Colours
from mlis.cli import main
from mlis.data.io.classes_file import read_class_vectors, read_classes
from mlis.data.io.feature_folder import ImageFeatures, read_feature_folder, write_feature_folder
from mlis.data.io.folder import load_folder
from mlis.features.images.files import shown
from mlis.io.checkpoint import load_model

CLASSES = {
    "red": (200, 30, 30),
    "green": (30, 180, 40),
    "blue": (20, 40, 210),
    "grey": (99, 99, 99),
}
TABLE = """name,split,text,warm,share
red,seen,a red square,yes,90%
green,seen,a green square,no,10%
blue,seen,a blue square,no,
grey,unseen,a grey square,no,30%
pink,unseen,a pink square,yes,60%
"""
LITE = ("--backbone", "efficientnet-lite0", "--precision", "float32")
FAKE = ("--backbone", "colours")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Ten noisy pictures of each of four classes, to be read only."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (root / name).mkdir()
        for i in range(10):
            noise = rng.normal(colour, 25, (40, 50, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "classes.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def fake(monkeypatch) -> None:
    """The name `colours` loads a fake image model."""
    for module in ("mlis.features.backbones", "mlis.image_classifier"):
        monkeypatch.setattr(f"{module}.load_backbone", lambda name, **_: Colours())


def run(*arguments: object, code: int = 0) -> None:
    assert main([str(argument) for argument in arguments]) == code


def test_images_words_dataset_training_and_prediction(pictures, table, tmp_path, capsys):
    features, descriptors, data = tmp_path / "features", tmp_path / "descriptors", tmp_path / "data"
    run("features", "images", pictures, "-o", features, *LITE)
    said = "40 images × 2560 features by efficientnet-lite0 (centre, whole)"
    assert said in capsys.readouterr().out
    run("features", "text", table, "-o", descriptors, "--images", pictures)
    out = capsys.readouterr().out
    assert "5 classes × 386 numbers" in out
    assert "1 classes are described and have no images:\n  pink" in out
    run("data", "build", "--features", features, "--classes", descriptors, "-o", data)
    built = load_folder(data)
    assert [built.class_names[i] for i in built.unseen_classes] == ["grey", "pink"]
    run(*("data", "build", "--images", pictures, "--classes", table, "-o", tmp_path / "one"), *LITE)
    assert load_folder(tmp_path / "one").sha256 == built.sha256
    run("data", "convert", "--features", features, "--classes", descriptors / "classes.csv",
        "-o", tmp_path / "two")  # fmt: skip
    assert load_folder(tmp_path / "two").sha256 == built.sha256
    run("fit", data, "-o", tmp_path / "run", *QUICK, "--classes-per-batch", "3")
    model = tmp_path / "run" / "seed-0" / "ml+is+sfr" / "model"
    capsys.readouterr()
    run("predict", model, features, "--top-k", "1")
    assert len(capsys.readouterr().out.splitlines()) == 41


@pytest.mark.usefixtures("fake")
def test_a_grown_folder_adds_to_the_dataset(pictures, table, tmp_path, capsys):
    import shutil

    images, data = shutil.copytree(pictures, tmp_path / "in"), tmp_path / "data"
    command = ("data", "build", "--images", images, "--classes", table, "-o", data)
    command = (*command, *FAKE, "--sentences", "name")
    run(*command)
    before = load_folder(data)
    good, bad = map(len, odd_images.write_all(images / "grey"))
    run(*command, code=2)
    assert "--force" in capsys.readouterr().err
    run(*command, "--force", "--json")
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert (report["images"], report["bad"]) == (40 + good, bad)
    assert f"{bad} files gave no features" in out
    assert "grey/empty.jpg,empty file\n" in (data / "bad.csv").read_text()
    after = load_folder(data)
    assert len(after.labels) == len(before.labels) + good


def test_views_are_named_on_the_command_line(pictures, table, tmp_path, capsys):
    out = tmp_path / "features"
    some = tmp_path / "some.csv"
    some.write_text("path,class\nred/0.png,red\ngrey/1.png,grey\n")
    command = ("features", "images", pictures, "-o", out, "--labels", some, *LITE)
    run(*command, "--views", "whole,centre,centre-flip", "--json")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["size"], report["views"]) == (2560, ["whole", "centre", "centre-flip"])
    run(*command, code=2)
    assert "--views whole,centre,centre-flip" in capsys.readouterr().err
    run(*command, "--views", "middle", code=2)
    assert "got 'middle'" in capsys.readouterr().err
    build = ("data", "build", "--features", out, "--classes", table, "-o", tmp_path / "data")
    run(*build, "--views", "centre", code=2)
    assert "--views: not allowed with --features" in capsys.readouterr().err


@pytest.mark.usefixtures("fake")
def test_the_weight_of_attributes_is_chosen_and_recorded(pictures, table, tmp_path, capsys):
    how = ("--classes", table, "--attribute-weight", "auto")
    first, second = tmp_path / "first", tmp_path / "second"
    run("data", "build", "--images", pictures, "-o", first, *how, *FAKE)
    assert "splits of the training classes; H by weight 0.1: " in capsys.readouterr().out
    record = json.loads((first / "sources.json").read_text())["descriptors"]
    chosen = record["attribute_weight"]
    assert f"{chosen:g}" in record["attribute_weights_tried"]
    built = load_folder(first)
    assert built.provenance.sources["descriptors"] == record
    run("data", "build", "--features", first, "-o", second, *how)  # new descriptors of its rows
    assert load_folder(second).provenance.sources["descriptors"] == record
    fixed = ("--classes", table, "--attribute-weight", f"{chosen:g}", *FAKE)
    run("data", "build", "--images", pictures, "-o", tmp_path / "third", *fixed)
    again = load_folder(tmp_path / "third")
    np.testing.assert_allclose(again.descriptors, built.descriptors, atol=1e-6)


@pytest.mark.usefixtures("fake")
def test_what_a_file_is_called_never_steers_the_terminal(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(odd_images.good()["plain.png"])
    (tmp_path / "in" / "two\nlines\x1b[31m.jpg").write_bytes(b"")
    run("features", "images", tmp_path / "in", "-o", tmp_path / "out", *FAKE)
    assert "  two\\nlines\\x1b[31m.jpg: empty file" in capsys.readouterr().out
    with (tmp_path / "out" / "bad.csv").open(newline="") as handle:
        assert [row["path"] for row in csv.DictReader(handle)] == ["two\nlines\x1b[31m.jpg"]


@pytest.mark.usefixtures("fake")
def test_a_folder_of_odd_files_is_predicted_and_what_cannot_be_is_listed(
    pictures, table, tmp_path, capsys
):
    run("data", "build", "--images", pictures, "--classes", table, "--attributes", "warm", "share",
        "-o", tmp_path / "data", *FAKE)  # fmt: skip
    run("fit", tmp_path / "data", "-o", tmp_path / "run", *QUICK, "--classes-per-batch", "3")
    good, reasons = odd_images.write_all(tmp_path / "odd")
    capsys.readouterr()
    run("predict", tmp_path / "run", tmp_path / "odd", "-o", tmp_path / "found.csv", "--top-k", "1")
    said = capsys.readouterr().err
    reasons.pop("up")  # a folder: warned of, as its images are read elsewhere
    assert "up: link to a folder already read as the folder itself" in said
    assert f"{len(reasons)} of {len(good) + len(reasons)} images could not be read" in said
    with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as handle:
        rows = {row["path"]: row for row in csv.DictReader(handle)}
    at = f"{tmp_path / 'odd'}/"
    assert rows.keys() == {at + shown(name) for name in [*good, *reasons]}
    for name in good:
        row = rows[at + shown(name)]
        assert row["class_1"] in {"red", "green", "blue", "grey", "pink"}
        assert not row["reason"]
    for name, reason in reasons.items():
        row = rows[at + shown(name)]
        assert reason in row["reason"], name
        assert not row["class_1"]


@pytest.mark.usefixtures("fake")
def test_names_that_do_not_agree(pictures, table, tmp_path, capsys):
    table.write_text(TABLE.replace("blue,", "Blue,"))
    command = ("data", "build", "--images", pictures, "--classes", table, "-o", tmp_path / "data")
    command = (*command, *FAKE, "--sentences", "text")
    run(*command, code=2)
    error = capsys.readouterr().err
    assert "got none for 1 classes: blue ('blue' may be 'Blue')" in error
    assert not (tmp_path / "data").exists()  # found before the long part
    table.write_text(TABLE.replace("blue,seen", "Blue,unseen"))
    run(*command, "--skip-undescribed")
    out = capsys.readouterr().out
    assert "blue (near: Blue)" in out
    assert len(load_folder(tmp_path / "data").labels) == 30
    lines = (tmp_path / "data" / "unmatched.csv").read_text().splitlines()
    assert lines[1:] == ["blue,description,Blue", "Blue,images,blue", "pink,images,"]


@pytest.mark.usefixtures("fake")
def test_unlabelled_images_have_features_and_make_no_dataset(table, tmp_path, capsys):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "1.png").write_bytes(odd_images.good()["plain.png"])
    run("features", "images", tmp_path / "flat", "-o", tmp_path / "f", *FAKE)
    assert read_feature_folder(tmp_path / "f").classes == ("",)
    command = ("data", "build", "--classes", table, "--sentences", "name", "-o", tmp_path / "data")
    run(*command, "--images", tmp_path / "flat", *FAKE, code=2)
    assert "expected images of the described classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("features", "images", "PICTURES", "-o", "PICTURES/x"), "lies inside"),
        (("features", "images", "PICTURES", "-o", "OUT", "--workers", "0"), "number ≥ 1, got '0'"),
        (("features", "images", "NOWHERE", "-o", "OUT"), "no such folder"),
        (("features", "text", "TABLE", "-o", "OUT", "--attributes", "warmth"), "mean 'warm'"),
        (
            ("features", "text", "TABLE", "-o", "OUT", "--sentences", "text",
             "--attribute-weight", "0.5"),
            "--attribute-weight: not allowed",
        ),
        (
            ("data", "build", "--images", "PICTURES", "--classes", "TABLE", "-o", "OUT",
             "--sentences", "text", "--attribute-weight", "auto"),
            "--attribute-weight: not allowed",
        ),
        (
            ("features", "text", "TABLE", "-o", "OUT", "--attribute-weight", "auto"),
            "Give it to `mlis data build`",
        ),
        (
            ("features", "text", "TABLE", "-o", "OUT", "--attribute-weight", "equal"),
            "expected a number or auto, got 'equal'",
        ),
        (
            ("features", "text", "TABLE", "-o", "OUT", "--attributes", "warm", "--text-model", "x"),
            "--text-model: not allowed",
        ),
        (("data", "build", "--classes", "TABLE", "-o", "OUT"), "one of the arguments"),
        (
            ("data", "build", "--features", "NOWHERE", "--classes", "TABLE", "-o", "OUT"),
            "Give a complete folder of the format 'mlis-features'",
        ),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(pictures, table, tmp_path, capsys, arguments, message):
    places = {"PICTURES": pictures, "OUT": tmp_path / "out", "NOWHERE": tmp_path / "nowhere"}
    places["TABLE"] = table
    filled = [
        str(next((a.replace(k, str(v)) for k, v in places.items() if a.startswith(k)), a))
        for a in arguments
    ]
    run(*filled, code=2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_categories_from_a_table_to_added_classes(tmp_path, capsys):
    """The table's columns are told, and further classes are encoded in the same ones."""
    shapes, colours = ("Hooked", "cone", "all-purpose"), ("brown", "black", "white")
    names = {f"{s} {c}": (s, c) for s in shapes for c in colours}
    rows = [f'{name},{s},{c},"1,{i}"' for i, (name, (s, c)) in enumerate(names.items())]
    table, more = tmp_path / "classes.csv", tmp_path / "more.csv"
    table.write_text("\n".join(["name,bill shape,back colour,size", *rows]))
    owners = [name for name in list(names)[:7] for _ in range(8)]
    features = np.random.default_rng(0).random((56, 12), dtype=np.float32)
    (tmp_path / "features").mkdir()
    paths = tuple(f"{name}/{i}.png" for i, name in enumerate(owners))
    images = ImageFeatures(features, paths, tuple(owners), None, ("0" * 64,) * 56)
    write_feature_folder(images, tmp_path / "features")
    data, model = tmp_path / "data", tmp_path / "run"
    run("data", "build", "--features", tmp_path / "features", "--classes", table, "-o", data)
    told = capsys.readouterr().out
    assert "read as categories: bill shape (all-purpose, cone, hooked), back colour (black," in told
    assert "read as numbers: size" in told
    assert load_folder(data).descriptors.shape == (9, 7)
    run("fit", data, "-o", model, "--components", "ml", "--seeds", "0", *QUICK)
    more.write_text("name,size,bill shape,back colour\nnew,1.2,CONE,\n")
    run("add-classes", model, more, "-o", tmp_path / "grown")
    more.write_text("name,size,bill shape,back colour\nnew,1.2,spoon,brown\n")
    capsys.readouterr()
    run("add-classes", model, more, "-o", tmp_path / "none", code=2)
    said = capsys.readouterr().err
    assert "column 'bill shape': class 'new'" in said
    assert "one of all-purpose, cone, hooked" in said


@pytest.mark.usefixtures("fake")
def test_folders_of_a_split_become_a_dataset_with_that_split(pictures, table, tmp_path, capsys):
    for part, numbers in (("train", range(6)), ("test", range(6, 10))):
        for name in CLASSES:
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in numbers if (part, name) != ("train", "grey") else ():
                (tmp_path / "photos" / part / name / f"{i}.png").symlink_to(
                    pictures / name / f"{i}.png"
                )
    command = ("data", "build", "--images", tmp_path / "photos", "--classes", table)
    run(*command, "--attributes", "warm", "share", "-o", tmp_path / "data", *FAKE)
    data = load_folder(tmp_path / "data")
    assert len(data.split.trainval) == 18
    assert len(data.split.test_seen) == 12
    assert len(data.split.test_unseen) == 4


@pytest.mark.usefixtures("fake")
def test_boxes_of_a_table_are_cut_and_used(table, tmp_path, capsys):
    photos, boxes = tmp_path / "photos", tmp_path / "boxes.csv"
    photos.mkdir()
    lines = ["path,class,x,y,width,height"]
    for i in range(8):  # in each photograph a square of every class
        photo = Image.new("RGB", (80, 20))
        for place, (name, colour) in enumerate(CLASSES.items()):
            photo.paste(
                tuple(min(255, value + i) for value in colour), (20 * place, 0, 20 * place + 20, 20)
            )
            lines.append(f"{i}.png,{name},{20 * place},0,20,20")
        photo.save(photos / f"{i}.png")
    boxes.write_text("\n".join([*lines, "0.png,red,70,0,20,20", ""]))
    data = tmp_path / "data"
    command = (
        "data",
        "build",
        "--images",
        photos,
        "--labels",
        boxes,
        "--classes",
        table,
        "-o",
        data,
    )
    run(*command, *FAKE, "--sentences", "text")
    assert "1 files gave no features" in capsys.readouterr().out
    built = load_folder(data)
    assert np.bincount(built.labels).tolist() == [8, 8, 8, 8]
    for label, features in zip(built.labels, built.features, strict=True):
        colour = CLASSES[built.class_names[label]]
        assert np.abs(features.reshape(-1, 3) - colour).max() <= 8  # of its square alone
    run(*command, *FAKE, "--sentences", "text", "--force")
    assert load_folder(data).sha256 == built.sha256


@pytest.mark.usefixtures("fake")
def test_display_names_go_from_the_table_to_whoever_reads_them(pictures, tmp_path, capsys):
    table, numbers = tmp_path / "classes.csv", tmp_path / "numbers.csv"
    display = {"red": "Красный", "grey": "=Grey <b>", "pink": ""}
    rows = [line.split(",") for line in TABLE.splitlines()]
    rows[0].append("display_name")
    table.write_text("\n".join(",".join([*r[:5], display.get(r[0], "")]) for r in rows[1:]))
    head = "name,split,text,warm,share,display_name\n"
    table.write_text(head + table.read_text() + "\n", encoding="utf-8")
    words, data, model = tmp_path / "words", tmp_path / "data", tmp_path / "run"
    run("features", "text", table, "-o", words, "--attributes", "warm", "share")
    run("data", "build", "--images", pictures, "--classes", words, "-o", data, *FAKE)
    said = {"red": "Красный", "grey": "=Grey <b>"}
    built = load_folder(data)
    assert built.provenance.sources["display_names"] == said
    assert "Красный" not in built.class_names
    assert built.descriptors.shape[1] == 2  # it is no category
    run("fit", data, "-o", model, *QUICK, "--classes-per-batch", "3")
    capsys.readouterr()
    run("classes", model)
    assert "Красный" in capsys.readouterr().out
    run("predict", model, pictures / "red" / "0.png", "--format", "jsonl", "--top-k", "9")
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert {one["class"]: one.get("display_name") for one in found} == {
        name: said.get(name) for name in [*CLASSES, "pink"]
    }
    run("predict", model, pictures / "red" / "0.png", "--top-k", "5")
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert list(row)[:5] == ["path", "class_1", "display_1", "score_1", "seen_1"]
    shown = {row[f"class_{rank}"]: row[f"display_{rank}"] for rank in range(1, 6)}
    assert shown == {name: {"grey": "'=Grey <b>"}.get(name, said.get(name, "")) for name in shown}
    assert {"red", "grey"} <= shown.keys()
    renamed, again, larger = (tmp_path / name for name in ("renamed", "again", "larger"))
    run("rename-classes", model, "red", "rouge", "-o", renamed)
    run("rename-classes", renamed, "--display", "grey", "", "blue", "Blau", "-o", again)
    table.write_text("name,warm,share,display_name\nteal,no,5%,Teal!\n")
    run("add-classes", again, table, "-o", larger)
    names = load_model(larger).display_names
    assert names == {"rouge": "Красный", "blue": "Blau", "teal": "Teal!"}
    numbers.write_text("name,a,b,display_name\nred,1,2,Rot\nblue,2,1,\ngreen,3,1,Grün\n")
    assert read_classes(numbers).display == {"red": "Rot", "green": "Grün"}
    assert read_classes(numbers).columns == ("a", "b")
    assert read_class_vectors(numbers)[1].shape == (3, 2)
