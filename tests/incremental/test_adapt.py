"""Unlabelled images: expectation maximisation, the constant, quality, and the label it leaves."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit, logsumexp, softmax

import mlis
from mlis import adapt, add_images, remove_classes
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError
from mlis.incremental.adapt import ROUNDS
from mlis.io.checkpoint import load_model, save_model
from mlis.io.model_card import model_card
from mlis.io.onnx import _metadata
from mlis.methods.auto import together
from mlis.methods.gaussian import Gaussian
from mlis.methods.raw import RidgeSoftmax
from mlis.model.recognizer import Recognizer, replace
from mlis.protocol import evaluate_on_test
from simulated import linear_world


def blurred() -> GZSLDataset:
    """Classes lie apart, but not quite where their descriptors say."""
    data = linear_world(classes=16, unseen=5, noise=0.2)
    off = 0.1 * np.random.default_rng(0).normal(size=data.descriptors.shape)
    return dataclasses.replace(data, descriptors=np.float32(data.descriptors + off))


DATA = blurred()
ROWS = DATA.for_testing().features
CALIBRATED = {"classification": {"calibration": "validation"}}


@pytest.fixture(scope="module")
def gaussian() -> Recognizer:
    config = Config.from_dict({"precision": "float64", **CALIBRATED})
    return Gaussian(config).choose(DATA, device="cpu").recognizer.double()


@pytest.fixture(scope="module")
def ensemble(gaussian) -> Recognizer:
    config = Config.from_dict({"generation": {"generator": "ridge"}})
    linear = RidgeSoftmax(config).fit(DATA.for_training(), device="cpu").recognizer.double()
    both = together([gaussian, linear], [1.0, 2.0])
    return replace(both, calibration=0.5, temperature=2.0)


def unseen_share(model: Recognizer) -> float:
    return model.probabilities(ROWS)[:, ~model.seen_mask.numpy()].sum(1).mean()


def test_it_is_expectation_maximisation_about_the_predicted_means(gaussian):
    """The loop by its formulas: responsibilities, conjugate posterior, constant."""
    seen = gaussian.seen_mask.numpy()
    z = gaussian.preprocessing(torch.from_numpy(np.float64(ROWS)))
    z = ((z - gaussian.head.offset) @ gaussian.head.projection.T).numpy()
    prior, variances = (part.numpy() for part in gaussian.head.moments())
    means, v = prior.copy(), variances - 1
    added, constant = v.copy(), gaussian.calibration

    def scores() -> np.ndarray:
        s = (1 + added)[None]
        return -0.5 * ((z[:, None] - means[None]) ** 2 / s + np.log(s)).sum(2)

    share = unseen_share(gaussian)
    for _ in range(ROUNDS):
        r = softmax((scores() - constant * seen) / gaussian.temperature, axis=1)
        n, t = r.sum(0)[:, None], r.T @ z
        means[~seen] = ((prior + v * t) / (1 + n * v))[~seen]
        added[~seen] = (v / (1 + n * v))[~seen]
        tempered = scores() / gaussian.temperature
        odds = logsumexp(tempered[:, ~seen], axis=1) - logsumexp(tempered[:, seen], axis=1)
        shift = brentq(lambda c, odds=odds: expit(odds + c).mean() - share, -1e3, 1e3)
        constant = shift * gaussian.temperature
    found = adapt(gaussian, ROWS)
    assert found.calibration == pytest.approx(constant, abs=1e-5)
    got = [part.numpy() for part in found.head.moments()]
    np.testing.assert_allclose(got[0], means, atol=1e-5)
    np.testing.assert_allclose(got[1][~seen], (1 + added)[~seen], atol=1e-5)
    np.testing.assert_array_equal(found.head.weight[seen], gaussian.head.weight[seen])


@pytest.mark.parametrize("name", ["gaussian", "ensemble"])
def test_it_learns_and_answers_as_often_with_unseen_classes(name, request):
    model = request.getfixturevalue(name)
    found = adapt(model, ROWS)
    before, after = evaluate_on_test(model, DATA), evaluate_on_test(found, DATA)
    assert after.T1 > before.T1 + 3
    assert unseen_share(found) == pytest.approx(unseen_share(model), abs=1e-6)
    assert found.temperature == model.temperature
    kinds = [one.head.kind for one in getattr(found.head, "members", [])]
    assert kinds == (["gaussian", "linear"] if name == "ensemble" else [])


def test_the_label_stays_with_the_model(gaussian, tmp_path):
    metadata = mlis.model.recognizer.Metadata(
        gaussian.metadata.sources,
        (),
        {"test": {"U": 1.0, "S": 1.0, "H": 1.0}, "validation": {"H": 99.0}, "seed": 0},
        gaussian.metadata.tradeoff,
    )
    model = replace(gaussian, metadata=metadata)
    assert not model.transductive
    assert "Transductive" not in model_card(model)
    found = adapt(model, ROWS, note="photos")
    save_model(found, tmp_path)
    loaded = load_model(tmp_path)
    changed = remove_classes(loaded, None, [DATA.class_names[DATA.unseen_classes[0]]])[0]
    for one in (found, loaded, changed, found.float()):
        assert one.transductive
        assert repr(one).endswith("transductive)")
        assert "transductive" in one._repr_html_()
        assert "**Transductive:**" in model_card(one)
        assert json.loads(_metadata(one, None)["transductive"])
    assert loaded.metadata.record == {"seed": 0}  # no inductive figure beside it
    assert loaded.metadata.tradeoff is None
    assert f"{len(ROWS)} unlabelled images: transductive" in model_card(loaded)


def test_further_images_are_added_to_it(gaussian):
    name = DATA.class_names[DATA.unseen_classes[0]]
    grown, _ = add_images(adapt(gaussian, ROWS), None, {name: ROWS[:2]})
    assert grown.transductive


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS[:0], r"N ≥ 1, got \(0, "),
        (ROWS[0], "2-d array"),
        (ROWS[:, :-1], "takes features of shape"),
        (np.where(np.arange(len(ROWS))[:, None] == 3, np.nan, ROWS), "row 3"),
    ],
)
def test_wrong_rows(gaussian, rows, said):
    with pytest.raises(DataError, match=said):
        adapt(gaussian, rows)


def test_models_that_cannot_be_adapted(gaussian, ensemble):
    with pytest.raises(DataError, match="already"):
        adapt(adapt(gaussian, ROWS), ROWS)
    linear = ensemble.head.members[1]
    with pytest.raises(DataError, match="got a linear head"):
        adapt(replace(ensemble, head=linear.head, refiner=linear.refiner), ROWS)
    every = torch.ones_like(gaussian.seen_mask)
    with pytest.raises(DataError, match="unseen classes"):
        adapt(replace(gaussian, seen_mask=every), ROWS)
