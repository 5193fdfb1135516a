"""The estimator as scikit-learn's users meet it: contract, unseen classes, searches, errors."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from mlis.config import Config
from mlis.data.class_table import class_table
from mlis.errors import DataError, MlisError, SettingsError
from mlis.estimator import GZSLClassifier, MLISClassifier

COLOURS = ("red", "green", "blue")
SHAPES = ("disc", "ring", "star")
DESCRIBED = {
    f"{colour} {shape}": [float(colour == c) for c in COLOURS] + [float(shape == s) for s in SHAPES]
    for colour in COLOURS
    for shape in SHAPES
}
NAMES = sorted(DESCRIBED)
UNSEEN = ["blue ring", "red star"]
SEEN = [name for name in NAMES if name not in UNSEEN]
ARRAY = np.array([DESCRIBED[name] for name in NAMES])


def images(names, per_class: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features that are sums of what each part looks like, with noise, and their labels."""
    look = np.random.default_rng(99).random((6, 16))
    y = np.repeat(names, per_class)
    noise = np.random.default_rng(seed).random((len(y), 16))
    return np.array([DESCRIBED[name] for name in y]) @ look + 0.5 * noise, y


def quick(**changes) -> MLISClassifier:
    settings = {
        "generator": "ridge",
        "steps": 20,
        "random_state": 0,
        "device": "cpu",
        "precision": "float32",  # "auto" depends on the machine
        "config": {"refinement": {"hidden": 64}, "classification": {"synthetic_per_unseen": 30}},
    }
    return MLISClassifier(**{**settings, **changes})


# 20 encoder steps instead of 600, and a small encoder: the checks fit some 150 times
@parametrize_with_checks([MLISClassifier(steps=20, config={"refinement": {"hidden": 64}})])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_default_settings_are_accurate_as_an_ordinary_classifier():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = MLISClassifier(random_state=0).fit(X[::2], names[::2])
    assert model.score(X[1::2], names[1::2]) > 0.9
    assert model.seen_mask_.all()
    np.testing.assert_array_equal(model.descriptors_, np.eye(3))


def test_unseen_classes_are_recognised():
    X, y = images(SEEN, 20)
    model = quick(steps=100).fit(X, y, descriptors=DESCRIBED)
    assert list(model.classes_) == NAMES
    assert list(model.classes_[~model.seen_mask_]) == UNSEEN
    np.testing.assert_array_equal(model.descriptors_, ARRAY.astype(np.float32))
    assert model.score(*images(SEEN, 10, seed=1)) > 0.8
    unseen_X, unseen_y = images(UNSEEN, 40, seed=2)
    assert model.score(unseen_X, unseen_y) > 0.6  # of 9 candidates
    # the descriptors did it: exchanged between the unseen classes, so are the predictions
    swapped = {**DESCRIBED, UNSEEN[0]: DESCRIBED[UNSEEN[1]], UNSEEN[1]: DESCRIBED[UNSEEN[0]]}
    assert quick(steps=100).fit(X, y, descriptors=swapped).score(unseen_X, unseen_y) < 0.1


def test_methods_agree_with_each_other():
    X, y = images(SEEN, 10)
    model = quick().fit(X, y, descriptors=DESCRIBED)
    probability = model.predict_proba(X)
    assert probability.shape == (len(X), 9)
    np.testing.assert_allclose(probability.sum(1), 1)
    np.testing.assert_array_equal(model.classes_[probability.argmax(1)], model.predict(X))
    scores = model.decision_function(X)
    np.testing.assert_allclose(
        np.log(probability), scores - np.logaddexp.reduce(scores, 1)[:, None]
    )
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(probability))
    np.testing.assert_array_equal(model.recognizer_.predict(X.astype(np.float32)), scores.argmax(1))
    assert model.recognizer_.class_names == tuple(NAMES)


def test_two_classes_one_of_them_unseen_has_a_one_dimensional_decision():
    X, _ = images(["red disc"], 10)
    model = quick().fit(X, ["red disc"] * 10, {n: DESCRIBED[n] for n in ("red disc", "red star")})
    decision = model.decision_function(X)
    assert decision.shape == (10,)
    np.testing.assert_array_equal(model.classes_[(decision > 0).astype(int)], model.predict(X))


class Frame:
    """What is used of a data frame: `index` and `to_numpy`."""

    def __init__(self, rows: dict):
        self.index = list(rows)
        self.rows = np.array(list(rows.values()))

    def to_numpy(self) -> np.ndarray:
        return self.rows


