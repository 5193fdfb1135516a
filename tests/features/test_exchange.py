"""Labelled images and boxes from and for other tools: the same pictures, classes, splits, boxes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import odd_images
from mlis.cli import main
from mlis.errors import DataError
from mlis.features.images.boxes import Box
from mlis.features.images.files import find_images
from mlis.features.labelled_rows import find_labelled

WIDTH, HEIGHT = 40, 30
PICTURES = {
    "zebra/1.png": ("zebra", "train", None),
    "zebra/two words.png": ("zebra", "test", None),
    "зебра/3.png": ("зебра, большая", "val", None),
    "fields/4.png": ("=horse/herd", "train", (0, 0, 20, 15)),
    "fields/5.png": ("zebra", "train", (5, 3, 8, 9)),
}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Noise, so that no crop equals another one."""
    rng = np.random.default_rng(0)
    for name in PICTURES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def run(*arguments: object, code: int = 0) -> None:
    assert main([str(argument) for argument in arguments]) == code


def labels(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def bad(folder: Path) -> dict[str, str]:
    with (folder / "bad.csv").open(newline="", encoding="utf-8") as handle:
        return {row["path"]: row["reason"] for row in csv.DictReader(handle)}


def boxes_table(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "class", "split", "x", "y", "width", "height"])
        for name, (class_name, mark, box) in PICTURES.items():
            writer.writerow([name, class_name, mark, *(box or [""] * 4)])
        writer.writerow(["fields/5.png", "=horse/herd", "train", 20, 10, 20, 20])
    return path


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# --- every format -------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["coco", "label-studio", "fiftyone", "imagefolder"])
def test_what_is_exported_comes_back(photos, tmp_path, format_):
    table = boxes_table(tmp_path / "boxes.csv")
    run("data", "import", table, "--images", photos, "-o", tmp_path / "direct")
    suffix = "" if format_ == "imagefolder" else ".json"
    out = tmp_path / f"other{suffix}"
    run("data", "export", table, "--images", photos, "--format", format_, "-o", out)
    where = () if format_ == "imagefolder" else ("--images", photos)
    run("data", "import", out, *where, "-o", tmp_path / "again")
    direct = labels(tmp_path / "direct")
    assert labels(tmp_path / "again") == direct
    assert {(row["source"], row["class"], row["split"]) for row in direct} >= {
        (name, class_name, mark) for name, (class_name, mark, _) in PICTURES.items()
    }
    assert len(direct) == len(PICTURES) + 1
    for row in direct:
        original, part = pixels(photos / row["source"]), row["box"]
        if part:
            x, y, width, height = map(int, part.split())
            original = original[y : y + height, x : x + width]
        for folder in ("direct", "again"):
            np.testing.assert_array_equal(pixels(tmp_path / folder / row["path"]), original)


def test_an_imported_folder_is_read_like_any_folder_of_images(photos, tmp_path):
    table = boxes_table(tmp_path / "boxes.csv")
    run("data", "import", table, "--images", photos, "-o", tmp_path / "in")
    found = find_images(tmp_path / "in")
    assert found.class_names == ("=horse/herd", "zebra", "зебра, большая")
    assert {image.mark for image in found.images} == {"train", "val", "test"}
    assert all(image.source.is_file() for image in found.images)
    assert (tmp_path / "in" / "zebra" / "1.png").samefile(photos / "zebra" / "1.png")


def test_margin_and_edges_of_boxes(photos, tmp_path):
    table = tmp_path / "boxes.csv"
    lines = ["zebra/1.png,a,10,10,10,10", "zebra/1.png,b,-0.6,0,40.9,30", "zebra/1.png,c,35,0,10,9"]
    table.write_text("\n".join(["path,class,x,y,width,height", *lines, "zebra/1.png,d,1,1,0.2,9"]))
    run("data", "import", table, "--images", photos, "-o", tmp_path / "in", "--margin", "0.2")
    found = {row["class"]: row["box"] for row in labels(tmp_path / "in")}
    assert found == {"a": "8 8 14 14", "b": ""}  # the whole picture is a link
    reasons = (tmp_path / "in" / "bad.csv").read_text()
    assert "expected one inside 40 × 30 pixels, got 35 0 10 9" in reasons
    assert "expected at least a pixel" in reasons


