"""Each check finds what was put wrong, says where, and is silent about what is right."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mlis import check
from mlis.checks import rows
from mlis.checks.classes import class_risk
from mlis.checks.findings import REMEDIES, Finding, Report
from mlis.data.dataset import GZSLDataset, Provenance
from mlis.data.io.folder import load_folder, save_dataset
from mlis.errors import DataError

CLASSES, UNSEEN, EACH, SIZE = 14, 3, 20, 24
NAMES = tuple(f"kind {i}" for i in range(CLASSES))


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and descriptors of a clean dataset: classes lie well apart."""
    rng = np.random.default_rng(seed)
    descriptors = rng.random((CLASSES, 8))
    labels = np.repeat(np.arange(CLASSES), EACH)
    features = 4 * descriptors[labels] @ rng.standard_normal((8, SIZE))
    return features + rng.standard_normal(features.shape), labels, descriptors


def dataset(features, labels, descriptors, columns=(), **options) -> GZSLDataset:
    sources = {"descriptors": {"columns": list(columns)}} if columns else {}
    return GZSLDataset.from_arrays(
        np.asarray(features, dtype=np.float32),
        labels,
        descriptors,
        class_names=NAMES,
        unseen_classes=NAMES[-UNSEEN:],
        provenance=Provenance("made", sources=sources),
        **options,
    )


def test_clean_data_have_no_finding_but_classes_at_risk():
    report = check(dataset(*made()))
    assert set(report.counts) <= {"likely-to-fail"}
    assert report.notes == ()


# --- photographs ----------------------------------------------------------------------------------


def test_nearly_equal_rows_across_the_split_and_under_two_labels():
    features, labels, descriptors = made()
    clean = dataset(features, labels, descriptors)
    train, test = clean.split.trainval, clean.split.test_seen
    features[test[0]] = features[train[0]] * 1.001
    a, b = train[5], train[labels[train] != labels[train[5]]][3]
    features[b] = features[a] + 1e-3
    report = check(replace(clean, features=features.astype(np.float32)))
    (across,) = report.of_check("test-duplicates")
    assert across.rows == (test[0], train[0])
    assert across.classes == tuple(dict.fromkeys((NAMES[labels[test[0]]], NAMES[labels[train[0]]])))
    (conflict,) = report.of_check("label-conflicts")
    assert set(conflict.rows) == {a, b}
    assert set(conflict.classes) == {NAMES[labels[a]], NAMES[labels[b]]}
    assert conflict.value > 0.9


def test_data_in_which_every_photograph_is_there_twice():
    features, labels, descriptors = made()
    twice = np.tile(features, (2, 1))
    report = check(dataset(twice, np.tile(labels, 2), descriptors))
    assert report.counts["test-duplicates"] > 20


def test_equal_rows_of_one_class_in_training_are_no_finding():
    features, labels, descriptors = made()
    clean = dataset(features, labels, descriptors)
    mine = clean.split.trainval[labels[clean.split.trainval] == 0]
    features[mine[1]] = features[mine[0]]
    report = check(replace(clean, features=features.astype(np.float32)))
    assert not {"test-duplicates", "label-conflicts"} & set(report.counts)


def test_of_many_rows_a_stated_sample_of_each_class_is_compared(monkeypatch):
    data = dataset(*made())
    monkeypatch.setattr(rows, "COMPARED", 100)
    report = check(data)
    used = len(data.labels)
    assert f"98 of {used} rows were compared, at most 7 of each class" in report.notes[0]


def test_many_features_are_projected(monkeypatch):
    features, labels, descriptors = made()
    clean = dataset(features, labels, descriptors)
    features[clean.split.test_seen[0]] = features[clean.split.trainval[0]]
    data = replace(clean, features=features.astype(np.float32))
    monkeypatch.setattr(rows, "_PROJECTED", 16)
    monkeypatch.setattr(rows, "_REGRESSED", 16)
    report = check(data)
    assert (clean.split.test_seen[0], clean.split.trainval[0]) in [
        one.rows for one in report.of_check("test-duplicates")
    ]


