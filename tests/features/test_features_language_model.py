"""The prompt for a language model, and its answer in the forms that such models give."""

import json

import numpy as np
import pytest

from fake_backbones import Letters
from mlis.errors import DataError
from mlis.features.descriptors.class_descriptions import read_descriptions
from mlis.features.descriptors.describe import describe, read_descriptors, write_descriptors
from mlis.features.descriptors.language_model import prompt, read_answers, write_answers
from mlis.features.descriptors.new_classes import describe_like

NAMES = ["zebra", "red fox", "Gnu"]
TEXTS = {
    "zebra": ("black and white stripes", "a mane that stands up"),
    "red fox": ("orange fur",),
    "Gnu": ("a bearded throat", "horns that curve outward"),
}
LISTS = json.dumps({name: list(texts) for name, texts in TEXTS.items()}, indent=1)
LINES = "\n".join(f"{name}: {text}" for name, texts in TEXTS.items() for text in texts)


def answer(folder, text, name="answer.txt"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_the_prompt_names_every_class_and_its_form_can_be_read(tmp_path):
    text = prompt([*NAMES, 'a "b" {c}'], kind="animals", texts=3)
    for name in (*NAMES, 'a "b" {c}'):
        assert json.dumps(name) in text.splitlines()
    assert "what animals look like" in text
    assert "the 4 names below write 3 short sentences" in text
    example = text[text.index("{") : text.index("Names:")]
    assert read_answers([answer(tmp_path, example)], NAMES[:2])["zebra"] == ("…",)


@pytest.mark.parametrize(
    "text",
    [
        LISTS,
        json.dumps({name: list(texts) for name, texts in TEXTS.items()}),
        f"Here you are:\n\n```json\n{LISTS}\n```\nAnything else?\n",
        f"Sure.\n{LISTS}\nI hope this helps!",
        "\n".join(json.dumps({name: list(texts)}) for name, texts in TEXTS.items()),
        LINES,
        f"```\n{LINES}\n```",
        "\n".join(f"- **{line.replace(':', '**:', 1)}" for line in LINES.splitlines()),
        "\n\n".join(f"{i}. {line}" for i, line in enumerate(LINES.splitlines(), 1)),
        "\ufeff" + LISTS.replace("\n", "\r\n"),
    ],
)
def test_answers_in_all_forms(tmp_path, text):
    assert read_answers([answer(tmp_path, text)], NAMES) == TEXTS
    assert read_answers([answer(tmp_path, text)]) == TEXTS


def test_one_text_and_an_object_of_aspects(tmp_path):
    text = json.dumps({"zebra": "stripes", "Gnu": {"colour": "grey", "parts": ["beard", "horns"]}})
    assert read_answers([answer(tmp_path, text)]) == {
        "zebra": ("stripes",),
        "Gnu": ("colour: grey", "parts: beard", "parts: horns"),
    }


def test_several_answers_in_the_order_of_the_names(tmp_path):
    one = answer(tmp_path, "Gnu: horns\n", "one.txt")
    two = answer(tmp_path, '{"red fox": "orange", "zebra": "stripes"}', "two.txt")
    assert list(read_answers([one, two], NAMES)) == NAMES
    with pytest.raises(DataError, match=r"two\.txt.*got none of 1: Gnu\. Ask for the rest"):
        read_answers([two], NAMES)
    with pytest.raises(DataError, match=r"one\.txt: class 'Gnu': is described in an earlier"):
        read_answers([one, one])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"zebra": ["a",\n "b"\n', r"answer\.txt: line 3, column 1: expected JSON"),
        ('```json\n{"zebra": ["a"', r"line 2, column \d+: expected JSON.*cut off"),
        ('{"zebra": 3}', "class 'zebra': expected a text or a list of texts, got 3"),
        ('{"zebra": ["a", " "]}', "class 'zebra': expected a text"),
        ('{"zebra": []}', "class 'zebra': expected texts, got none"),
        ('{"zebra": {"colour": null}}', "class 'zebra', 'colour': expected a text"),
        ('{"zebra": "a", "zebra": "b"}', "class 'zebra': is described twice"),
        ('[{"name": "zebra"}]', "expected a JSON object, whose keys are the classes, got a list"),
        ('{"zebr": "a"}', "class 'zebr': expected one of the 3 classes. Did you mean 'zebra'"),
        ("zebra: a\nI am not sure\n", "line 2: expected `name: text`.*got 'I am not sure'"),
        ("zebra:\n", "line 1: expected `name: text`"),
        ("", "expected descriptions of classes, got none"),
        ("{}", "line 1: expected `name: text`"),
        ('{"a":' + "[" * 100_000, "too many levels"),
    ],
)
def test_a_bad_answer_is_located(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_answers([answer(tmp_path, text)], NAMES)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "a.txt", tmp_path / "none.txt"):
        with pytest.raises(DataError, match=f"{path.name}: cannot be read"):
            read_answers([path])


def test_the_table_is_one_that_descriptors_are_made_of(tmp_path):
    write_answers(tmp_path / "d.csv", TEXTS)
    table = read_descriptions(tmp_path / "d.csv", sentences=["text"])
    assert dict(zip(table.names, table.sentences, strict=True)) == TEXTS


# --- the common component of the texts -----------------------------------------------------------


def test_the_mean_of_all_texts_is_subtracted_also_from_new_classes(tmp_path):
    write_answers(tmp_path / "d.csv", TEXTS)
    table = read_descriptions(tmp_path / "d.csv", sentences=["text"])
    model = Letters()
    plain = describe(table, model)
    found = describe(table, model, subtract_mean=True)
    rest = plain.vectors - plain.vectors.mean(axis=0)
    expected = rest / np.linalg.norm(rest, axis=1, keepdims=True)
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    assert found.kind == "sentences by letters without their mean"
    assert "text_mean" not in plain.record
    write_descriptors(found, tmp_path / "out")
    assert read_descriptors(tmp_path / "out").record == found.record
    names, again = describe_like(found.record, TEXTS, model=model)
    assert names == tuple(NAMES)
    np.testing.assert_allclose(again, found.vectors, atol=1e-5)
    damaged = dict(found.record) | {"text_mean": [1.0]}
    with pytest.raises(DataError, match="damaged"):
        describe_like(damaged, TEXTS, model=model)


def test_a_single_class_has_nothing_but_what_is_common(tmp_path):
    write_answers(tmp_path / "d.csv", {"zebra": ["stripes"]})
    table = read_descriptions(tmp_path / "d.csv", sentences=["text"])
    with pytest.raises(DataError, match="exactly as the mean of all"):
        describe(table, Letters(), subtract_mean=True)
