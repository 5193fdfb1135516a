"""H@val: the constant comes from validation classes, the test rows are touched once, at the end."""

import functools
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlis.data.dataset import GZSLDataset
from mlis.data.splits import Split, add_validation, validation_splits
from mlis.errors import DataError, FeatureRangeWarning
from mlis.evaluation import (
    best_calibration,
    best_temperature,
    common_constant,
    evaluate,
    seen_unseen_curve,
)
from mlis.methods.auto import Auto
from mlis.methods.eszsl import ESZSL
from mlis.methods.mlis import MLIS
from mlis.model.calibrate import calibrate
from mlis.pipeline import fit
from mlis.protocol import evaluate_on_test, folds
from mlis.provenance import PROTOCOL, provenance
from mlis.training.callbacks import Callback
from simulated import linear_world, small, tiny

CALIBRATED = {"classification": {"calibration": "validation"}}


@pytest.fixture(scope="module")
def data() -> GZSLDataset:
    return linear_world(classes=16, unseen=4, per_class=10, noise=0.15)


def ridge(**sections):
    quick = {"generation": {"generator": "ridge"}, "refinement": {"hidden": 32, "steps": 40}}
    return small(**{**quick, **CALIBRATED, **sections})


def harmonic(scores: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> float:
    """H in per cent, class by class."""
    predicted = scores.argmax(1)
    accuracy = {c: (predicted[labels == c] == c).mean() for c in np.unique(labels)}
    S = np.mean([value for c, value in accuracy.items() if seen[c]])
    U = np.mean([value for c, value in accuracy.items() if not seen[c]])
    return 0.0 if U + S == 0 else 200 * U * S / (U + S)


def validated(fold: GZSLDataset) -> Callable[[float], float]:
    """H on what a validation split holds out, by the constant."""
    training, held_out = fold.for_validation()
    scores = fit(training, ridge(), seed=1, device="cpu").recognizer.scores(held_out.features)
    seen = held_out.seen_mask
    return lambda constant: harmonic(scores - constant * seen, held_out.labels, seen)


def with_ten_held_out(data: GZSLDataset) -> GZSLDataset:
    """As a benchmark's official validation split does."""
    labels, trainval = data.labels, data.split.trainval
    unseen = np.isin(labels[trainval], data.seen_classes[-10:])
    seen = trainval[~unseen]
    parts = {"train": seen[::2], "val_seen": seen[1::2], "val_unseen": trainval[unseen]}
    return replace(data, split=replace(data.split, **parts))


def test_the_constant_is_the_best_on_the_validation_classes():
    """Ten of them are enough: one more training, and its best constant itself."""
    data = with_ten_held_out(linear_world(classes=24, unseen=4, per_class=10, noise=0.15))
    assert len(validation_splits(data.split, data.labels)) == 1
    trained = MLIS(ridge()).choose(data, seed=1, device="cpu")
    training, held_out = data.for_validation()
    scores = fit(training, ridge(), seed=1, device="cpu").recognizer.scores(held_out.features)
    chosen, H = trained.recognizer.calibration, validated(data)
    span = np.abs(scores).max() * 2
    assert chosen == best_calibration(scores, held_out.labels, held_out.seen_mask)
    assert chosen != 0
    calibrated = scores - np.float32(chosen) * held_out.seen_mask
    suited = best_temperature(calibrated, held_out.labels, held_out.seen_mask)
    assert trained.recognizer.temperature == pytest.approx(suited, rel=1e-6)
    assert H(chosen) == pytest.approx(max(H(c) for c in np.linspace(-span, span, 4001)), abs=1e-9)
    assert H(chosen) > H(0.0)  # in this case calibration is worth something
    assert trained.validation is not None
    assert pytest.approx(H(chosen)) == trained.validation.H
    assert not trained.validation.notes


def test_the_temperature_is_the_mean_over_all_folds():
    data, method = linear_world(classes=16, unseen=4, per_class=12, noise=1.5), ESZSL()
    trained = method.choose(data, device="cpu")
    suited: list[float] = []
    for fold in folds(data):
        training, rows = fold.for_validation()
        scores = trained.method.fit(training, device="cpu").recognizer.scores(rows.features)
        scores -= np.float32(trained.recognizer.calibration) * rows.seen_mask
        suited.append(best_temperature(scores, rows.labels, rows.seen_mask))
    assert len(suited) > 1
    assert trained.recognizer.temperature == pytest.approx(np.exp(np.mean(np.log(suited))))
    assert trained.recognizer.temperature != 1


@pytest.mark.slow
def test_few_held_out_classes_choose_together(data, caplog):
    """Each of two classes alone would choose what the other cannot support."""
    trained = MLIS(ridge()).choose(data, seed=1, device="cpu")
    splits = validation_splits(data.split, data.labels)
    curves = [validated(replace(data, split=split)) for split in splits]
    chosen = trained.recognizer.calibration
    candidates = np.append(np.linspace(-40, 40, 8001), chosen)
    H = np.array([[curve(c) for c in candidates] for curve in curves])
    best = H.mean(0).argmax()
    error = H[:, best].std(ddof=1) / np.sqrt(len(curves))
    supported = candidates[H.mean(0) >= H.mean(0)[best] - error - 1e-9]
    assert len(splits) == 5
    assert H.mean(0)[-1] >= H.mean(0)[best] - error - 1e-9
    assert abs(chosen) == pytest.approx(np.abs(supported).min(), abs=0.2)
    assert trained.validation is not None
    assert trained.validation.notes == ("calibration chosen on 5 splits that hold out 10 classes",)
    assert not caplog.records


def test_a_choice_of_very_few_classes_is_told(caplog):
    data = linear_world(classes=7, unseen=2, per_class=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatureRangeWarning)  # so few classes tell of little
        MLIS(ridge()).choose(data, seed=1, device="cpu")
    assert "chosen on 5 held-out classes alone (H" in caplog.text


def test_a_single_held_out_class_chooses_nothing():
    data = linear_world(classes=5, unseen=3, per_class=10)
    labels, trainval = data.labels, data.split.trainval
    first = trainval[labels[trainval] == 0]
    parts = {"train": first[::2], "val_seen": first[1::2]}
    parts["val_unseen"] = trainval[labels[trainval] == 1]
    few = replace(data, split=replace(data.split, **parts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatureRangeWarning)
        trained = MLIS(ridge()).choose(few, seed=1, device="cpu")
    assert len(validation_splits(few.split, labels)) == 1
    assert trained.recognizer.calibration == 0


@pytest.mark.parametrize(
    ("classes", "expected"), [(3, 3), (6, 5), (10, 5), (20, 3), (45, 2), (50, 1)]
)
def test_validation_splits_hold_out_other_classes_each_time(classes, expected):
    labels = np.repeat(np.arange(classes), 5)
    split, _ = add_validation(Split(trainval=np.arange(len(labels))), labels)
    splits = validation_splits(split, labels)
    held_out = [set(labels[one.val_unseen].tolist()) for one in splits]
    assert len(splits) == expected
    assert splits[0] is split
    assert len(set().union(*held_out)) == sum(map(len, held_out)) >= min(10, expected)
    for one in splits:
        parts = (one.train, one.val_seen, one.val_unseen)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), split.trainval)
        assert set(labels[one.val_seen]) == set(labels[one.train])