def test_all_ways_to_name_the_classes_give_the_same_model():
    X, y = images(SEEN, 5)
    backwards = dict(reversed(DESCRIBED.items()))
    forms = {
        "mapping": ((y, backwards), {}),
        "array and classes": ((y, ARRAY[::-1]), {"classes": NAMES[::-1]}),
        "data frame": ((y, Frame(backwards)), {}),
        "array alone": ((np.searchsorted(NAMES, y), ARRAY), {}),
        "integer keys": ((np.searchsorted(NAMES, y), dict(enumerate(ARRAY))), {}),
    }
    expected = quick().fit(X, y, DESCRIBED).predict_proba(X)
    for form, (arguments, keywords) in forms.items():
        model = quick().fit(X, *arguments, **keywords)
        np.testing.assert_array_equal(model.predict_proba(X), expected, err_msg=form)
        whole = isinstance(arguments[0][0], str)
        assert list(model.classes_) == (NAMES if whole else list(range(9))), form


@pytest.mark.parametrize(
    ("y", "descriptors", "classes", "message"),
    [
        (
            ["a", "b"],
            {"a": [1, 0], "c": [0, 1]},
            None,
            "y: row 1: expected one of 2 class names, got 'b'",
        ),
        (["cat", "Dog"], {"cat": [1], "dog": [2]}, None, "Did you mean 'dog'"),
        (
            [0, 1],
            {"0": [1, 0], "1": [0, 1]},
            None,
            "y: expected labels like .0.*Give both",
        ),
        (["a", "b"], [[1, 0], [0, 1]], None, "y: expected row numbers .* got 'a'.*mapping"),
        (
            [1, 2],
            [[1, 0], [0, 1]],
            None,
            "y: row 1: .* 0 to 1.* got 2. Labels may be counted from 1",
        ),
        ([2, 1], np.eye(3), None, r"from 0 or from 1.*classes=range\(3\).*=range\(1, 4\) if"),
        (["a", "b"], [[1, 0], [0, 1]], ["a"], "for each of the 2 descriptors, got 1"),
        (["a", "b"], [[1, 0], [0, 1]], ["a", "a"], "class 'a' has more than one"),
        (["a", "b"], {"a": [1, 0], "b": [0]}, None, "got 2 for 'a' and 1 for 'b'"),
        (["a", "b"], {"a": [1], "b": [2]}, ["a", "b"], "Omit classes="),
        (["a", "b"], {"a": [1], 2: [2]}, None, "one type, got number and str"),
        ([0, 1], [[1, 0], [0]], None, r"expected a \(C, Da\) array"),
        ([0, 1], [["x", "y"], ["z", "w"]], None, "real numbers"),
    ],
)
def test_descriptors_that_do_not_fit(y, descriptors, classes, message):
    with pytest.raises(DataError, match=message):
        class_table(np.asarray(y), descriptors, classes)


@pytest.mark.parametrize(
    ("descriptors", "message"),
    [
        (
            {"a": [1, 0], "b": [0, np.nan]},
            "row 1 .class 'b'., column 1: .* got nan",
        ),
        ({"a": [1, 0], "b": [0, 0]}, "class 'b'.*got 0 in all 2 columns"),
    ],
)
def test_descriptors_that_say_nothing(descriptors, message):
    with pytest.raises(DataError, match=message):
        quick().fit(np.random.default_rng(0).random((4, 3)), ["a", "a", "b", "b"], descriptors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "refinement.steps must be at least 0"),
        ({"config": {"refinement": {"gama": 1}}}, "unknown setting refinement.gama"),
        ({"loss": "nowhere:loss"}, "refinement.loss='nowhere:loss'"),
        ({"device": "tpu0"}, "device: expected"),
    ],
)
def test_settings_that_are_not_possible(change, message):
    X, y = images(SEEN, 3)
    with pytest.raises(SettingsError, match=message) as caught:
        quick(**change).fit(X, y, DESCRIBED)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, MlisError)


def test_arguments_win_over_config_and_none_leaves_it_alone():
    X, y = images(SEEN, 3)
    config = Config().replace({"refinement": {"steps": 3, "gamma": 16}, "precision": "float64"})
    kept = quick(config=config, steps=None, precision=None).fit(X, y, DESCRIBED).config_
    assert (kept.refinement.steps, kept.refinement.gamma, kept.precision) == (3, 16, "float64")
    changed = quick(config=config, steps=np.int64(2), calibration=0.5).fit(X, y, DESCRIBED)
    assert changed.config_.refinement.steps == 2
    assert changed.recognizer_.calibration == 0.5


