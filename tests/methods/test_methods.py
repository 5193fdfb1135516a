"""Methods: closed forms against slow references, and the protocol that chooses among settings."""

import itertools
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from method_cases import choose_and_test
from mlis.compute.precision import Precision
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.data.splits import Split
from mlis.errors import DataError
from mlis.evaluation import best_calibration, evaluate
from mlis.methods import eszsl
from mlis.methods.cegzsl import CEGZSL
from mlis.methods.cosine import SharedSpaceCosine
from mlis.methods.eszsl import ESZSL, Problem
from mlis.methods.prototype import RidgePrototype
from mlis.methods.raw import RawSoftmax
from mlis.model.preprocessing import prepare
from mlis.pipeline import fit
from simulated import linear_world, small, tiny

DOUBLE = Config(precision="float64").replace({"preprocessing": {"feature_transform": "none"}})
RIDGE = {"generation": {"generator": "ridge"}}
CALIBRATED = {"classification": {"calibration": "validation"}}


def tensors(data: GZSLDataset):
    return prepare(data.for_training(), DOUBLE.preprocessing, Precision.of("float64", "cpu"))[1]


def shared_space(seed: int = 0) -> GZSLDataset:
    """Features are noisy descriptors."""
    rng = np.random.default_rng(seed)
    descriptors = rng.random((9, 12)).astype(np.float32)
    labels = np.repeat(np.arange(9), 12)
    features = descriptors[labels] + 0.1 * rng.random((108, 12), dtype=np.float32)
    return GZSLDataset.from_arrays(features, labels, descriptors, unseen_classes=[6, 7, 8])


def contrastive(config: Config | None = None, **changes) -> CEGZSL:
    sizes = {"embedding": 24, "projection": 8, "hidden": 16, "batch_size": 40}
    settings = {"steps": 40, "choices": (5, 40), "learning_rate": 1e-3, **sizes}
    return CEGZSL(config or small(**RIDGE), **{**settings, **changes})


METHODS = [
    RawSoftmax(small(**RIDGE)),
    RawSoftmax(small()),
    ESZSL(Config(precision="float32")),
    RidgePrototype(Config(precision="float32")),
    contrastive(),
]


def names(method) -> str:
    return method.name


# --- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.1, 3.0), (10.0, 0.01)])
def test_eszsl_is_where_its_objective_is_flat(gamma, lambda_):
    """The objective of the paper written out; it is convex, so no gradient means the minimum."""
    data = tensors(tiny())
    S = data.descriptors[data.seen].T
    Y = torch.tensor([[1.0 if y == c else -1.0 for c in data.seen] for y in data.y]).double()

    def objective(V):
        fit_ = (data.x @ V @ S - Y).square().sum()
        first = gamma * (V @ S).square().sum() + lambda_ * (data.x @ V).square().sum()
        return fit_ + first + gamma * lambda_ * V.square().sum()

    V = Problem.of(data).weights(torch.eye(4), gamma, lambda_).T.requires_grad_()
    (gradient,) = torch.autograd.grad(objective(V), V)
    away = (V + 0.1).detach().requires_grad_()
    (steep,) = torch.autograd.grad(objective(away), away)
    assert gradient.abs().max() < 1e-9 * steep.abs().max()


def test_eszsl_scores_are_bilinear():
    data, method = tiny(), ESZSL(DOUBLE, 0.1, 1.0)
    recognizer = method.fit(data.for_training(), device="cpu").recognizer
    V = Problem.of(tensors(data)).weights(torch.eye(4), 0.1, 1.0).T.numpy()
    rows = data.for_testing().features[:7].astype(np.float64)
    training = data.for_training().features.astype(np.float64)
    low, high = training.min(0), training.max(0)
    units = data.descriptors / np.linalg.norm(data.descriptors.astype(np.float64), axis=1)[:, None]
    for row, found in zip(rows, recognizer.scores(rows), strict=True):
        wanted = [((row - low) / (high - low)) @ V @ a for a in units]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def ridge_by_hand(data: GZSLDataset, kernel, penalty: float) -> np.ndarray:
    """Unit prototypes (C, Dx) of min-max scaled features, one class after another."""
    training = data.for_training()
    x = training.features.astype(np.float64)
    low, span = x.min(0), x.max(0) - x.min(0)
    x = (x - low) / span
    a = [d / np.linalg.norm(d) for d in training.descriptors.astype(np.float64)]
    seen = np.flatnonzero(training.seen_mask)
    means = np.stack([x[training.labels == c].mean(0) for c in seen])
    centre = means.mean(0)
    pairs = [np.linalg.norm(a[i] - a[j]) for i, j in itertools.combinations(seen, 2)]
    width = float(torch.tensor(pairs).median())

    def k(i, j):
        if kernel == "linear":
            return a[i] @ a[j]
        return np.exp(-0.5 * (np.linalg.norm(a[i] - a[j]) / width) ** 2)

    gram = np.array([[k(i, j) for j in seen] for i in seen])
    dual = np.linalg.inv(gram + penalty * np.eye(len(seen))) @ (means - centre)
    rows = [centre + sum(k(c, s) * w for s, w in zip(seen, dual, strict=True)) for c in range(9)]
    return np.stack([row / np.linalg.norm(row) for row in rows])


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_prototypes_are_ridge_predictions_compared_by_cosine(kernel):
    data = tiny()
    config = DOUBLE.replace({"generation": {"ridge_kernel": kernel, "ridge_lambda": 0.1}})
    recognizer = RidgePrototype(config).fit(data.for_training(), device="cpu").recognizer
    wanted = ridge_by_hand(data, kernel, 0.1)
    training = data.for_training().features.astype(np.float64)
    low, span = training.min(0), training.max(0) - training.min(0)
    rows = data.for_testing().features
    for row, found in zip(rows, recognizer.scores(rows), strict=True):
        x = (row - low) / span
        np.testing.assert_allclose(found, wanted @ x / np.linalg.norm(x), atol=1e-6)


