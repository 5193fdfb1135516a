"""H@val: the constant comes from validation classes, the test rows are touched once, at the end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlis.data.dataset import GZSLDataset
from mlis.data.splits import Split
from mlis.errors import DataError
from mlis.evaluation import evaluate
from mlis.pipeline import fit
from mlis.protocol import fit_and_calibrate, test_once
from mlis.provenance import PROTOCOL, provenance
from mlis.training.loop import Monitor
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


def test_the_constant_is_the_best_on_the_validation_classes(data):
    trained = fit_and_calibrate(data, ridge(), seed=1, device="cpu")
    training, held_out = data.for_validation()
    rehearsal = fit(training, ridge(), seed=1, device="cpu")
    scores = rehearsal.scores(held_out.features)

    def H(constant: float) -> float:
        return harmonic(scores - constant * held_out.seen_mask, held_out.labels, held_out.seen_mask)

    chosen = trained.recognizer.calibration
    span = np.abs(scores).max() * 2
    assert chosen != 0
    assert H(chosen) == pytest.approx(max(H(c) for c in np.linspace(-span, span, 4001)), abs=1e-9)
    assert H(chosen) > H(0.0)  # in this case calibration is worth something
    assert trained.validation is not None
    assert pytest.approx(H(chosen)) == trained.validation.H


def test_the_recognizer_is_the_one_trained_on_all_training_rows(data):
    trained = fit_and_calibrate(data, ridge(), seed=1, device="cpu")
    plain = fit(data.for_training(), ridge(), seed=1, device="cpu")
    assert torch.equal(trained.recognizer.classifier.weight, plain.classifier.weight)
    assert trained.recognizer.class_names == data.class_names
    assert trained.seconds > 0
    np.testing.assert_array_equal(
        trained.recognizer.scores(data.features),
        plain.with_calibration(trained.recognizer.calibration).scores(data.features),
    )


def test_test_rows_have_no_say_in_the_constant(data):
    features = data.features.copy()
    test = np.concatenate([data.split.test_seen, data.split.test_unseen])
    features[test] = np.random.default_rng(0).random((len(test), features.shape[1])) * 50
    noise = replace(data, features=features)
    one = fit_and_calibrate(data, ridge(), seed=1, device="cpu")
    two = fit_and_calibrate(noise, ridge(), seed=1, device="cpu")
    assert one.recognizer.calibration == two.recognizer.calibration
    assert torch.equal(one.recognizer.classifier.weight, two.recognizer.classifier.weight)
    assert test_once(one.recognizer, data).S > test_once(two.recognizer, noise).S + 20


def test_validation_classes_are_classes_of_the_training_rows(data):
    training, held_out = data.for_validation()
    names = set(training.class_names)
    assert names <= {data.class_names[c] for c in data.seen_classes}
    assert held_out.class_names == training.class_names
    rows = {row.tobytes() for row in data.features[data.split.trainval]}
    assert {row.tobytes() for row in training.features} <= rows
    assert {row.tobytes() for row in held_out.features} <= rows
    assert not training.seen_mask[held_out.labels].all()


@pytest.mark.parametrize("constant", [0.0, 0.75, -2.0])
def test_a_given_constant_needs_no_second_training(data, constant):
    stages = []

    class Stages(Monitor):
        def started(self, stage, step, total):
            stages.append(stage)

    config = ridge(classification={"calibration": constant})
    trained = fit_and_calibrate(data, config, device="cpu", monitor=Stages())
    assert trained.recognizer.calibration == constant
    assert trained.validation is None
    assert stages == ["refinement"]


def test_each_training_has_its_own_monitor(data):
    stages: dict[str, list[str]] = {"validation": [], "training": []}

    class Stages(Monitor):
        def __init__(self, name: str):
            self.name = name

        def started(self, stage, step, total):
            stages[self.name].append(stage)

    fit_and_calibrate(
        data,
        small(**CALIBRATED),
        device="cpu",
        monitor=Stages("training"),
        validation_monitor=Stages("validation"),
    )
    assert stages == {key: ["generation", "refinement"] for key in stages}


def test_a_users_loss_is_used_in_both_trainings(data):
    sizes = []

    def loss(embeddings, labels):
        sizes.append(len(embeddings))
        return embeddings.square().mean()

    fit_and_calibrate(data, ridge(), device="cpu", loss=loss)
    assert len(sizes) == 2 * ridge().refinement.steps


def test_no_validation_split_is_an_error():
    whole = tiny()
    none = np.array([], dtype=np.int64)
    split = Split(
        whole.split.trainval, whole.split.test_seen, whole.split.test_unseen, none, none, none
    )
    with pytest.raises(DataError, match="no validation split"):
        fit_and_calibrate(replace(whole, split=split), ridge(), device="cpu")


def test_test_once_is_evaluate_on_the_test_rows(data):
    recognizer = fit_and_calibrate(data, ridge(), seed=1, device="cpu").recognizer
    result = test_once(recognizer, data)
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