def test_exchanged_labels_are_found():
    features, labels, descriptors = made()
    train = dataset(features, labels, descriptors).split.trainval
    rng = np.random.default_rng(1)
    flipped = rng.choice(train, 6, replace=False)
    wrong = labels.copy()
    wrong[flipped] = (labels[flipped] + 3) % (CLASSES - UNSEEN)
    clean = dataset(features, labels, descriptors)
    none = np.empty(0, dtype=np.int64)
    split = replace(clean.split, train=none, val_seen=none, val_unseen=none)
    report = check(replace(clean, labels=wrong, split=split))
    found = report.of_check("mislabelled")
    assert {one.rows[0] for one in found} == set(flipped.tolist())
    for one in found:
        row = one.rows[0]
        assert one.classes == (NAMES[wrong[row]], NAMES[labels[row]])


def test_left_out_predictions_are_those_of_regressions_without_the_row(monkeypatch):
    """Every row is reported at a threshold below all margins, with the margin by brute force."""
    features, labels, descriptors = made()
    data = dataset(features, labels, descriptors)
    monkeypatch.setattr(rows, "MARGIN", -10.0)
    statistics = rows.RowStatistics.of(data)
    found = {one.rows[0]: one.value for one in rows.mislabelled(data, statistics)}
    train, n = data.split.trainval, len(data.split.trainval)
    assert set(found) == set(train.tolist())
    z = (data.features[train] - statistics.mean) * statistics.scale
    y = (labels[train][:, None] == data.seen_classes).astype(float)
    for i in (0, 50, n - 1):
        kept = np.arange(n) != i
        # an unpenalised intercept: a column of ones, and a penalty on the others alone
        x = np.hstack([z[kept], np.ones((n - 1, 1))])
        penalty = np.diag([0.3 * n] * SIZE + [0.0])
        weights = np.linalg.solve(x.T @ x + penalty, x.T @ y[kept])
        scores = np.append(z[i], 1) @ weights
        own = y[i].argmax()
        margin = np.delete(scores, own).max() - scores[own]
        assert found[int(train[i])] == pytest.approx(margin, abs=1e-4)


def test_a_memory_mapped_dataset_gives_the_same_report(tmp_path):
    data = dataset(*made())
    save_dataset(data, tmp_path)
    assert check(load_folder(tmp_path)).to_dict() == check(data).to_dict()


# --- classes --------------------------------------------------------------------------------------


def test_classes_with_few_rows():
    features, labels, descriptors = made()
    keep = (labels != 2) | (np.arange(len(labels)) % EACH < 3)
    report = check(dataset(features[keep], labels[keep], descriptors, test_fraction=0))
    (one,) = report.of_check("few-rows")
    assert one.classes == ("kind 2",)
    assert "3 training photographs" in one.message


def test_classes_described_almost_alike_even_where_all_share_most():
    features, labels, descriptors = made()
    descriptors[12] = descriptors[4] + 0.01
    far = descriptors + 100  # plain cosines of all pairs are above 0.999
    for vectors in (descriptors, far):
        found = check(dataset(features, labels, vectors)).of_check("alike")
        assert [one.classes for one in found] == [("kind 4", "kind 12")]


def test_a_descriptor_that_is_the_mean_of_all_says_little():
    features, labels, descriptors = made()
    descriptors[7] = descriptors[:7].mean(axis=0)
    (one,) = check(dataset(features, labels, descriptors)).of_check("says-little")
    assert one.classes == ("kind 7",)


def test_columns_constant_among_seen_classes_and_columns_without_information():
    features, labels, descriptors = made()
    rng = np.random.default_rng(3)
    constant = np.where(np.arange(CLASSES) < CLASSES - UNSEEN, 0.25, 0.75)
    noise = rng.random((CLASSES, 30))
    names = [f"a{i}" for i in range(8)] + ["constant"] + [f"noise {i}" for i in range(30)]
    vectors = np.hstack([descriptors, constant[:, None], noise])
    report = check(dataset(features, labels, vectors, names))
    (one,) = report.of_check("constant-column")
    assert one.column == 8
    assert "'constant' is 0.25" in one.message
    silent = [one.column for one in report.of_check("uninformative-column")]
    assert len(silent) >= 15
    assert min(silent) >= 9
    anonymous = check(dataset(features, labels, vectors))
    assert "uninformative-column" not in anonymous.counts
    assert "'column 8'" in anonymous.of_check("constant-column")[0].message


