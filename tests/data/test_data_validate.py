"""Every fault of a dataset gives one error that says where it is and what to do."""

from dataclasses import replace

import numpy as np
import pytest

from mlis.data import GZSLDataset, Provenance, Split
from mlis.data.out_of_core.arrays import find_not_finite
from mlis.errors import DataError

# 6 classes of 5 rows; class 5 is unseen; row 4 of each seen class is for testing
ROWS = np.arange(30).reshape(6, 5)
GOOD = {
    "features": np.random.default_rng(0).random((30, 4), dtype=np.float32),
    "labels": np.repeat(np.arange(6), 5),
    "descriptors": np.random.default_rng(1).random((6, 3), dtype=np.float32),
    "class_names": ("ant", "bee", "cat", "dog", "elk", "fox"),
    "split": Split(
        trainval=ROWS[:5, :4].ravel(),
        test_seen=ROWS[:5, 4],
        test_unseen=ROWS[5],
        train=ROWS[:4, :3].ravel(),
        val_seen=ROWS[:4, 3],
        val_unseen=ROWS[4, :4],
    ),
    "provenance": Provenance("zoo", features="f.mat", descriptors="s.mat:att"),
}


def with_value(field: str, index, value) -> dict:
    array = GOOD[field].copy()
    array[index] = value
    return {field: array}


def with_split(**parts) -> dict:
    return {"split": replace(GOOD["split"], **parts)}


def names(index: int, name) -> dict:
    changed = list(GOOD["class_names"])
    changed[index] = name
    return {"class_names": tuple(changed)}


