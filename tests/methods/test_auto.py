"""The automatic choice: what is tried, kept, averaged and expected; its ensemble as a model."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from method_cases import choose_and_test
from mlis import add_classes, remove_classes
from mlis.config import Config
from mlis.data.splits import Split
from mlis.errors import SettingsError
from mlis.evaluation import best_temperature
from mlis.io.checkpoint import load_model, save_model
from mlis.io.onnx import export_onnx
from mlis.methods import auto
from mlis.methods.auto import Auto, together
from mlis.methods.estimate import expect
from mlis.methods.gaussian import Gaussian
from mlis.methods.mlis import MLIS
from mlis.methods.portfolio import Trial, choose_members, combine, mean_H, nearest_of_equals
from mlis.methods.raw import RidgeSoftmax
from mlis.model.fused import FusedEnsemble
from mlis.model.heads import EnsembleHead, GaussianHead, LinearHead, Member
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import Identity
from mlis.protocol import HeldOut
from simulated import linear_world, small, tiny

SETTINGS = small(classification={"calibration": "validation"})
RIDGE = SETTINGS.replace({"generation": {"generator": "ridge"}})


@pytest.fixture(scope="module")
def found():
    """Everything is tried: the budget has no end."""
    return Auto(SETTINGS, budget=math.inf).choose(tiny(), device="cpu")


def held_out(seed: int, good: float, classes: int = 8, seen: int = 5) -> HeldOut:
    """Scores whose own class is ahead by about `good`."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 30)
    scores = rng.normal(size=(len(labels), classes)).astype(np.float32)
    scores[np.arange(len(labels)), labels] += good
    mask = np.arange(classes) < seen
    return HeldOut(scores, labels, mask, tuple(f"c{i}" for i in range(classes)))


def trial(name: str, family: str, good: float, seed: int, scale: float = 1.0) -> Trial:
    folds = {i: held_out(100 * seed + i, good) for i in range(3)}
    folds = {i: dataclasses.replace(one, scores=one.scores * scale) for i, one in folds.items()}
    return Trial(name, family, Gaussian(), folds, 1.0)


# --- which are kept -------------------------------------------------------------------------------


def test_unlike_families_are_averaged_and_like_methods_chosen_between():
    trials = [
        trial("a", "one", 1.8, 1),
        trial("b", "two", 2.0, 2),
        trial("bad", "two", -1.0, 3),
    ]
    choice = choose_members(trials)
    assert set(choice.weights) == {"a", "b"}
    alone = max(mean_H(list(one.folds.values())) for one in trials)
    assert mean_H(choice.held_out) > alone  # independent errors


def test_a_hopeless_family_is_left_out():
    choice = choose_members([trial("a", "one", 2.0, 1), trial("b", "two", 0.1, 2)])
    assert choice.weights == {"a": 1.0}


def test_shares_are_equal_unless_validation_says_otherwise():
    for goods, shares in (((2.0, 2.0), (1.0, 1.0)), ((2.6, 1.5), (1.5, 0.5))):
        trials = [trial("a", "one", goods[0], 1), trial("b", "two", goods[1], 2)]
        choice = choose_members(trials)
        found = [choice.weights[one.name] * one.spread for one in trials]
        assert found == pytest.approx(shares)
        assert [2 * choice.shares[one.name] for one in trials] == pytest.approx(shares)


def test_many_families_are_weighed():
    """Shares are enumerated, not tried out: nine families have 495 of them, not two million."""
    trials = [trial(name, name, 1.0 + (name == "e"), i) for i, name in enumerate("abcdefghi")]
    choice = choose_members(trials)
    assert "e" in choice.weights
    assert mean_H(choice.held_out) >= mean_H(list(trials[4].folds.values()))