def test_boxes_refer_to_the_upright_picture(tmp_path):
    (tmp_path / "turned.jpg").write_bytes(
        odd_images.with_orientation(6, odd_images.picture(size=(64, 32)))
    )
    upper = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 64, 16]}
    content = {"images": [{"id": 1, "file_name": "turned.jpg", "width": 64, "height": 32}]}
    content |= {"annotations": [upper], "categories": [{"id": 1, "name": "red"}]}
    run("data", "import", write_json(tmp_path / "coco.json", content), "-o", tmp_path / "in")
    (row,) = labels(tmp_path / "in")
    crop = pixels(tmp_path / "in" / row["path"])
    assert crop.shape == (16, 64, 3)
    assert (crop[..., 0] > crop[..., 2]).mean() > 0.9
    content["images"][0] |= {"width": 32, "height": 64}  # as the file is stored
    wrong = write_json(tmp_path / "wrong.json", content)
    run("data", "import", wrong, "-o", tmp_path / "not", code=2)
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "C:\\x.png", "a\\..\\..\\b.png", "a\0b", "\ud800", ""]
)
def test_no_path_leads_out_of_the_folder(photos, tmp_path, path):
    (tmp_path / "secret.png").write_bytes((photos / "zebra/1.png").read_bytes())
    images = [{"id": 1, "file_name": path}, {"id": 2, "file_name": "zebra/1.png"}]
    annotations = [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 1}]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "../a"}],
    }
    file = write_json(tmp_path / "coco.json", content)
    run("data", "import", file, "--images", photos, "-o", tmp_path / "in")
    (row,) = labels(tmp_path / "in")
    assert (row["class"], row["source"]) == ("../a", "zebra/1.png")
    assert (tmp_path / "in" / row["path"]).resolve().is_relative_to(tmp_path / "in")
    assert f"{file}: annotations[0]" in bad(tmp_path / "in")


# --- one by one ---------------------------------------------------------------------------------