def test_the_recognizer_is_the_one_trained_on_all_training_rows(data):
    trained = MLIS(ridge()).choose(data, seed=1, device="cpu")
    plain = fit(data.for_training(), ridge(), seed=1, device="cpu").recognizer
    assert torch.equal(trained.recognizer.head.weight, plain.head.weight)
    assert trained.recognizer.class_names == data.class_names
    assert trained.seconds > 0
    plain.calibration = trained.recognizer.calibration
    np.testing.assert_array_equal(
        trained.recognizer.scores(data.features),
        plain.scores(data.features),
    )


UNHURRIED = functools.partial(Auto, budget=math.inf)


@pytest.mark.parametrize("method", [MLIS, ESZSL, UNHURRIED])
def test_a_seen_loss_is_kept_in_training_as_later(data, method):
    """Settings are chosen by the best H in any case, so that only the constant differs."""
    plain = method(ridge()).choose(data, seed=1, device="cpu").recognizer
    known = plain.metadata.tradeoff
    assert plain.calibration == known.best
    config = ridge(classification={"calibration": "seen-loss=5"})
    trained = method(config).choose(data, seed=1, device="cpu")
    found = trained.recognizer
    assert found.metadata.tradeoff == known
    assert found.calibration == calibrate(plain, "seen-loss=5").calibration
    assert known.at(found.calibration).S >= known.at(0).S - 5.001
    found.calibration = plain.calibration
    np.testing.assert_array_equal(found.scores(data.features), plain.scores(data.features))


@pytest.mark.parametrize("method", [ESZSL, UNHURRIED])
def test_a_given_constant_is_kept_where_settings_are_chosen(data, method):
    config = ridge(classification={"calibration": 0.125})
    found = method(config).choose(data, device="cpu").recognizer
    assert found.calibration == 0.125
    assert found.metadata.tradeoff is not None