def test_of_choices_within_noise_the_nearest_is_taken():
    H = np.array([[50.0, 60.0, 70.0], [52.0, 59.0, 72.0], [56.0, 66.0, 76.0]])
    assert nearest_of_equals(H, [0, 1, 2]) == 2  # 6 ahead on each split, whatever they differ by
    H[2] = [40.0, 60.0, 83.0]  # ahead on average, by less than one standard error
    assert nearest_of_equals(H, [0, 1, 2]) == 0
    assert nearest_of_equals(H, [1, 1, 2]) == 1  # as near: the better one
    one_split = np.array([[50.0], [64.0], [66.0]])
    assert nearest_of_equals(one_split, [0, 1, 2]) == 1


def test_units_of_scores_do_not_matter():
    plain = choose_members([trial("a", "one", 1.5, 1), trial("b", "two", 1.6, 2)])
    scaled = choose_members([trial("a", "one", 1.5, 1), trial("b", "two", 1.6, 2, scale=1000.0)])
    for one, other in zip(plain.held_out, scaled.held_out, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-4)


def test_members_that_were_tried_on_fewer_folds_are_compared_on_those():
    first, second = trial("a", "one", 1.5, 1), trial("b", "one", 1.6, 2)
    second = dataclasses.replace(second, folds={0: second.folds[0]})
    choice = choose_members([first, second])
    assert len(choice.held_out) in (1, 3)
    assert len(combine([first, second], {"a": 1.0, "b": 1.0})) == 1


def test_the_estimate_is_lower_for_more_unseen_classes():
    folds = [held_out(i, 1.5, classes=12, seen=4) for i in range(3)]
    few = expect(folds, 8, np.random.default_rng(0))
    many = expect(folds, 64, np.random.default_rng(0))
    assert few.T1[1] > many.T1[1]
    assert few.U[1] > many.U[1]
    trained = expect(folds, 8, np.random.default_rng(0), [5.0] * 3)
    assert trained.T1[1] == pytest.approx(few.T1[1] + 5, abs=1e-6)
    for low, middle, high in (few.U, few.S, few.H, few.T1):
        assert 0 <= low <= middle <= high <= 100


# --- choosing -------------------------------------------------------------------------------------


def test_everything_is_tried_without_a_limit(found):
    report = found.report
    assert list(report["tried"]) == ["gaussian", "ridge", "mlis"]
    assert all(len(one["H"]) == 3 for one in report["tried"].values())
    assert set(report["kept"]) <= set(report["tried"])
    assert set(report["expected"]) == {"U", "S", "H", "T1"}
    assert found.validation is not None
    assert found.recognizer.calibration != 0
    assert found.recognizer.temperature != 1


def test_a_short_budget_leaves_the_closed_form():
    report = Auto(SETTINGS, budget=1e-9).choose(tiny(), device="cpu").report
    assert list(report["tried"]) == ["gaussian"]


def test_no_test_row_matters():
    data = tiny()
    rows = np.concatenate([data.split.test_seen, data.split.test_unseen])
    features = np.array(data.features)
    features[rows] = np.random.default_rng(5).random((len(rows), features.shape[1]))
    noisy = dataclasses.replace(data, features=features)
    how = {"budget": math.inf}
    one, other = (Auto(SETTINGS, **how).choose(d, device="cpu") for d in (data, noisy))
    assert one.recognizer.calibration == other.recognizer.calibration
    probe = data.features[data.split.trainval]
    np.testing.assert_array_equal(one.recognizer.scores(probe), other.recognizer.scores(probe))


def test_without_validation_classes_the_closed_form_is_trained(caplog):
    data = tiny()
    split = Split(data.split.trainval, data.split.test_seen, data.split.test_unseen)
    found = Auto(SETTINGS).choose(dataclasses.replace(data, split=split), device="cpu")
    assert isinstance(found.recognizer.head, GaussianHead)
    assert "validation" in caplog.text


def test_it_learns():
    data = linear_world(noise=0.1)
    _, test = choose_and_test(Auto(SETTINGS, budget=math.inf), data)
    assert test.H is not None
    assert test.H > 70