def test_calibration_chosen_on_held_out_classes():
    X, y = images(SEEN, 15)
    plain = quick(steps=100, calibration=0.0).fit(X, y, DESCRIBED)
    assert plain.validation_ is None
    model = quick(steps=100, calibration="validation").fit(X, y, DESCRIBED)
    found = model.validation_
    assert "splits that hold out" in found.notes[-1]  # they are few
    names = {row.name for row in found.per_class}
    assert names == set(SEEN)  # the unseen classes had no part in it
    constant = model.recognizer_.calibration
    expected = plain.decision_function(X) - constant * model.seen_mask_
    np.testing.assert_allclose(model.decision_function(X), expected, atol=1e-5)


def test_a_loss_of_ones_own():
    calls = []

    def pull(embeddings, labels):
        calls.append(embeddings.shape)
        return (embeddings**2).mean()

    X, y = images(SEEN, 5)
    quick(loss=pull, steps=3, calibration=0.0).fit(X, y, DESCRIBED)
    assert len(calls) == 3
    assert calls[0][1] == 64 + 6  # [h ; a_y]


def test_clone_pickle_and_get_params():
    X, y = images(SEEN, 5)
    model = quick().fit(X, y, DESCRIBED)
    copied = clone(model)
    assert not hasattr(copied, "classes_")
    assert copied.get_params() == model.get_params()
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(restored.predict_proba(X), model.predict_proba(X))


def test_refined_features_and_their_names():
    X, y = images(SEEN, 5)
    model = quick()
    refined = model.fit_transform(X, y, descriptors=DESCRIBED)
    assert refined.shape == (len(X), 64)
    assert refined.min() >= 0
    np.testing.assert_array_equal(refined, model.transform(X))
    names = model.get_feature_names_out()
    assert (len(names), names[0]) == (64, "mlisclassifier0")
    unrefined = quick(components="none").fit(X, y, DESCRIBED)
    assert unrefined.transform(X).shape == X.shape
    assert len(unrefined.get_feature_names_out()) == 16


def test_pipeline_passes_descriptors_on():
    X, y = images(SEEN, 10)
    last = make_pipeline(StandardScaler(), quick())
    last.fit(X, y, mlisclassifier__descriptors=DESCRIBED)
    assert list(last.classes_) == NAMES
    assert last.score(X, y) > 0.8
    first = make_pipeline(quick(), KNeighborsClassifier(3))
    first.fit(X, y, mlisclassifier__descriptors=DESCRIBED)
    assert first.score(X, y) > 0.8


def test_metadata_routing_passes_descriptors_on():
    X, y = images(SEEN, 5)
    with sklearn.config_context(enable_metadata_routing=True):
        model = make_pipeline(StandardScaler(), quick().set_fit_request(descriptors=True))
        search = GridSearchCV(model, {"mlisclassifier__steps": [1, 2]}, cv=2)
        search.fit(X, y, descriptors=DESCRIBED)
    assert list(search.classes_) == NAMES


def test_classes_left_out_of_a_fold_are_predicted_as_unseen():
    """Grouping folds by class is zero-shot validation with scikit-learn's own tools."""
    X, y = images(NAMES, 10)
    folds = GroupKFold(3)
    predicted = cross_val_predict(
        quick(steps=100), X, y, groups=y, cv=folds, params={"descriptors": DESCRIBED}
    )
    assert np.mean(predicted == y) > 0.3  # chance: 1/9


def test_bars_are_shown_where_they_are_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    X, y = images(SEEN, 12)
    quick(verbose=True, calibration="validation").fit(X, y, DESCRIBED)
    shown = capsys.readouterr().err
    assert "validation: refinement: " in shown
    assert "training: refinement: 100%" in shown
    quick(calibration=0.0).fit(X, y, DESCRIBED)
    assert capsys.readouterr().err == ""


def test_rows_of_no_class_are_told():
    X, y = images(SEEN, 30)
    model = GZSLClassifier(method="gaussian", random_state=0, device="cpu").fit(X, y, DESCRIBED)
    others = np.random.default_rng(5).random((50, 16)) * X.max()
    turned_away = [model.unknown(rows, "5%").mean() for rows in (X, others)]
    assert turned_away[0] < 0.15 < 0.5 < turned_away[1]
    assert (model.unknown(X, 0.05) == model.recognizer_.unknown(X, 0.05)).all()