FAULTS = {
    "features no array": ({"features": [[1.0]]}, ["features", "got list", "list"]),
    "features float64": (
        {"features": GOOD["features"].astype(float)},
        ["zoo (f.mat): features", "float32", "float64", "from_arrays"],
    ),
    "features column-major": ({"features": np.asfortranarray(GOOD["features"])}, ["C order"]),
    "features empty": ({"features": np.empty((0, 4), np.float32)}, ["empty array", "(0, 4)"]),
    "labels int32": ({"labels": GOOD["labels"].astype(np.int32)}, ["labels", "int64", "int32"]),
    "lengths": (
        {"labels": GOOD["labels"][:-1]},
        ["got 30", "29 rows", "one label for each"],
    ),
    "features transposed": (
        {"features": GOOD["features"].T.copy()},
        ["got 4", "30 rows", "transpose"],
    ),
    "fewer names": (
        {"class_names": ("ant",)},
        ["class_names", "got 1", "6 names"],
    ),
    "label too large": (
        with_value("labels", 7, 6),
        [
            "zoo (f.mat): labels: row 7: expected a class with a descriptor, 0 to 5, got 6",
            "0 to 5",
            "with a descriptor",
        ],
    ),
    "label negative": (
        with_value("labels", 7, -1),
        ["row 7: expected a class", "got -1"],
    ),
    "name twice": (names(4, "bee"), ["zoo (s.mat): class_names", "'bee'", "[1, 4]", "unique"]),
    "name empty": (names(4, " "), ["name 4: expected a non-empty string, got ' '"]),
    "name no text": (names(4, 3), ["name 4: expected a non-empty string, got 3"]),
    "nan": (
        with_value("features", (17, 2), np.nan),
        ["f.mat", "row 17, column 2", "got nan"],
    ),
    "inf": (
        with_value("features", (29, 0), np.inf),
        ["row 29, column 0", "got inf", "65504"],
    ),
    "all equal": ({"features": np.ones((30, 4), np.float32)}, ["all 30 rows are equal"]),
    "descriptor nan": (
        with_value("descriptors", (2, 1), np.nan),
        [
            "zoo (s.mat:att): descriptors",
            "row 2",
            "'cat'",
            "column 1",
            "got nan",
        ],
    ),
    "descriptor zero": (with_value("descriptors", 3, 0), ["row 3", "'dog'", "got 0 in all 3"]),
    "descriptor constant": (with_value("descriptors", 3, 0.5), ["'dog'", "got 0.5 in all 3"]),
    "descriptors equal": (
        {"descriptors": np.tile(np.array([1, 2, 3], np.float32), (6, 1))},
        ["all 6 rows are equal"],
    ),
    "row too large": (
        with_split(test_unseen=[25, 30]),
        [
            "zoo (s.mat): split.test_unseen",
            "expected rows from 0 to 29, got 30",
            "0 to 29",
            "counted from 1",
        ],
    ),
    "row negative": (with_split(trainval=[-1, 0]), ["split.trainval", "got -1"]),
    "row twice": (with_split(trainval=[0, 3, 3]), ["split.trainval", "row 3 is listed twice"]),
    "trained and tested": (
        with_split(test_seen=[0, 1, 9]),
        ["split.test_seen", "2 rows are also in split.trainval", "the first is row 0"],
    ),
    "tested twice": (
        with_split(test_unseen=[4, 25]),
        ["split.test_unseen", "1 rows are also in split.test_seen, the first is row 4"],
    ),
    "no training": (with_split(trainval=[]), ["split.trainval", "expected rows to train on"]),
    "seen and unseen": (
        with_split(test_seen=[4, 25], test_unseen=[26, 27]),
        ["split.test_seen", "row 25", "'fox'", "also has test_unseen rows", "seen or unseen"],
    ),
    "unseen but trained": (
        with_split(test_seen=[9], test_unseen=[4, 25]),
        [
            "split.test_unseen",
            "row 4",
            "'ant'",
            "is unseen, but has rows in split.trainval.",
        ],
    ),
    "seen but untrained": (
        with_split(trainval=ROWS[:4, :4].ravel(), val_unseen=[], train=[], val_seen=[]),
        [
            "split.test_seen",
            "row 24",
            "'elk'",
            "is seen, but has no rows in split.trainval.",
        ],
    ),
    "validation outside": (
        with_split(train=[0, 1, 4]),
        ["split.train", "expected rows of split.trainval, got 1 others, the first is row 4"],
    ),
    "validation overlaps": (with_split(val_seen=[0]), ["split.val_seen: row 0", "split.train"]),
    "validation row twice": (with_split(val_seen=[3, 3]), ["row 3 is listed twice"]),
    "validation half": (with_split(train=[], val_seen=[]), ["needs both train and val_unseen"]),
    "validation class trained": (
        with_split(train=[0, 20], val_unseen=[21, 22], val_seen=[]),
        ["split.val_unseen", "'elk'", "is unseen, but has rows in split.train."],
    ),
    "validation class untrained": (
        with_split(train=[0, 1], val_seen=[5]),
        ["split.val_seen", "row 5", "'bee'", "is seen, but has no rows in split.train."],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_says_where_it_is_and_what_to_do(fault):
    change, parts = FAULTS[fault]
    with pytest.raises(DataError) as caught:
        GZSLDataset(**{**GOOD, **change})
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert message.startswith("zoo")
    assert "\n" not in message
    assert message.endswith((".", ")"))


def test_a_split_of_other_than_row_numbers_is_refused():
    with pytest.raises(DataError, match=r"split\.trainval: expected .* float64"):
        Split(np.array([0.0, 1.0]))
    with pytest.raises(DataError, match=r"split\.test_seen: expected .* \(2, 2\)"):
        Split(np.arange(3), test_seen=np.eye(2, dtype=int))


def test_a_single_attribute_is_no_constant_descriptor():
    data = GZSLDataset.from_arrays(
        np.random.default_rng(0).random((4, 2)), [0, 0, 1, 1], [[1], [2]]
    )
    assert data.descriptors.shape == (2, 1)


def test_a_fault_in_a_later_piece_of_a_large_array_is_found(monkeypatch):
    monkeypatch.setattr("mlis.data.out_of_core.arrays.CHUNK_BYTES", 64)
    array = np.zeros((1000, 5), np.float32)
    assert find_not_finite(array) is None
    array[777, 3] = -np.inf
    assert find_not_finite(array) == (777, 3)