@pytest.mark.parametrize("options", [{"budget": 0.0}, {"budget": math.nan}, {"splits": 0}])
def test_bad_options(options):
    with pytest.raises(SettingsError, match="auto: expected a budget"):
        Auto(**options)


def test_temperature_makes_probabilities_of_validation_rows_likely(found):
    folds = [held_out(i, 1.5) for i in range(2)]
    for one in folds:
        assert best_temperature(one.scores * 10, *(one.labels, one.seen_mask)) == pytest.approx(
            10 * best_temperature(one.scores, one.labels, one.seen_mask), rel=0.01
        )
    rows = tiny().for_testing().features
    probabilities = found.recognizer.probabilities(rows)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


# --- the ensemble as a model ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def members():
    training = tiny().for_training()
    methods = [Gaussian(SETTINGS), RidgeSoftmax(RIDGE), MLIS(RIDGE)]
    return [method.fit(training, device="cpu") for method in methods]


@pytest.fixture(scope="module")
def ensemble(members) -> Recognizer:
    recognizer = together([one.recognizer for one in members], [0.5, 2.0, 1.5])
    recognizer.calibration = 0.3
    return recognizer


def test_scores_are_the_weighted_sum(ensemble, members):
    rows = tiny().for_testing().features
    assert isinstance(ensemble._ready().fused, FusedEnsemble)
    parts = [one.recognizer.scores(rows) for one in members]
    wanted = 0.5 * parts[0] + 2.0 * parts[1] + 1.5 * parts[2]
    wanted[:, tiny().seen_mask] -= 0.3
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(ensemble.scores(rows), wanted, rtol=0, atol=1e-4 * scale)
    plain = ensemble(torch.from_numpy(np.asarray(rows)))
    np.testing.assert_allclose(plain.numpy(), wanted, rtol=0, atol=1e-4 * scale)


def test_a_single_member_stays_as_it_is(members):
    assert together([members[1].recognizer], [1.0]) is members[1].recognizer


def test_saved_and_loaded(ensemble, members, tmp_path):
    rows = tiny().for_testing().features
    save_model(ensemble, tmp_path / "model", members[1].exemplars)
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.scores(rows), ensemble.scores(rows))
    assert "ensemble" in repr(again)


def test_exported(ensemble, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    rows = np.asarray(tiny().for_testing().features)
    export_onnx(ensemble, tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"features": rows})
    wanted = ensemble.scores(rows)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_grown_and_shrunk(ensemble, members):
    rows = tiny().for_testing().features
    new = np.random.default_rng(3).normal(size=(2, tiny().descriptors.shape[1]))
    grown, kept = add_classes(ensemble, members[1].exemplars, ["okapi", "tapir"], new)
    assert grown.class_names[-2:] == ("okapi", "tapir")
    assert grown.scores(rows).shape[1] == len(ensemble.class_names) + 2
    assert isinstance(grown.head, EnsembleHead)
    kinds = [type(one.head) for one in grown.head.members]
    assert kinds == [GaussianHead, LinearHead, LinearHead]
    alone = grown.head.members[0].head.bias[: len(ensemble.class_names)]
    torch.testing.assert_close(alone, ensemble.head.members[0].head.bias)
    smaller, _ = remove_classes(grown, kept, ["okapi"])
    np.testing.assert_allclose(
        smaller.scores(rows), np.delete(grown.scores(rows), -2, axis=1), rtol=1e-4, atol=1e-4
    )


def test_an_ensemble_of_ensembles_is_refused(ensemble):
    with pytest.raises(ValueError, match="single head"):
        Member(Identity(), ensemble.head, 1.0)


def test_all_members_have_one_preprocessing():
    preprocessing = {one.method.config.preprocessing for one in auto.members(Config())}
    assert len(preprocessing) == 1
