"""Splits by seed, and the validation split of the benchmarks' row lists."""

import numpy as np
import pytest

from mlis.data.splits import Split, add_validation, hold_out, split_rows
from mlis.errors import DataError

LABELS = np.repeat(np.arange(10), 10)
TRAINVAL = np.flatnonzero((LABELS < 8) & (np.arange(100) % 10 < 8))  # 2 rows of each for testing
BASE = Split(
    TRAINVAL, np.setdiff1d(np.flatnonzero(LABELS < 8), TRAINVAL), np.flatnonzero(LABELS >= 8)
)


def classes(rows: np.ndarray) -> list[int]:
    return np.unique(LABELS[rows]).tolist()


def test_validation_classes_come_from_the_files_and_its_rows_from_trainval_alone():
    train_loc = np.flatnonzero(LABELS < 6)  # contains test_seen rows, as the published files do
    val_loc = np.flatnonzero((LABELS >= 6) & (LABELS < 8))
    split, note = add_validation(BASE, LABELS, train_loc=train_loc, val_loc=val_loc)
    assert classes(split.train) == classes(split.val_seen) == [0, 1, 2, 3, 4, 5]
    assert classes(split.val_unseen) == [6, 7]
    rows = np.concatenate([split.train, split.val_seen, split.val_unseen])
    assert sorted(rows.tolist()) == TRAINVAL.tolist()
    assert len(split.val_seen) == 6 * 2  # a fifth of 8, rounded, of each class
    assert note.startswith("validation split from train_loc/val_loc")


@pytest.mark.parametrize(
    ("train_loc", "val_loc", "reason"),
    [
        (None, None, "absent"),
        (TRAINVAL, None, "absent"),
        (TRAINVAL[::2], TRAINVAL[1::2], "share classes"),
        (TRAINVAL, np.array([], dtype=int), "too few classes"),
        (BASE.test_seen, BASE.test_unseen, "too few classes"),
        (np.flatnonzero(LABELS == 0), np.flatnonzero(LABELS == 1), "too few classes"),
    ],
)
def test_useless_lists_are_replaced_by_a_seeded_choice_that_says_so(train_loc, val_loc, reason):
    split, note = add_validation(BASE, LABELS, train_loc=train_loc, val_loc=val_loc, seed=3)
    assert "drawn with seed 3" in note
    assert reason in note
    assert len(classes(split.val_unseen)) == 2  # a fifth of eight, rounded
    assert set(classes(split.train)) == set(range(8)) - set(classes(split.val_unseen))
    rows = np.concatenate([split.train, split.val_seen, split.val_unseen])
    assert sorted(rows.tolist()) == TRAINVAL.tolist()


@pytest.mark.parametrize(("size", "held"), [(1, 0), (2, 1), (3, 1), (5, 1), (8, 2), (10, 2)])
def test_holding_out_never_empties_a_class(size, held):
    labels = np.zeros(size, dtype=int)
    kept, out = hold_out(np.arange(size), labels, 0.2, np.random.default_rng(0))
    assert len(out) == held
    assert len(kept) == size - held
    assert not np.intersect1d(kept, out).size


def test_rows_of_unseen_classes_are_for_testing_and_each_seen_class_is_in_both_parts():
    split = split_rows(LABELS, np.array([2, 5]), test_fraction=0.3, seed=0)
    assert classes(split.test_unseen) == [2, 5]
    assert classes(split.trainval) == classes(split.test_seen) == [0, 1, 3, 4, 6, 7, 8, 9]
    assert len(split.test_seen) == 8 * 3


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
def test_the_test_fraction_has_bounds(fraction):
    with pytest.raises(DataError, match=f"test_fraction: expected .* {fraction}"):
        split_rows(LABELS, np.array([1]), test_fraction=fraction, seed=0)
