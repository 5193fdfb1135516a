"""`mlis compare` on photographs, with tiny random image-text models: shapes, files, errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_cases import last_json, printed, refused
from mlis.cli import main
from mlis.config import Config
from mlis.data.io.folder import load_folder
from mlis.experiments.compare import TEMPLATES
from mlis.methods.auto import text_member
from tiny_clip import write_clip, write_siglip

pytest.importorskip("transformers")
COLOURS = {
    "zebra": (250, 9, 9),
    "lion": (200, 150, 60),
    "okapi": (90, 40, 30),
    "fox": (220, 90, 20),
}
COLOURS |= {"whale": (20, 60, 120), "frog": (40, 160, 40)}
METHOD = ("--method", "gaussian", "--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photographs, a table, both models, and a dataset with CLIP's features."""
    place = tmp_path_factory.mktemp("place")
    lines = ["name,split,text,red,green,blue"]
    for name, colour in COLOURS.items():
        (place / "photos" / name).mkdir(parents=True)
        for seed in range(6):
            grain = np.random.default_rng((len(name), seed)).normal(0, 30, (40, 40, 3))
            pixels = (np.array(colour) + grain).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{seed}.png")
        part = "unseen" if name in ("whale", "frog") else "seen"
        lines.append(f"{name},{part},it is a {name} with stripes,{','.join(map(str, colour))}")
    (place / "classes.csv").write_text("\n".join(lines))
    write_clip(place / "clip")
    write_siglip(place / "siglip")
    build = ["data", "build", "--images", place / "photos", "--device", "cpu"]
    build += ["--classes", place / "classes.csv", "--attributes", "red", "green", "blue"]
    build += ["--backbone", place / "clip", "--views", "centre", "-o", place / "data"]
    assert main([str(word) for word in build]) == 0
    return place


def test_the_same_rows_by_the_model_of_the_dataset(place, capsys):
    text = printed(
        *(capsys, "compare", place / "data", "--clip", place / "clip", *METHOD),
        *("--descriptions", place / "classes.csv", "--json"),
    )
    found = last_json(text)
    data = load_folder(place / "data")
    assert found["images"] == len(data.split.test_seen) + len(data.split.test_unseen)
    assert [row["name"].partition(",")[0] for row in found["rows"]] == [
        *["zero-shot"] * 3,
        "linear probe on seen classes",
        *["mlis"] * 2,
    ]
    for row in found["rows"]:
        assert all(row[name] is None or 0 <= row[name] <= 100 for name in ("U", "S", "H", "T1"))
        assert row["name"] in text
        assert row["protocol"] in text
    assert found["rows"][3]["U"] == 0
    assert found["rows"][3]["T1"] is None
    assert found["rows"][4]["protocol"].startswith("H@val")
    assert "may have been trained on them" in text


def test_photographs_are_embedded_by_another_model_and_kept(place, capsys, tmp_path):
    out = tmp_path / "kept"
    call = ("compare", place / "data", "--clip", place / "siglip", *METHOD, "-o", out, "--json")
    first = last_json(printed(capsys, *call))
    assert len(first["rows"]) == 4
    before, after = load_folder(place / "data"), load_folder(out)
    assert after.features.shape == (36, 16)
    np.testing.assert_array_equal(before.labels, after.labels)
    np.testing.assert_array_equal(before.split.test_unseen, after.split.test_unseen)
    assert after.provenance.sources["backbone"]["name"] == str(place / "siglip")
    shutil.rmtree(out / "shards")
    again = ("compare", out, "--clip", place / "siglip", *METHOD, "--json")
    again = last_json(printed(capsys, *again))
    measures = ("name", "U", "S", "H", "T1")
    assert [[row[name] for name in measures] for row in again["rows"]] == [
        [row[name] for name in measures] for row in first["rows"]
    ]
    back = ("compare", out, "--clip", place / "clip", *METHOD, "--json")  # its list is there, too
    assert last_json(printed(capsys, *back))["images"] == first["images"]
    assert "contains a dataset" in refused(capsys, *call)


def test_texts_by_the_same_model_are_blended_by_auto(place, capsys, tmp_path):
    out = tmp_path / "described"
    how = ("--sentences", "text", "--text-model", place / "clip", "--device", "cpu")
    printed(capsys, "data", "build", "--features", place / "data", "--classes",
            place / "classes.csv", "-o", out, *how)  # fmt: skip
    plain = Config().replace({"preprocessing": {"feature_transform": "none"}})
    (entry,) = text_member(load_folder(out), plain)
    assert entry.method.options == {"text": 12, "views": 1, "scaled": True}


def test_the_script_fills_a_table_with_every_model(place, capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import clip

    models = ["--clip", str(place / "clip"), "--clip", str(place / "siglip")]
    data = ["--images", str(place / "photos"), "--classes", str(place / "classes.csv")]
    clip.main([*data, *models, "--budget", "0.1s", "-o", str(tmp_path / "out")])
    rows = json.loads((tmp_path / "out" / "clip.json").read_text())["rows"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| /")]
    assert len(rows) == len(lines) == 12
    assert rows[5]["name"].endswith("the model's texts")
    assert f"| {rows[0]['S']:.1f} |" in lines[0]


def test_templates_are_the_users(place, capsys):
    call = ("compare", place / "data", "--clip", place / "clip", *METHOD, "--json")
    default = last_json(printed(capsys, *call))["rows"][0]
    listed = [part for template in TEMPLATES for part in ("--template", template)]
    assert last_json(printed(capsys, *call, *listed))["rows"][0]["S"] == default["S"]
    assert "'a photo'" in refused(capsys, *call, "--template", "a photo")


def test_what_cannot_be_compared_is_refused(place, capsys, tmp_path):
    clip = ("--clip", place / "siglip", *METHOD)
    assert "has no photographs" in refused(capsys, "compare", "letters", *clip)
    other = shutil.copytree(place / "data", tmp_path / "other")
    (other / "images.csv").unlink()
    assert "photographs of its rows are unknown" in refused(capsys, "compare", other, *clip)
    (tmp_path / "short.csv").write_text("name,text\nzebra,it is a zebra of the north\n")
    short = ("--descriptions", tmp_path / "short.csv")
    assert "got none of 5" in refused(capsys, "compare", place / "data", *clip, *short)
    missing = ("--clip", tmp_path / "nothing")
    assert "there is no such folder" in refused(capsys, "compare", place / "data", *missing)
    same = ("-o", place / "data", "--force")
    assert "is the dataset itself" in refused(capsys, "compare", place / "data", *clip, *same)
    budget = ("--budget", "10s")
    assert "--budget" in refused(capsys, "compare", place / "data", *clip, *budget)


def test_a_photograph_that_changed_or_went_is_named(place, capsys, tmp_path):
    photos = shutil.copytree(place / "photos", tmp_path / "photos")
    data = shutil.copytree(place / "data", tmp_path / "data")
    sources = json.loads((data / "sources.json").read_text())
    (data / "sources.json").write_text(json.dumps(sources | {"root": str(photos)}))
    call = ("compare", data, "--clip", place / "siglip", *METHOD)
    Image.new("RGB", (40, 40)).save(photos / "lion" / "2.png")
    assert "lion/2.png: expected the photograph of which" in refused(capsys, *call)
    (photos / "lion" / "2.png").unlink()
    assert "lion/2.png" in refused(capsys, *call)