# --- cosine -------------------------------------------------------------------------------------


def test_cosine_of_feature_and_descriptor():
    data = shared_space()
    recognizer = SharedSpaceCosine(DOUBLE).fit(data.for_training(), device="cpu").recognizer
    rows = data.for_testing().features
    found = recognizer.scores(rows)
    for row, scores in zip(rows.astype(np.float64), found, strict=True):
        lengths = np.linalg.norm(data.descriptors, axis=1) * np.linalg.norm(row)
        np.testing.assert_allclose(scores, data.descriptors @ row / lengths, atol=1e-6)
    np.testing.assert_array_equal(found.argmax(1), data.for_testing().labels)
    with pytest.raises(DataError, match=r"shape \(B, 12\), but got \(2, 5\)"):
        recognizer.scores(np.zeros((2, 5), dtype=np.float32))


# --- raw softmax --------------------------------------------------------------------------------


@pytest.mark.parametrize("sections", [{}, RIDGE], ids=["wgan-gp", "ridge"])
def test_raw_softmax_is_the_method_without_refinement(sections):
    training, config = tiny().for_training(), small(**sections)
    found = RawSoftmax(config).fit(training, seed=3, device="cpu").recognizer
    config = config.replace({"refinement": {"components": "none"}})
    wanted = fit(training, config, seed=3, device="cpu").recognizer
    assert found.refiner.kind == "none"
    assert torch.equal(found.head.weight, wanted.head.weight)


# --- the protocol -------------------------------------------------------------------------------


def test_the_best_on_validation_classes_is_chosen():
    data = linear_world(classes=60, unseen=10, noise=0.3, per_class=10)  # ten held out: one fold
    measured, tested = choose_and_test(ESZSL(DOUBLE), data)
    training, held_out = data.for_validation()
    table = {}
    for gamma, lambda_ in itertools.product(eszsl.PENALTIES, eszsl.PENALTIES):
        scores = (
            ESZSL(DOUBLE, gamma, lambda_)
            .fit(training, device="cpu")
            .recognizer.scores(held_out.features)
        )
        constant = best_calibration(scores, held_out.labels, held_out.seen_mask)
        scores = scores - constant * held_out.seen_mask
        found = evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
        table[gamma, lambda_] = found.H
    chosen = measured.method
    assert table[chosen.gamma, chosen.lambda_] == pytest.approx(max(table.values()), abs=1e-9)
    assert table[chosen.gamma, chosen.lambda_] == pytest.approx(measured.validation.H, abs=1e-9)
    assert max(table.values()) > min(table.values()) + 5  # there was something to choose
    test = data.for_testing()
    scores = chosen.fit(data.for_training(), device="cpu").recognizer.scores(test.features)
    scores = scores - measured.recognizer.calibration * test.seen_mask
    wanted = evaluate(scores, test.labels, test.seen_mask, test.class_names)
    assert tested.to_dict() == wanted.to_dict()


@dataclass(frozen=True)
class Equals(SharedSpaceCosine):
    """Alternatives that do not differ."""

    number: int = 0

    def alternatives(self) -> list["Equals"]:
        return [replace(self, number=number) for number in (2, 1, 3)]


def test_a_method_without_alternatives_keeps_the_constant_it_is_given():
    """And validates nothing: data without a validation split will do."""
    data = replace(shared_space(), split=Split(shared_space().split.trainval))
    config = Config().replace({"classification": {"calibration": 0.25}})
    chosen = SharedSpaceCosine(config).choose(data, device="cpu")
    assert chosen.recognizer.calibration == 0.25
    assert chosen.validation is None
    with pytest.raises(DataError, match="no validation split"):
        Equals(config).choose(data, device="cpu")


LEARNERS = [one for one in METHODS if one.name != "raw softmax (f-CLSWGAN)"]  # 5 steps are few


@pytest.mark.parametrize("method", LEARNERS, ids=names)
def test_methods_recognise_unseen_classes(method):
    """Of 24 classes, 6 unseen; H by chance is 4. ESZSL has no offset, which these features need."""
    found = choose_and_test(
        replace(method, config=method.config.replace(CALIBRATED)), linear_world(noise=0.1)
    )[1].H
    assert found is not None
    assert found > (25 if method.name == "ESZSL" else 60)


def test_cosine_recognises_unseen_classes():
    found = choose_and_test(SharedSpaceCosine(), shared_space())[1].H
    assert found == 100


def test_settings_are_strict_json():
    settings = contrastive().choose(tiny(), device="cpu").method.settings
    again = json.loads(json.dumps(settings, allow_nan=False))
    assert again["steps"] in (5, 40)
    assert again["config"]["generation"]["generator"] == "ridge"
