"""Labels and the classes they mean: one rule in every format."""

import logging
import unicodedata

import numpy as np
import pytest

from mlis.data import GZSLDataset, load_tables
from mlis.data.class_table import class_table
from mlis.data.io.classes_file import read_class_vectors
from mlis.data.labels import almost, match_labels
from mlis.errors import DataError

KINDS = ("csv", "npz", "txt", "parquet")


def load(folder, kind: str, names, labels, *, split=None) -> GZSLDataset:
    """A dataset of two features a row, in a file of this kind."""
    lines = [f"{name},{i % 3},{i + 1}" for i, name in enumerate(names)]
    header = "name,x,y"
    if split is not None:
        header, lines = "name,x,y,split", [",".join(p) for p in zip(lines, split, strict=True)]
    (folder / "classes.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    features = np.random.default_rng(0).random((len(labels), 2)).astype(np.float32)
    path, beside = folder / f"f.{kind}", None
    if kind == "csv":
        rows = [f"{y},{a},{b}" for y, (a, b) in zip(labels, features, strict=True)]
        path.write_text("\n".join(["label,a,b", *rows]), encoding="utf-8")
    elif kind == "npz":
        np.savez(path, features=features, labels=np.array(labels))
    elif kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"label": labels, "a": features[:, 0], "b": features[:, 1]}), path)
    else:
        path, beside = folder / "f.npy", folder / f"labels.{kind}"
        np.save(path, features)
        if kind == "npy":
            np.save(beside, np.array(labels))
        else:
            beside.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    return load_tables(path, folder / "classes.csv", labels_file=beside)