@pytest.mark.parametrize("constant", [0.75, -2.0])
def test_a_given_constant_needs_no_second_training(data, constant):
    stages = []

    class Stages(Callback):
        def on_start(self, stage, step, total):
            stages.append(stage)

    config = ridge(classification={"calibration": constant})
    trained = MLIS(config).choose(data, device="cpu", callbacks=[Stages()])
    assert trained.recognizer.calibration == constant
    assert trained.validation is None
    assert stages == ["refinement"]


def test_each_training_has_its_own_callbacks(data):
    stages: dict[str, list[str]] = {"validation": [], "training": []}
    trained = []

    class Stages(Callback):
        def __init__(self, name: str):
            self.name = name

        def on_start(self, stage, step, total):
            stages[self.name].append(stage)

        def on_trained(self, method, done, total, seconds):
            trained.append((self.name, done, total))
            assert seconds > 0

    MLIS(small(**CALIBRATED)).choose(
        data,
        device="cpu",
        callbacks=[Stages("training")],
        validation_callbacks=[Stages("validation")],
    )
    assert stages == {key: ["generation", "refinement"] for key in stages}
    splits = len(folds(data))
    assert trained == [("validation", one, splits + 1) for one in range(1, splits + 1)]


def test_without_a_validation_split_nothing_is_chosen(caplog):
    whole = tiny()
    none = np.array([], dtype=np.int64)
    split = Split(
        whole.split.trainval, whole.split.test_seen, whole.split.test_unseen, none, none, none
    )
    alone = replace(whole, split=split)
    assert MLIS(ridge()).choose(alone, device="cpu").recognizer.calibration == 0
    assert "bring more classes" in caplog.text
    with pytest.raises(DataError, match="no validation split"):
        ESZSL().choose(alone, device="cpu")


def test_evaluate_on_test_measures_the_test_rows(data):
    recognizer = MLIS(ridge()).choose(data, seed=1, device="cpu").recognizer
    result = evaluate_on_test(recognizer, data)
    rows = np.concatenate([data.split.test_seen, data.split.test_unseen])
    scores = recognizer.scores(data.features[rows])
    expected = evaluate(scores, data.labels[rows], data.seen_mask, data.class_names)
    assert result.to_dict() == expected.to_dict()
    assert pytest.approx(harmonic(scores, data.labels[rows], data.seen_mask)) == result.H


def test_provenance_says_where_a_number_comes_from(data):
    config = ridge()
    facts = provenance(data, config, "cpu")
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["protocol"] == PROTOCOL == "H@val"
    assert facts["data_sha256"] == data.sha256
    assert facts["config_sha256"] == config.sha256
    assert facts["device"] == "cpu"
    assert facts["product_dtype"] == "float32"
    assert {"mlis", "python", "torch", "numpy"} <= facts["versions"].keys()


# --- any method, on several folds -----------------------------------------------------------------


def test_the_alternative_with_the_best_mean_over_the_folds_is_chosen(data, monkeypatch):
    monkeypatch.setattr("mlis.methods.eszsl.PENALTIES", (0.01, 1.0, 100.0))
    found = ESZSL().choose(data, seed=1, device="cpu")
    table = {}
    for one in ESZSL().alternatives():
        curves = []
        for fold in folds(data):
            training, held_out = fold.for_validation()
            scores = one.fit(training, seed=1, device="cpu").recognizer.scores(held_out.features)
            curves.append(seen_unseen_curve(scores, held_out.labels, held_out.seen_mask))
        constant = common_constant(curves)
        H = [curve.H[np.searchsorted(curve.knots, constant)] for curve in curves]
        table[one.gamma, one.lambda_] = (np.mean(H), constant)
    assert len(folds(data)) == 5
    chosen = table[found.method.gamma, found.method.lambda_]
    assert chosen[0] == pytest.approx(max(mean for mean, _ in table.values()))
    assert found.recognizer.calibration == pytest.approx(chosen[1])
    assert len({mean for mean, _ in table.values()}) > 3  # there was something to choose


@pytest.mark.parametrize(("classes", "count"), [(4, 5), (10, 3), (60, 4)])
def test_more_folds_are_given_where_they_are_asked_for(classes, count):
    labels = np.repeat(np.arange(classes), 5)
    split, _ = add_validation(Split(trainval=np.arange(len(labels))), labels)
    splits = validation_splits(split, labels, count)
    size = len(np.unique(labels[split.val_unseen]))
    assert len(splits) == count
    assert splits[0] is split
    for one in splits:
        parts = (one.train, one.val_seen, one.val_unseen)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), split.trainval)
        assert len(np.unique(labels[one.val_unseen])) == size
