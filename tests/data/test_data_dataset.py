"""The dataset type: making one, its views, its hash."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlis.data import GZSLDataset, Split
from mlis.errors import DataError


def make(seed: int = 0, classes: int = 6, rows: int = 10, **options) -> GZSLDataset:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), rows))
    features = rng.random((len(labels), 4), dtype=np.float32)
    features[:, 0] = np.arange(len(labels))  # column 0 tells which row it was
    return GZSLDataset.from_arrays(features, labels, rng.random((classes, 3)), **options)


def test_from_arrays_converts_types_and_makes_every_missing_part():
    data = GZSLDataset.from_arrays(
        np.arange(80).reshape(20, 4).tolist(), np.repeat([0, 1, 2, 3, 4], 4), np.eye(5)
    )
    assert data.features.dtype == np.float32
    assert data.labels.dtype == np.int64
    assert data.descriptors.dtype == np.float32
    assert data.class_names == ("class_000", "class_001", "class_002", "class_003", "class_004")
    assert len(data.unseen_classes) == 1
    assert len(data.seen_classes) == 4
    assert data.split.has_validation
    assert "unseen classes chosen by seed 0" in data.provenance.notes


def test_classes_without_rows_are_the_unseen_ones_unless_others_are_named():
    descriptors, features = np.eye(4), np.random.default_rng(0).random((12, 3))
    labels = np.repeat([0, 1, 3], 4)
    assert GZSLDataset.from_arrays(features, labels, descriptors).unseen_classes.tolist() == [2]
    named = GZSLDataset.from_arrays(features, labels, descriptors, unseen_classes=[2, 3])
    assert named.unseen_classes.tolist() == [2, 3]
    assert named.split.test_unseen.tolist() == [8, 9, 10, 11]


def test_no_unseen_class_and_no_test_row_is_an_ordinary_classifier():
    data = make(unseen_classes=[], test_fraction=0)
    assert data.seen_mask.all()
    assert len(data.for_training().labels) == 60
    assert not len(data.for_testing().labels)


def test_labels_and_unseen_classes_may_be_names():
    names = ("cat", "dog", "fox", "owl")
    labels = np.repeat(["owl", "cat", "dog"], 4)
    data = GZSLDataset.from_arrays(
        np.random.default_rng(0).random((12, 3)),
        labels,
        np.eye(4),
        class_names=names,
        unseen_classes=["fox", "dog"],
    )
    assert [data.class_names[i] for i in data.labels] == labels.tolist()
    assert data.unseen_classes.tolist() == [1, 2]


def test_float32_features_are_not_copied_and_memory_maps_stay_memory_maps(tmp_path):
    features = np.random.default_rng(0).random((12, 3), dtype=np.float32)
    labels = np.repeat([0, 1, 2], 4)
    assert GZSLDataset.from_arrays(features, labels, np.eye(3)).features is features
    np.save(tmp_path / "f.npy", features)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    data = GZSLDataset.from_arrays(mapped, labels, np.eye(3))
    assert data.features is mapped
    assert type(data.for_training().features) is np.ndarray


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([[1.0, 2.0], [3.0]], "features: expected rows of equal length"),
        ([1.0, 2.0], r"features: expected a 2-d array .* \(2,\) of float64"),
        ([[1j, 2], [3, 4]], "real numbers.* complex128"),
        ([["a"], ["b"]], "real numbers"),
        ([[None], [1.0]], "real numbers.* object"),
        (
            np.ma.masked_equal([[1.0], [2.0]], 2.0),
            "features: .* got a masked array",
        ),
    ],
)
def test_features_that_are_no_matrix_of_numbers_are_refused(features, message):
    with pytest.raises(DataError, match=message):
        GZSLDataset.from_arrays(features, [0, 1], np.eye(2))


def test_the_training_view_holds_no_test_row():
    data = make(unseen_classes=[1, 4])
    training = data.for_training()
    kept = set(training.features[:, 0].astype(int))
    tested = {*data.split.test_seen.tolist(), *data.split.test_unseen.tolist()}
    assert kept == set(data.split.trainval.tolist())
    assert not kept & tested
    assert kept | tested == set(range(60))
    assert not np.shares_memory(training.features, data.features)
    assert training.seen_mask[training.labels].all()
    assert training.descriptors.shape == data.descriptors.shape


def test_validation_views_are_made_of_training_rows_with_classes_renumbered():
    data = make(classes=10, unseen_classes=[0, 9])
    training, testing = data.for_validation()
    rows = np.concatenate([training.features[:, 0], testing.features[:, 0]]).astype(int)
    assert set(rows.tolist()) <= set(data.split.trainval.tolist())
    assert len(set(rows.tolist())) == len(rows)
    for view in (training, testing):
        original = training.class_ids[view.labels]
        np.testing.assert_array_equal(original, data.labels[view.features[:, 0].astype(int)])
    np.testing.assert_array_equal(training.descriptors, data.descriptors[training.class_ids])
    assert training.class_names == tuple(data.class_names[i] for i in training.class_ids)
    np.testing.assert_array_equal(training.seen_mask, testing.seen_mask)
    assert training.seen_mask[training.labels].all()
    assert not np.isin(training.class_ids, [0, 9]).any()
    assert set(np.flatnonzero(~training.seen_mask)) <= set(testing.labels.tolist())


def test_the_hash_covers_content_and_not_provenance(tmp_path):
    data = make()
    np.save(tmp_path / "f.npy", data.features)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert replace(data, features=mapped).sha256 == data.sha256
    assert replace(data, provenance=replace(data.provenance, name="x")).sha256 == data.sha256
    changed = data.features.copy()
    changed[59, 3] += 1e-3
    swapped = data.descriptors[::-1].copy()
    others = [
        replace(data, features=changed),
        replace(data, descriptors=swapped),
        replace(data, class_names=tuple("abcdef")),
        replace(data, split=Split(data.split.trainval[1:])),
    ]
    assert len({data.sha256, *(other.sha256 for other in others)}) == 5


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any),
    seed=st.integers(0, 99),
    test_fraction=st.sampled_from([0.0, 0.2, 0.5, 0.99]),
)
def test_any_class_sizes_give_a_valid_dataset(counts, seed, test_fraction):
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.random.default_rng(seed).random((len(labels), 2))
    names = [f"kind {i}" for i in range(len(counts))]
    data = GZSLDataset.from_arrays(
        features,
        [names[label] for label in labels],
        np.eye(len(counts)),
        class_names=names,
        seed=seed,
        test_fraction=test_fraction,
    )
    split = data.split
    parts = np.concatenate([split.trainval, split.test_seen, split.test_unseen])
    assert sorted(parts.tolist()) == list(range(len(labels)))
    held = np.unique(data.labels[split.test_seen])
    several = [c for c in data.seen_classes if counts[c] > 1]
    assert held.tolist() == (several if test_fraction else [])
    if split.has_validation:
        training, testing = data.for_validation()
        in_play = np.unique(np.concatenate([training.labels, testing.labels]))
        assert len(in_play) == len(training.class_names)