def test_coco_records_that_cannot_be_used_are_listed(photos, tmp_path):
    images = [{"id": i, "file_name": name} for i, name in enumerate([*PICTURES, "gone.png"])]
    box = {"category_id": 7, "bbox": [0, 0, 10, 10]}
    annotations = [
        {"image_id": 0, **box},
        {"image_id": 0, **box, "iscrowd": 1},
        {"image_id": 1, **box, "category_id": 8},
        {"image_id": 1, **box, "bbox": [0, 0, "10", 10]},
        {"image_id": 2, **box, "bbox": [0, 0, -1, 10]},
        {"image_id": 5, **box},
        {"image_id": 0, **box, "category_id": 9},  # the same box
    ]
    categories = [{"id": 7, "name": "zebra"}, {"id": 9, "name": "horse"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = write_json(tmp_path / "coco.json", content)
    run("data", "import", file, "--images", photos, "-o", tmp_path / "in")
    assert len(labels(tmp_path / "in")) == 1
    text = (tmp_path / "in" / "bad.csv").read_text()
    for number, reason in {
        1: "a crowd",
        2: "no category has the id 8",
        3: "expected four numbers",
        4: "expected x, y, width > 0",
        5: "no such file, or no permission",
        6: "labelled 'horse', and 'zebra' before",
    }.items():
        (line,) = [line for line in text.splitlines() if f"annotations[{number}]" in line]
        assert reason in line
    assert "images[3]" in text  # no annotation
    content["annotations"].append({"image_id": 99})
    run(
        "data",
        "import",
        write_json(file, content),
        "--images",
        photos,
        "-o",
        tmp_path / "b",
        code=2,
    )


def test_label_studio_annotations_are_chosen_and_files_found(photos, tmp_path):
    def task(image: str, *annotations: object) -> dict:
        return {"data": {"image": image}, "annotations": list(annotations)}

    def choice(*names: str, **more: object) -> dict:
        return {"result": [{"type": "choices", "value": {"choices": list(names)}}], **more}

    part = {"x": 25, "y": 50, "width": 50, "height": 50, "rotation": 0}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    rectangle = {"id": "r", "type": "rectangle", "value": part, **size}
    its_choice = {"id": "r", "type": "choices", "value": {"choices": ["horse"]}}
    turned = {"id": "t", "type": "rectanglelabels", "value": {**part, "rotation": 9}}
    tasks = [
        task("/data/upload/3/0a1b2c3d-1.png", choice("x"), choice("zebra")),
        task(
            "/data/local-files/?d=far/zebra/two%20words.png",
            choice("horse", ground_truth=True),
            choice("zebra"),
        ),
        task("s3://bucket/photos/fields/4.png", {"result": [rectangle, its_choice, turned]}),
        task("https://host/fields/5.png?token=1", choice("zebra", was_cancelled=True)),
        task("https://host/fields/5.png", choice("zebra", "horse")),
        task("fields/6.png", choice("zebra")),
    ]
    (photos / "1.png").write_bytes((photos / "zebra/1.png").read_bytes())
    file = write_json(tmp_path / "tasks.json", tasks)
    run("data", "import", file, "--images", photos, "-o", tmp_path / "in")
    found = {(row["source"], row["class"], row["box"]) for row in labels(tmp_path / "in")}
    assert found == {
        ("1.png", "zebra", ""),
        ("zebra/two words.png", "horse", ""),
        ("fields/4.png", "horse", "10 15 20 15"),
    }
    reasons = bad(tmp_path / "in")
    assert "no rotation" in reasons[f"{file}[2].result[1]"]
    assert "not annotated" in reasons[f"{file}[3]"]
    assert "expected one class" in reasons[f"{file}[4].result[0]"]
    assert "no file of" in reasons[f"{file}[5]"]


def test_records_of_another_shape_are_listed(photos, tmp_path):
    good = {"type": "choices", "value": {"choices": ["zebra"]}}
    odd = [3, [[]], [{"result": 1}], [{"result": [{"value": []}]}], [{"result": [good, {}]}]]
    odd += [
        [{"result": [{"type": "choices", "value": {"choices": name}}]}] for name in (True, "\ud800")
    ]
    tasks = [{"data": {"image": "zebra/1.png"}, "annotations": one} for one in odd]
    tasks += [{"data": {"image": name}} for name in (None, "http://[", "a" * 300, "/")]
    tasks.append({"data": {"image": "fields/5.png"}, "annotations": [{"result": [good]}]})
    file = write_json(tmp_path / "tasks.json", tasks)
    run("data", "import", file, "--images", photos, "-o", tmp_path / "in")
    assert [row["source"] for row in labels(tmp_path / "in")] == ["fields/5.png"]
    assert len((tmp_path / "in" / "bad.csv").read_text().splitlines()) == len(tasks)


def test_fiftyone_datasets_with_and_without_boxes(photos, tmp_path, capsys):
    folder = tmp_path / "fiftyone"
    folder.mkdir()
    photos.rename(folder / "data")
    known = {
        "zebra/1": 1,
        "zebra/two words": {"label": "horse", "confidence": 0.5},
        "fields/5": None,
    }
    write_json(folder / "labels.json", {"classes": ["horse", "zebra"], "labels": known | {"x": 0}})
    run("data", "import", folder, "-o", tmp_path / "in")
    found = {row["source"]: row["class"] for row in labels(tmp_path / "in")}
    assert found == {"zebra/1.png": "zebra", "zebra/two words.png": "horse"}
    assert sorted(bad(tmp_path / "in")) == [
        f"{folder / 'labels.json'}: labels[{key!r}]" for key in ("fields/5", "x")
    ]
    half = {"label": "zebra", "bounding_box": [0.5, 0.5, 0.5, 0.5]}
    write_json(
        folder / "labels.json", {"labels": {"zebra/1": [half, {**half, "bounding_box": [2]}]}}
    )
    run("data", "import", folder, "-o", tmp_path / "boxes")
    assert [row["box"] for row in labels(tmp_path / "boxes")] == ["20 15 20 15"]
    (folder / "data" / "zebra" / "1.jpg").write_bytes(b"x")
    run("data", "import", folder, "-o", tmp_path / "twice", code=2)
    assert "without their suffix" in capsys.readouterr().err


def test_hugging_face_metadata_of_a_split(photos, tmp_path):
    for part, name, label in [("train", "zebra/1.png", "a"), ("validation", "fields/4.png", "b")]:
        folder = tmp_path / "hf" / part
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes((photos / name).read_bytes())
        (folder / "metadata.csv").write_text(f"file_name,label\n0.png,{label}\n")
    run("data", "import", tmp_path / "hf", "-o", tmp_path / "in")
    found = [(row["path"], row["class"], row["split"]) for row in labels(tmp_path / "in")]
    assert found == [("a/0.png", "a", "train"), ("b/0.png", "b", "val")]


def test_hugging_face_parquet_files(photos, tmp_path, capsys):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"label": {"names": ["horse", "zebra"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    data = (photos / "zebra/1.png").read_bytes()
    for part, targets in {"train": [1, 0, 1], "test": [0, 2]}.items():
        images = [{"bytes": data, "path": "x.png" if i else None} for i in range(len(targets))]
        table = arrow.table({"image": images, "label": targets}).replace_schema_metadata(metadata)
        folder = tmp_path / "hub" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, folder / f"{part}-00000-of-00001.parquet")
    run("data", "import", tmp_path / "hub", "-o", tmp_path / "in")
    found = [(row["path"], row["class"], row["split"]) for row in labels(tmp_path / "in")]
    assert found == [
        ("horse/test-00000-of-00001-0.png", "horse", "test"),
        ("horse/x.png", "horse", "train"),
        ("zebra/train-00000-of-00001-0.png", "zebra", "train"),
        ("zebra/x.png", "zebra", "train"),
    ]
    assert all((tmp_path / "in" / path).read_bytes() == data for path, *_ in found)
    assert "expected a number below 2, got 2" in (tmp_path / "in" / "bad.csv").read_text()
    out = tmp_path / "coco.json"
    run("data", "export", tmp_path / "hub", "--format", "coco", "-o", out, code=2)
    assert "contains its images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "[", "expected JSON"),
        ("a.json", '{"a": 1}', "expected COCO"),
        ("a.json", '{"images": [], "annotations": 3, "categories": []}', "expected a list, got"),
        ("a.jsonl", "{\n", "line 1: expected JSON"),
        ("a.txt", "", "expected a folder"),
        ("gone.json", None, "no such file"),
        ("a.csv", "path,class\n../x.png,a\n", "row 0"),
        ("a.csv", "path,class,x,y,width,height\nzebra/1.png,a,1,1,1,one\n", "row 0: box"),
        ("a.csv", "path,class,x,y\nzebra/1.png,a,1,1\n", "expected a column 'width'"),
    ],
)  # fmt: skip
def test_faults_of_a_file_are_named_and_nothing_is_written(
    photos, tmp_path, capsys, name, text, said
):
    if text is not None:
        (tmp_path / name).write_text(text)
    run("data", "import", tmp_path / name, "--images", photos, "-o", tmp_path / "in", code=2)
    error = capsys.readouterr().err
    assert said in error
    assert name in error
    assert not list(tmp_path.glob("*in*"))


def test_only_an_empty_folder_is_written_to(photos, tmp_path, capsys):
    run("data", "import", photos, "-o", photos / "in", code=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "labels.csv").write_text("mine")
    run("data", "import", photos, "-o", tmp_path / "full", code=2)
    run("data", "export", photos, "--format", "imagefolder", "-o", tmp_path / "full", code=2)
    run("data", "export", photos, "--format", "coco", "-o", tmp_path / "out.csv", code=2)
    assert (tmp_path / "full" / "labels.csv").read_text() == "mine"


def test_boxes_are_crops_or_an_error_and_never_ignored(photos, tmp_path):
    assert Box(0.25, 0.5, 0.5, 0.5, relative=True).crop((40, 30)) == (10, 15, 30, 30)
    boxes_table(photos / "labels.csv")
    with pytest.raises(DataError, match=r"mlis data import labels\.csv"):
        find_images(photos)
    with pytest.raises(DataError, match=r"mlis data import labels\.csv"):
        find_labelled(photos / "labels.csv")


def test_the_photographs_of_a_dataset_are_exported(photos, tmp_path):
    """`images.csv` names those that `mlis data build` made rows of, and `root` their folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "bad.csv").write_text("path,reason\nx.txt,not an image\n")
    (folder / "images.csv").write_text("path,class,split,sha256\nzebra/1.png,zebra,test,0\n")
    (folder / "sources.json").write_text(json.dumps({"root": str(photos)}))
    run("data", "export", folder, "--format", "coco", "-o", tmp_path / "c.json")
    run("data", "import", tmp_path / "c.json", "--images", photos, "-o", tmp_path / "again")
    assert [(row["class"], row["split"]) for row in labels(tmp_path / "again")] == [
        ("zebra", "test")
    ]