def test_risk_is_higher_far_from_seen_descriptors_and_near_another_class():
    rng = np.random.default_rng(0)
    descriptors = rng.random((12, 5))
    look = rng.standard_normal((5, 9))
    seen = np.arange(12) < 9
    descriptors[9] = descriptors[:3].mean(axis=0)  # among seen classes
    descriptors[10] = [5, 0, 0, 0, 0]  # unlike any
    descriptors[11] = descriptors[4] + 0.02  # nearly a seen class
    found = class_risk(descriptors, descriptors @ look, seen)
    assert found.classes.tolist() == [9, 10, 11]
    assert found.nearest[2] == 4
    assert found.risk[0] < min(found.risk[1:])
    assert found.of_seen.shape == (9,)
    unread = np.where(seen[:, None], descriptors @ look, np.nan)  # means of unseen classes
    np.testing.assert_array_equal(class_risk(descriptors, unread, seen).risk, found.risk)


def test_risk_of_a_left_out_seen_class_is_that_of_the_class_left_out():
    rng = np.random.default_rng(1)
    descriptors = rng.random((10, 4))
    means = descriptors @ rng.standard_normal((4, 6)) + 0.1 * rng.random((10, 6))
    every = class_risk(descriptors, means, np.ones(10, dtype=bool))
    assert every.risk.shape == (0,)
    assert (every.of_seen > 0).all()
    assert every.beyond.shape == (0,)


def test_identical_descriptors_and_a_single_unseen_class_are_no_traceback():
    features, labels, descriptors = made()
    descriptors[:] = descriptors[:1]
    descriptors[0, 0] += 1
    report = check(dataset(features, labels, descriptors))
    assert json.dumps(report.to_dict(), allow_nan=False)


# --- the report -----------------------------------------------------------------------------------


def test_findings_are_ranked_capped_counted_and_say_what_to_do():
    many = [Finding("alike", f"{i}", i / 1000, classes=("a", "b")) for i in range(450)]
    report = Report.of("x", [*many, Finding("mislabelled", "m", 0.5, rows=(3,))], ["n"])
    assert list(report.counts) == ["mislabelled", "alike"]
    assert report.counts["alike"] == 450
    alike = report.of_check("alike")
    assert len(alike) == 200
    assert alike[0].message == "449"
    written = json.loads(json.dumps(report.to_dict(lambda row: f"{row}.jpg"), allow_nan=False))
    assert written["findings"][0]["photographs"] == ["3.jpg"]
    assert written["notes"] == ["n"]
    assert all(one["remedy"] == REMEDIES[one["check"]] for one in written["findings"])


def test_only_datasets_and_recognizers_are_checked():
    with pytest.raises(DataError, match="got ndarray"):
        check(np.zeros(3))


# --- sentences ------------------------------------------------------------------------------------

TEXT = "A red bird with a yellow beak and a long tail."


def told(sentences: dict[str, str]) -> Report:
    data = dataset(*made())
    texts = {name: [text] for name, text in sentences.items()}
    provenance = Provenance("made", sources={"descriptors": {"texts": texts}})
    return check(replace(data, provenance=provenance))


def test_classes_described_without_words_for_what_can_be_seen():
    said = dict.fromkeys(NAMES, TEXT)
    assert "no-visual-words" not in told(said).counts
    linnaeus = "A very popular plant, first described by Linnaeus in 1753."
    report = told(said | {"kind 3": linnaeus, "kind 12": "a flower"})
    found = report.of_check("no-visual-words")
    assert {one.classes for one in found} == {("kind 3",), ("kind 12",)}
    assert "Linnaeus" in found[0].message


def test_texts_that_all_lack_such_words_are_noted_once():
    report = told(dict.fromkeys(NAMES, "ein roter Vogel mit gelbem Schnabel"))
    assert "no-visual-words" not in report.counts
    assert "14 of 14 classes" in report.notes[0]


def test_columns_of_attributes_after_an_embedding_have_their_names():
    features, labels, descriptors = made()
    noise = np.random.default_rng(3).random((CLASSES, 30))
    same = np.ones((CLASSES, 1))
    vectors = np.hstack([descriptors, same, noise, same])
    names = [f"noise {i}" for i in range(30)] + ["same"]
    attributes = [{"name": name} for name in names]
    made_of = {"descriptors": {"text": {"name": "words"}, "attributes": attributes}}
    data = replace(
        dataset(features, labels, vectors), provenance=Provenance("made", sources=made_of)
    )
    report = check(data)
    assert min(one.column for one in report.of_check("uninformative-column")) >= 9
    said = [one.message.split("' is")[0] for one in report.of_check("constant-column")]
    assert said == ["'column 8", "'same"]
