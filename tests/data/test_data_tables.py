"""Own data from tables: every kind of file, names that nearly fit, and every fault."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mlis.data import load_tables
from mlis.data.io.feature_rows import read_features
from mlis.data.labels import match_labels
from mlis.errors import DataError
from mlis.features.descriptors.class_descriptions import read_descriptions

NAMES = ["polar+bear", "brown+bear", "blue whale", "house_cat", "Zebra"]
LABELS = np.repeat(np.arange(4), 5)  # no row is of the last class
FEATURES = np.random.default_rng(0).random((20, 3)).astype(np.float32)


@pytest.fixture
def classes(tmp_path) -> Path:
    path = tmp_path / "classes.csv"
    lines = [f"{name},{i},{i * i + 1}" for i, name in enumerate(NAMES)]
    path.write_text("\n".join(["name,size,stripes", *lines]) + "\n")
    return path


def write_csv(path: Path, labels: list, *, header: str = "a,label,b,c") -> Path:
    rows = [f"{f[0]},{y},{f[1]},{f[2]}" for f, y in zip(FEATURES, labels, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_marked(path: Path, labels: list, marks: list) -> Path:
    """Features, labels and marks in a file of the kind that its name says."""
    if path.suffix == ".npz":
        np.savez(path, features=FEATURES, labels=np.array(labels), split=np.array(marks))
    elif path.suffix == ".csv":
        rows = [[mark, *f, y] for mark, f, y in zip(marks, FEATURES, labels, strict=True)]
        lines = ["split,a,b,c,label", *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        numbers = dict(zip("abc", FEATURES.T, strict=True))
        columns = {"label": labels, "split": pa.array(marks, from_pandas=True)}
        pq.write_table(pa.table(columns | numbers), path)
    return path


def write_features(folder: Path, kind: str, labels: list) -> dict[str, Path]:
    path = folder / f"features.{kind}"
    if kind == "csv":
        return {"features_file": write_csv(path, labels)}
    if kind == "npz":
        np.savez(path, features=FEATURES, labels=np.array(labels))
        return {"features_file": path}
    if kind == "npy":
        np.save(path, FEATURES)
        np.save(folder / "labels.npy", np.array(labels))
        return {"features_file": path, "labels_file": folder / "labels.npy"}
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"a": FEATURES[:, 0], "label": labels, "b": FEATURES[:, 1], "c": FEATURES[:, 2]}
    pq.write_table(pa.table(columns), path)
    return {"features_file": path}


@pytest.mark.parametrize("named", [True, False], ids=["names", "numbers"])
@pytest.mark.parametrize("kind", ["csv", "npz", "npy", "parquet"])
def test_every_kind_of_file_gives_the_same_dataset(tmp_path, classes, kind, named):
    labels = [NAMES[y] for y in LABELS] if named else LABELS.tolist()
    data = load_tables(**write_features(tmp_path, kind, labels), classes_file=classes)
    np.testing.assert_array_equal(data.features, FEATURES)
    np.testing.assert_array_equal(data.labels, LABELS)
    np.testing.assert_array_equal(data.descriptors, [[i, i * i + 1] for i in range(5)])
    assert data.class_names == tuple(NAMES)
    assert data.unseen_classes.tolist() == [4]
    assert data.provenance.name == "features"
    assert set(data.provenance.files) >= {f"features.{kind}", "classes.csv"}


@pytest.mark.parametrize("kind", ["list", "fixed"])
def test_parquet_features_may_be_one_column_of_lists(tmp_path, classes, kind):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    element = pa.list_(pa.float32()) if kind == "list" else pa.list_(pa.float32(), 3)
    table = pa.table({"f": pa.array(FEATURES.tolist(), element), "label": LABELS})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=7)
    data = load_tables(tmp_path / "f.parquet", classes)
    np.testing.assert_array_equal(data.features, FEATURES)


# --- rows that are marked train, val or test ----------------------------------------------------

# 4 classes of 5 rows each and a class without rows
TRAIN_AND_TEST = ["train", "train", " Train", "test", "TEST"] * 3 + ["test"] * 5


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_rows_may_bring_their_own_split(tmp_path, classes, kind):
    path = write_marked(tmp_path / f"f.{kind}", LABELS.tolist(), TRAIN_AND_TEST)
    data = load_tables(path, classes)
    np.testing.assert_array_equal(data.features, FEATURES)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.split.trainval.tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    assert data.split.test_seen.tolist() == [3, 4, 8, 9, 13, 14]
    assert data.split.test_unseen.tolist() == [15, 16, 17, 18, 19]
    assert data.unseen_classes.tolist() == [3, 4]
    assert data.split.has_validation  # made by seed, as no row is val
    assert np.isin(data.split.val_unseen, data.split.trainval).all()
    np.testing.assert_array_equal(read_features(path), FEATURES)  # the split is no feature


def test_classes_of_val_rows_alone_are_the_unseen_classes_of_validation(tmp_path, classes):
    marks = [*["train"] * 3, "val", "test", *["train"] * 4, "test", *["val"] * 3, *["test"] * 7]
    split = load_tables(write_marked(tmp_path / "f.csv", LABELS.tolist(), marks), classes).split
    assert split.train.tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert split.val_seen.tolist() == [3]
    assert split.val_unseen.tolist() == [10, 11, 12]
    assert split.trainval.tolist() == [*range(4), *range(5, 9), 10, 11, 12]
    assert split.test_seen.tolist() == [4, 9, 13, 14]
    assert split.test_unseen.tolist() == [15, 16, 17, 18, 19]


@pytest.mark.parametrize("kind", ["csv", "npz"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({7: "tset"}, "split: row 7: expected train, val or test, got 'tset'"),
        ({7: ""}, "split: row 7: expected train, val or test, got ''"),
        ({16: "train"}, "split: row 16 is marked 'train', but its class 'house_cat' is unseen"),
        (
            {5: "test", 6: "test", 7: "test"},
            "row 5 is marked 'test', but its class 'brown+bear' is seen, but has no",
        ),
        (dict.fromkeys(range(20), "test"), "split: expected rows marked train, got none"),
    ],
    ids=[
        "wrong word",
        "empty",
        "unseen train",
        "untrained",
        "test",
    ],
)
def test_wrong_marks_are_named_with_row_and_value(tmp_path, classes, kind, changes, said):
    lines = classes.read_text().splitlines()
    parts = ["split", "seen", "seen", "seen", "unseen", "unseen"]
    classes.write_text("\n".join(f"{line},{part}" for line, part in zip(lines, parts, strict=True)))
    marks = [changes.get(row, mark) for row, mark in enumerate(TRAIN_AND_TEST)]
    path = write_marked(tmp_path / f"f.{kind}", LABELS.tolist(), marks)
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        load_tables(path, classes)
    assert path.name in str(caught.value)


def test_marks_that_are_no_words_or_too_few(tmp_path, classes):
    path = tmp_path / "f.npz"
    np.savez(path, features=FEATURES, labels=LABELS, split=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"f\.npz: split: row 0: .* got 0"):
        load_tables(path, classes)
    np.savez(path, features=FEATURES, labels=LABELS, split=np.array(TRAIN_AND_TEST[1:]))
    with pytest.raises(DataError, match=r"f\.npz: expected 20 marks.*f\.npz, got 19"):
        load_tables(path, classes)
    path = write_marked(tmp_path / "f.parquet", LABELS.tolist(), [*TRAIN_AND_TEST[:-1], None])
    with pytest.raises(DataError, match=r"f\.parquet: split: row 19: .* got None"):
        load_tables(path, classes)


def test_marked_rows_leave_nothing_to_a_fraction(tmp_path, classes):
    path = write_marked(tmp_path / "f.csv", LABELS.tolist(), TRAIN_AND_TEST)
    with pytest.raises(DataError, match=r"f\.csv: split marks the test rows. Omit test_fraction"):
        load_tables(path, classes, test_fraction=0.2)


def test_a_seen_class_without_rows_is_told(tmp_path, classes):
    lines = classes.read_text().splitlines()
    parts = ["split", "seen", "seen", "seen", "unseen", "seen"]
    classes.write_text("\n".join(f"{line},{part}" for line, part in zip(lines, parts, strict=True)))
    with pytest.raises(
        DataError, match=r"classes\.csv: class 'Zebra' is marked as seen, but no row of .*f\.csv"
    ):
        load_tables(write_csv(tmp_path / "f.csv", LABELS.tolist()), classes)


# --- names and numbers --------------------------------------------------------------------------


def test_another_label_column_and_a_byte_order_mark(tmp_path, classes):
    path = write_csv(tmp_path / "f.csv", LABELS.tolist(), header='a,"what is it",b,c')
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    data = load_tables(path, classes, label_column="what is it", name="pets")
    assert data.provenance.name == "pets"
    assert data.features.shape == (20, 3)


def test_numbers_that_are_class_names_are_names(tmp_path):
    (tmp_path / "classes.csv").write_text("name,x\n2,1\n1,2\n0,3\n")
    (tmp_path / "f.csv").write_text("label,a\n2,1\n2,2\n1,3\n0,4\n")
    assert load_tables(tmp_path / "f.csv", tmp_path / "classes.csv").labels.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Polar Bear", "polar+bear"),
        ("HouseCat", "house_cat"),
        ("zebre", "Zebra"),
    ],
)
def test_a_name_that_nearly_fits_is_suggested_and_not_guessed(written, meant):
    with pytest.raises(DataError) as caught:
        match_labels(["Zebra", written], NAMES, "f.csv")
    assert f"got '{written}'" in str(caught.value)
    assert f"Did you mean '{meant}'?" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 5], r"row 2: .* 5 classes .* got 5.*counted from 1: subtract 1"),
        ([0, 9], r"row 1: expected a label from 0 to 4.* 5 classes .*, got 9\.$"),
        ([0.5], r"row 0: expected an integer, got 0\.5"),
        ([np.nan], "row 0: expected an integer, got nan"),
        ([[0, 1], [1, 0]], r"1-d array, one label per row, got shape \(2, 2\)"),
        (["Zebra", None], "row 1: .* got None"),
    ],
)
def test_each_bad_label_is_named(labels, message):
    with pytest.raises(DataError, match=message):
        match_labels(labels, NAMES, "f.csv")


def text_fault(old: str, new: str):
    return lambda text: text.replace(old, new, 1)


CLASS_FAULTS = {
    "no name column": (
        text_fault("name", "nom"),
        ["expected a column 'name'", "nom, size, stripes"],
    ),
    "no attributes": (lambda _: "name\nant\n", ["expected attributes, got name"]),
    "no classes": (lambda _: "name,size\n", ["no classes below the header"]),
    "empty": (lambda _: "", ["expected a header line, got an empty file"]),
    "no number": (
        text_fault("house_cat,3,10", "house_cat,,10"),
        ["line 5, column 'size'", "expected a number, got ''"],
    ),
    "nan": (text_fault("3,10", "3,nan"), ["line 5, column 'stripes'", "'nan'"]),
    "too large": (text_fault("3,10", "3,1e39"), ["line 5, column 'stripes'", "'1e39'"]),
    "a cell too few": (
        text_fault(",1,2", ",1"),
        ["line 3: expected 3 cells", "got 2"],
    ),
    "a cell too many": (
        text_fault(",1,2", ",1,2,3"),
        ["line 3: expected 3 cells", "got 4"],
    ),
    "split misspelt": (
        lambda _: "name,split,x\nant,sen,1\n",
        ["line 2, column 'split'", "seen or unseen", "'sen'"],
    ),
    "header twice": (text_fault("stripes", "size"), ["2 columns 'size'"]),
    "quote left open": (text_fault("Zebra", '"Zebra'), ["expected a CSV file in UTF-8"]),
    "name twice": (text_fault("Zebra", "house_cat"), ["class_names", "'house_cat'", "[3, 4]"]),
    "descriptor zero": (text_fault("0,1", "0,0"), ["'polar+bear'", "0 in all 2 columns"]),
}


@pytest.mark.parametrize("fault", CLASS_FAULTS)
def test_each_fault_of_the_classes_table_is_named(tmp_path, classes, fault):
    change, parts = CLASS_FAULTS[fault]
    classes.write_text(change(classes.read_text()))
    with pytest.raises(DataError) as caught:
        load_tables(write_csv(tmp_path / "f.csv", LABELS.tolist()), classes)
    for part in ["classes.csv", *parts]:
        assert part in str(caught.value)


FEATURE_FAULTS = {
    "label misspelt": (text_fault("house_cat", "house cat"), ["f.csv", "row 15", "'house_cat'?"]),
    "no label column": (text_fault("label", "y"), ["expected a column 'label'", "a, y, b, c"]),
    "no rows": (lambda _: "a,label\n", ["no rows below the header"]),
    "no number": (text_fault(f"{FEATURES[1, 2]}", "x"), ["line 3, column 'c'", "got 'x'"]),
    "not UTF-8": (lambda text: text.encode() + b"\xff", ["expected a CSV file in UTF-8"]),
    "null byte": (lambda text: text.replace("0.", "\0.", 1), ["f.csv"]),
}


@pytest.mark.parametrize("fault", FEATURE_FAULTS)
def test_each_fault_of_the_features_table_is_named(tmp_path, classes, fault):
    change, parts = FEATURE_FAULTS[fault]
    path = write_csv(tmp_path / "f.csv", [NAMES[y] for y in LABELS])
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(DataError) as caught:
        load_tables(path, classes)
    for part in parts:
        assert part in str(caught.value)


def test_what_is_missing_is_told(tmp_path, classes):
    np.save(tmp_path / "f.npy", FEATURES)
    with pytest.raises(DataError, match=r"a \.npy file contains no labels.*--labels"):
        load_tables(tmp_path / "f.npy", classes)
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        load_tables(tmp_path / "none.csv", classes)
    with pytest.raises(DataError, match=r"expected a \.npy, \.npz, \.csv or \.parquet file"):
        load_tables(tmp_path / "f.xls", classes)
    np.savez(tmp_path / "f.npz", features=FEATURES)
    with pytest.raises(DataError, match=r"f\.npz: expected an array 'labels', got features"):
        load_tables(tmp_path / "f.npz", classes)
    csv = write_csv(tmp_path / "f.csv", LABELS.tolist())
    with pytest.raises(DataError, match="contains the labels"):
        load_tables(csv, classes, labels_file=csv)


@pytest.mark.parametrize("rows", [FEATURES[0], FEATURES[None], FEATURES.astype("U8")])
def test_features_must_be_a_matrix_of_numbers(tmp_path, classes, rows):
    np.savez(tmp_path / "f.npz", features=rows, labels=np.zeros(len(rows), int))
    with pytest.raises(DataError, match=r"f\.npz: features: expected a 2-d array of real numbers"):
        load_tables(tmp_path / "f.npz", classes)


def test_parquet_faults_are_named(tmp_path, classes):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "f.parquet"
    numbers = FEATURES[:, 0].tolist()
    tables = {
        "expected a column 'label'": {"a": numbers},
        "column 'b': expected numbers, got string": {
            "label": LABELS, "a": numbers, "b": ["x"] * 20,
        },
        "row 3, column 'a': expected a number": {
            "label": LABELS, "a": [*numbers[:3], None, *numbers[4:]], "b": numbers,
        },
        "column 'f': expected lists of equal length": {
            "label": LABELS, "f": [[1.0]] * 19 + [[1.0, 2.0]],
        },
        "row 19, column 'label': expected": {"label": [*LABELS.tolist()[:19], None], "a": numbers},
    }  # fmt: skip
    for message, columns in tables.items():
        pq.write_table(pa.table(columns), path)
        with pytest.raises(DataError, match=message):
            load_tables(path, classes)
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"f\.parquet: not a Parquet file"):
        load_tables(path, classes)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, classes, monkeypatch):
    (tmp_path / "f.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"needs pyarrow.*pip install 'mlis\[parquet\]'"):
        load_tables(tmp_path / "f.parquet", classes)


# --- columns that are no features, numbers that are none, other separators -----------------------


@pytest.mark.parametrize("name", ["", " ", "Unnamed: 0", "Unnamed: 0_level_0"])
@pytest.mark.parametrize("which", ["features", "unlabelled", "classes", "words"])
def test_a_column_without_a_name_is_refused(tmp_path, classes, name, which):
    path = write_csv(tmp_path / "f.csv", [NAMES[y] for y in LABELS])
    indexed = classes if which in ("classes", "words") else path
    lines = indexed.read_text().splitlines()
    numbered = [f"{name},{lines[0]}", *(f"{i},{line}" for i, line in enumerate(lines[1:]))]
    indexed.write_text("\n".join(numbered))
    readers = {
        "features": lambda: load_tables(path, classes),
        "unlabelled": lambda: read_features(path),
        "classes": lambda: load_tables(path, classes),
        "words": lambda: read_descriptions(classes),
    }
    with pytest.raises(DataError, match=r"\.csv: column 1 of \d has no name.*index=False"):
        readers[which]()


def test_the_index_of_a_data_frame_in_parquet_is_refused(tmp_path, classes):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "f.parquet"
    table = {"a": FEATURES[:, 0], "label": LABELS}
    pq.write_table(pa.table({"__index_level_0__": FEATURES[:, 1], **table}), path)
    for read in (lambda: load_tables(path, classes), lambda: read_features(path)):
        with pytest.raises(DataError, match="column 1 of 3 has no name"):
            read()
    indexed = pa.table({"id": FEATURES[:, 1], **table})
    metadata = {"pandas": json.dumps({"index_columns": ["id"]})}
    pq.write_table(indexed.replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match="column 'id': expected a feature, got the index"):
        load_tables(path, classes)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_numbers_the_rows_is_refused(tmp_path, classes, kind):
    marked = [*FEATURES.T[:2], np.arange(5, 25)]
    path = tmp_path / f"f.{kind}"
    if kind == "csv":
        rows = [f"{NAMES[y]},{a},{b},{i}" for y, a, b, i in zip(LABELS, *marked, strict=True)]
        path.write_text("\n".join(["label,a,b,index", *rows]))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = dict(zip(["a", "b", "index"], marked, strict=True))
        pq.write_table(pa.table({"label": LABELS, **columns}), path)
    with pytest.raises(DataError, match=r"column 'index': .* row numbers from 5 to 24"):
        load_tables(path, classes)


def test_a_table_without_a_header_is_refused(tmp_path):
    (tmp_path / "f.csv").write_text("0.5,1,2\n0.1,3,4\n")
    with pytest.raises(DataError, match=r"column names in the first line.*0\.5, 1, 2"):
        read_features(tmp_path / "f.csv")
    (tmp_path / "f.csv").write_text("0,1,2\n0.5,1,2\n0.1,3,4\n")  # as pandas numbers columns
    assert read_features(tmp_path / "f.csv").shape == (2, 3)


@pytest.mark.parametrize("cell", ["1_000", "\u0661\u0662", "1,234", "1 000", "1,234,567", "0x1F"])
def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path, cell):
    (tmp_path / "f.csv").write_text(f'a,b\n1,2\n3,"{cell}"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3, column 'b': expected a number.* Write it like"):
        read_features(tmp_path / "f.csv")


@pytest.mark.parametrize(("mark", "suffix"), [(";", "csv"), ("\t", "csv"), ("\t", "tsv")])
def test_semicolons_and_tabs_separate_too(tmp_path, classes, mark, suffix):
    path = write_csv(tmp_path / "f.csv", [NAMES[y] for y in LABELS])
    expected = load_tables(path, classes)
    path.write_text(path.read_text().replace(",", mark).replace(".", ","))
    classes.write_text(classes.read_text().replace(",", mark))
    other = classes.rename(classes.with_suffix(f".{suffix}"))
    assert load_tables(path, other).sha256 == expected.sha256


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_objects_among_labels_are_refused_with_the_remedy(tmp_path, classes, kind):
    labels = np.array([NAMES[y] for y in LABELS], dtype=object)
    files = {"features_file": tmp_path / f"f.{kind}"}
    if kind == "npz":
        np.savez(tmp_path / "f.npz", features=FEATURES, labels=labels)
    else:
        np.save(tmp_path / "f.npy", FEATURES)
        np.save(tmp_path / "labels.npy", labels)
        files["labels_file"] = tmp_path / "labels.npy"
    with pytest.raises(DataError, match=r"Python objects.*never unpickled.*astype\(str\)"):
        load_tables(**files, classes_file=classes)


# --- numbers that stand for a missing value -------------------------------------------------------


def test_minus_one_in_the_classes_is_warned_of_and_can_be_missing(tmp_path, classes, caplog):
    path = write_csv(tmp_path / "f.csv", [NAMES[y] for y in LABELS])
    classes.write_text(classes.read_text().replace("whale,2,5", "whale,2,-1"))
    load_tables(path, classes)
    assert "-1 in 1 values, of blue whale, is the only negative number" in caplog.text
    caplog.clear()
    data = load_tables(path, classes, missing=-1)
    assert not caplog.records
    assert data.descriptors[:, 1].tolist() == [1, 2, 7.5, 10, 17]
    assert "1 of 10 descriptor values are missing (-1)" in " ".join(data.provenance.notes)
    assert data.provenance.sources["descriptors"]["missing"] == -1
    classes.write_text(classes.read_text().replace("whale,2,", "whale,-1,"))
    with pytest.raises(DataError, match="all values of class 'blue whale' are missing"):
        load_tables(path, classes, missing=-1)
