"""`mlis check`: what it prints of datasets and models, names of photographs, exit codes."""

import dataclasses

import numpy as np
import pytest

from cli_cases import QUICK, last_json, printed, refused, small_dataset
from mlis.cli import main
from mlis.data.io.feature_folder import ImageFeatures, write_feature_folder
from mlis.data.io.folder import save_dataset
from mlis.features.backbones.base import BackboneSpec
from standins import write_tiny


@pytest.fixture
def folder(tmp_path):
    """The small dataset; two classes are described alike, a test row is a training row."""
    data = small_dataset()
    descriptors, features = data.descriptors.copy(), data.features.copy()
    descriptors[11] = descriptors[2] + 0.001
    features[data.split.test_seen[0]] = features[data.split.trainval[0]]
    wrong = dataclasses.replace(data, descriptors=descriptors, features=features)
    save_dataset(wrong, tmp_path / "data")
    return tmp_path / "data"


def test_findings_of_a_folder_with_rows_and_remedies(folder, capsys):
    data = small_dataset()
    pair = data.split.test_seen[0], data.split.trainval[0]
    out = printed(capsys, "check", folder, "--json")
    lines = out.splitlines()
    total = sum(last_json(out)["counts"].values())
    assert lines[0] == f"small: {total} findings"
    assert any(line.startswith(f"  row {pair[0]}, row {pair[1]}: ") for line in lines)
    assert "'kind 2' and 'kind 11' are described alike" in out
    found = {one["check"]: one for one in last_json(out)["findings"]}
    assert found["test-duplicates"]["rows"] == [int(row) for row in pair]
    assert found["alike"]["classes"] == ["kind 2", "kind 11"]
    assert all(one["remedy"] in out for one in found.values())


def test_exit_codes(folder, tmp_path, capsys):
    assert main(["check", str(folder)]) == 0
    assert main(["check", str(folder), "--strict"]) == 1
    capsys.readouterr()
    assert "nowhere" in refused(capsys, "check", tmp_path / "nowhere")
    assert "no dataset" in refused(capsys, "check")


def test_photographs_are_named_where_a_file_names_them(tmp_path, capsys):
    data = small_dataset()
    known = data.seen_mask[data.labels]
    features, labels = data.features[known].copy(), data.labels[known]
    paths = tuple(f"{data.class_names[c]}/{i}.jpg" for i, c in enumerate(labels))
    marks = tuple(np.where(np.arange(len(labels)) % 3, "train", "test"))
    features[3] = features[1]  # a test row, and a training row
    images = ImageFeatures(
        *(features, paths, tuple(data.class_names[c] for c in labels), marks),
        tuple(f"{i:064x}" for i in range(len(paths))),
        BackboneSpec("made up", "w", "p", "none", features.shape[1]).to_dict(),
        "/photos",
    )
    (tmp_path / "features").mkdir()
    write_feature_folder(images, tmp_path / "features")
    table = ["name,a,b,c,d,e,f"]
    table += [
        ",".join([name, *map(str, row)])
        for name, row in zip(data.class_names, data.descriptors, strict=True)
    ]
    (tmp_path / "classes.csv").write_text("\n".join(table))
    flags = ("--features", tmp_path / "features", "--classes", tmp_path / "classes.csv")
    out = printed(capsys, "check", *flags, "--json")
    assert f"  {paths[3]}, {paths[1]}: test and training nearly equal" in out
    duplicates = [f for f in last_json(out)["findings"] if f["check"] == "test-duplicates"]
    assert duplicates[0]["photographs"] == [paths[3], paths[1]]


def test_a_pair_of_files(tmp_path, capsys):
    features, split = write_tiny(tmp_path)
    out = printed(capsys, "check", "--features", features, "--split", split, "--no-cache", "--json")
    assert last_json(out)["name"]


def test_a_model_and_a_run(folder, tmp_path, capsys):
    run = tmp_path / "run"
    printed(capsys, "fit", folder, "-o", run, *QUICK, "--components", "none")
    for place in (run, run / "seed-0/none/model"):
        out = printed(capsys, "check", place, "--json")
        assert "'kind 2' and 'kind 11' are described alike" in out
        assert out.startswith(f"{place}: ")
        assert "name the dataset" in out
        assert "no exemplar buffer" not in out
    (run / "seed-0/none/model/exemplars.safetensors").unlink()
    assert "no exemplar buffer" in printed(capsys, "check", run)
    said = refused(capsys, "check", run, "--data-root", tmp_path)
    assert "--data-root" in said