def named(data: GZSLDataset) -> list[str]:
    return [data.class_names[i] for i in data.labels]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [[3, 1, 0, 2], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_numbers_that_are_names_mean_the_same_in_every_format(tmp_path, kind, names, caplog):
    labels = [name for name in names[:-1] for _ in range(3)]
    data = load(tmp_path, kind, names, labels)
    assert named(data) == [str(label) for label in labels]
    assert "read as class names" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_number_written_otherwise_is_refused(tmp_path, kind):
    with pytest.raises(DataError, match=r"row 0: .* got '?1'?.* mean '001'"):
        load(tmp_path, kind, ["000", "001", "002"], [1, 1, 2, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_names_among_other_numbers_are_refused(tmp_path, kind):
    with pytest.raises(DataError, match=r"row 2: expected one of 4 class names, got '?0'?"):
        load(tmp_path, kind, [1, 2, 3, 4], [1, 1, 0, 0, 2, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_may_count_from_0_or_from_1_are_refused(tmp_path, kind):
    with pytest.raises(DataError, match=r"from 1 to 3 .* 4 classes from 0 or from 1"):
        load(tmp_path, kind, "abcd", [1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_count_from_0_where_the_first_class_is_unseen(tmp_path, kind):
    split = ["unseen", "seen", "seen", "seen"]
    data = load(tmp_path, kind, "abcd", [1, 1, 2, 2, 3, 3], split=split)
    assert named(data) == list("bbccdd")


@pytest.mark.parametrize("kind", KINDS)
def test_names_meet_in_any_unicode_form(tmp_path, kind):
    names = ["bébé", "café", "thé"]
    labels = [unicodedata.normalize("NFD", name) for name in names[:2] for _ in range(2)]
    assert named(load(tmp_path, kind, names, labels)) == ["bébé", "bébé", "café", "café"]


def test_arrays_follow_the_same_rule(caplog):
    features, names = np.random.default_rng(0).random((6, 2)), ("3", "1", "0", "2")
    labels = [3, 3, 1, 1, 0, 0]
    data = GZSLDataset.from_arrays(features, labels, np.eye(4), class_names=names)
    assert named(data) == ["3", "3", "1", "1", "0", "0"]
    assert "label" in caplog.text
    with pytest.raises(DataError, match="from 0 or from 1"):
        GZSLDataset.from_arrays(features, [1, 1, 2, 2, 3, 3], np.eye(5))
    known = GZSLDataset.from_arrays(features, [1, 1, 2, 2, 3, 3], np.eye(5), unseen_classes=[0, 4])
    assert known.unseen_classes.tolist() == [0, 4]


def test_an_estimators_labels_follow_the_same_rule(caplog):
    table = class_table(np.array([3, 1]), {3: [1, 0], 1: [0, 1], 0: [1, 1], 2: [1, 2]})
    assert table.classes[table.labels].tolist() == [3, 1]
    given = class_table(np.array([2, 1]), np.eye(3), classes=range(1, 4))
    assert given.classes[given.labels].tolist() == [2, 1]
    composed, taken_apart = "café", unicodedata.normalize("NFD", "café")
    assert class_table(np.array([taken_apart]), {composed: [1], "thé": [2]}).labels.tolist() == [0]
    assert not caplog.records


@pytest.mark.parametrize(
    "labels", [np.array([1.0, 0.0]), [1, 0], ["1", "0"], [b"1", b"0"], np.array([1, 0], object)]
)
def test_text_and_numbers_mean_the_same(labels):
    assert match_labels(labels, ["a", "b"], "f").tolist() == [1, 0]


def test_lines_of_labels_may_end_in_blank_lines(tmp_path):
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((4, 2)))
    (tmp_path / "classes.csv").write_text("name,x\na,1\nb,2\nc,3\n")
    (tmp_path / "labels.txt").write_text("a\r\nb\r\na\r\nb\r\n\r\n\n")
    files = (tmp_path / "f.npy", tmp_path / "classes.csv")
    assert named(load_tables(*files, labels_file=tmp_path / "labels.txt")) == list("abab")
    (tmp_path / "labels.txt").write_text("a\n\na\nb\n")
    with pytest.raises(DataError, match=r"labels\.txt: row 1: .* got ''"):
        load_tables(*files, labels_file=tmp_path / "labels.txt")


def test_minus_one_in_arrays_is_warned_of(caplog):
    descriptors = np.array([[0.0, 3], [-1, 2], [1, 5]])
    features = np.random.default_rng(0).random((6, 2))
    GZSLDataset.from_arrays(features, [0, 0, 1, 1, 2, 2], descriptors)
    class_table(np.array(["a"]), dict(zip("abc", descriptors, strict=True)))
    assert [r.message.count("-1 in 1 values") for r in caplog.records] == [1, 1]


@pytest.mark.parametrize("part", ["name", "column"])
def test_further_classes_meet_in_any_unicode_form(tmp_path, part):
    decomposed = unicodedata.normalize("NFD", "größe")
    text = "name,größe\nthé,1\n" if part == "name" else f"name,{decomposed}\nthé,1\n"
    (tmp_path / "new.csv").write_text(unicodedata.normalize("NFD", text), encoding="utf-8")
    names, vectors = read_class_vectors(tmp_path / "new.csv", columns=["größe"])
    assert names == ("thé",)
    assert vectors.tolist() == [[1]]


def test_names_that_differ_in_case_alone_are_warned_of(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    load(tmp_path, "csv", ["zebra", "Zebra", "okapi"], ["zebra", "Zebra"] * 2)
    assert "'zebra' and 'Zebra' are different classes" in caplog.text


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("tigre", "tiger"),
        ("red fix", "red fox"),
        ("Red_Foxx", "red fox"),
        ("rd fox", "red fox"),
        ("xtiger", "tiger"),
        ("class_12a", "class_12"),
    ],
)
def test_one_typing_error_is_almost_the_name(name, known):
    assert almost(name, ["okapi", known]) == known


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("badminton court indoor", "badminton court outdoor"),
        ("tigress", "tiger"),
        ("itger", "tigre"),  # two
        ("class_12", "class_13"),
        ("bat", "cat"),
        ("boat", "bat"),
        ("Red Fox", "red_fox"),  # the same
    ],
)
def test_another_name_is_not(name, known):
    assert almost(name, [known]) == ""
