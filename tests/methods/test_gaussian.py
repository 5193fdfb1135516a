"""The Gaussian classifier, against densities written out class by class."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from method_cases import choose_and_test
from mlis import add_classes, remove_classes, rename_classes
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.data.io.folder import save_dataset
from mlis.data.load import load_dataset
from mlis.data.out_of_core.stored import StoredRows
from mlis.data.splits import Split
from mlis.errors import DataError, SettingsError
from mlis.io.checkpoint import load_model, save_model
from mlis.io.onnx import export_onnx
from mlis.methods import gaussian
from mlis.methods.gaussian import Gaussian
from mlis.model.heads import GaussianHead
from mlis.model.recognizer import replace
from mlis.model.refiners import LinearReLU
from mlis.model.regression import PENALTIES, ClassRegression
from mlis.serving.descriptions import Description
from mlis.serving.exchange import Change
from mlis.serving.load import load_engine
from simulated import dataset, linear_world, tiny

DOUBLE = Config(precision="float64")
SINGLE = Config(precision="float32")
DATA = tiny()
NEW = np.array([[0.5, -0.5, 0.5, 0.5], [-0.5, -0.5, -0.5, 0.5]], dtype=np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def kernels(a, b, kernel, width):
    if kernel == "linear":
        return np.array([[x @ y for y in b] for x in a])
    return np.array([[np.exp(-0.5 * (np.linalg.norm(x - y) / width) ** 2) for y in b] for x in a])


def shrunk(covariance, share):
    return (1 - share) * covariance + share * np.trace(covariance) / len(covariance) * np.eye(
        len(covariance)
    )


def by_hand(data: GZSLDataset, rows, method: Gaussian) -> np.ndarray:
    """Log-densities (B, C), from full covariances, each class left out by leaving it out."""
    training = data.for_training()
    x = training.features.astype(np.float64)
    if method.config.preprocessing.feature_transform == "auto":  # no feature is negative
        x, rows = np.sqrt(x), np.sqrt(rows.astype(np.float64))
    centre = x.mean(0)
    _, V = np.linalg.eigh(np.cov(x.T, bias=True))
    V = V[:, ::-1][:, : method.components]
    x, rows, seen = (x - centre) @ V, (rows - centre) @ V, np.flatnonzero(training.seen_mask)
    of_class = [x[training.labels == c] for c in seen]
    means = np.stack([part.mean(0) for part in of_class])
    residuals = np.concatenate([part - part.mean(0) for part in of_class])
    within = shrunk(residuals.T @ residuals / (len(x) - len(seen)), method.shrinkage)
    a = unit(training.descriptors.astype(np.float64))
    a = unit(a - a[seen].mean(0))
    pairs = np.sort([np.linalg.norm(a[i] - a[j]) for i in seen for j in seen if i < j])
    width = method.width * pairs[(len(pairs) - 1) // 2]

    def predicted(known, targets, asked, penalty):
        A = kernels(a[known], a[known], method.kernel, width) + penalty * np.eye(len(known))
        k = kernels(a[asked], a[known], method.kernel, width)
        own = np.diag(kernels(a[asked], a[asked], method.kernel, width))
        solved = np.linalg.solve(A, k.T)
        return solved.T @ targets, own + penalty - np.einsum("ij,ji->i", k, solved)

    def left_out(penalty):
        centred, errors, variances = means - means.mean(0), [], []
        for i in range(len(seen)):
            others = np.delete(np.arange(len(seen)), i)
            mean, v = predicted(seen[others], centred[others], seen[[i]], penalty)
            errors.append(centred[i] - mean[0])
            variances.append(v[0])
        return np.array(errors), np.array(variances)

    def log_density(penalty):
        errors, variances = left_out(penalty)
        scaled = np.array([e @ np.linalg.solve(within, e) for e in errors]) / variances
        scale = scaled.mean() / len(within)
        return -sum(len(within) * np.log(scale * v) for v in variances)

    penalty = max(PENALTIES, key=log_density)
    errors, variances = left_out(penalty)
    between = (errors / variances[:, None]).T @ errors / len(seen)
    level = np.trace(np.linalg.solve(within, between)) / len(within)
    share = method.error_shrinkage
    between = (1 - share) * between + share * level * within
    scores = np.empty((len(rows), data.num_classes))
    for i, c in enumerate(seen):
        covariance = (1 + 1 / len(of_class[i])) * within
        scores[:, c] = multivariate_normal(means[i], covariance).logpdf(rows)
    unseen = np.flatnonzero(~training.seen_mask)
    mean, v = predicted(seen, means - means.mean(0), unseen, penalty)
    for i, c in enumerate(unseen):
        covariance = within + v[i] * between
        scores[:, c] = multivariate_normal(means.mean(0) + mean[i], covariance).logpdf(rows)
    return scores - multivariate_normal(np.zeros(len(within)), within).logpdf(rows)[:, None]


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("components", [4, 9])
def test_scores_are_log_densities(kernel, components):
    method = Gaussian(DOUBLE, kernel=kernel, components=components, shrinkage=0.3)
    rows = DATA.for_testing().features
    found = method.fit(DATA.for_training(), device="cpu").recognizer.scores(rows)
    wanted = by_hand(DATA, rows, method)
    assert np.ptp(wanted) > 5
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_left_out_errors_are_those_of_leaving_out():
    """Their spread, before it is shrunk, and the predicted means, by separate regressions."""
    rng = np.random.default_rng(0)
    descriptors, means = torch.from_numpy(rng.random((9, 3))), torch.from_numpy(rng.random((9, 4)))
    how = {"kernel": "rbf", "width": 1.0, "unit": False, "shrinkage": 0.0}
    regression, basis = ClassRegression.fit(descriptors, means, **how)
    points, centred = regression.known, (means - means.mean(0)) @ basis
    total = torch.zeros(4, dtype=torch.float64)
    for i in range(9):
        others = [j for j in range(9) if j != i]
        gram = torch.exp(-0.5 * (torch.cdist(points, points) / regression.width) ** 2)
        A = gram[others][:, others] + regression.noise * torch.eye(8)
        weights = torch.linalg.solve(A, gram[others, i])
        variance = 1 + regression.noise - gram[others, i] @ weights
        total += (centred[i] - weights @ centred[others]).square() / variance
    torch.testing.assert_close(regression.spread, total / 9, rtol=1e-6, atol=1e-9)
    assert regression.noise in PENALTIES


def test_less_is_known_of_a_class_far_from_all_others():
    method = Gaussian(DOUBLE)
    head = method.fit(DATA.for_training(), device="cpu").recognizer.head
    assert isinstance(head, GaussianHead)
    seen = DATA.descriptors[np.flatnonzero(DATA.for_training().seen_mask)]
    _, near = head.regression(torch.from_numpy(seen))
    _, far = head.regression(-torch.from_numpy(seen))
    assert near.mean() < far.mean()


# --- inference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["none", "sqrt"])
@pytest.mark.parametrize("encoded", [False, True])
def test_fused_scores_are_those_of_the_formula(transform, encoded):
    config = SINGLE.replace({"preprocessing": {"feature_transform": transform}})
    recognizer = Gaussian(config, components=5).fit(DATA.for_training(), device="cpu").recognizer
    if encoded:
        weight = torch.eye(9) + 0.1
        recognizer = replace(recognizer, refiner=LinearReLU(weight, torch.full((9,), -0.1)))
    recognizer.calibration = 0.7
    x = torch.from_numpy(DATA.for_testing().features)
    torch.testing.assert_close(recognizer.scores(x), recognizer(x), rtol=1e-4, atol=1e-4)
    plain = recognizer.preprocessing(x)
    refined = torch.relu(plain @ weight.T - 0.1) if encoded else plain
    torch.testing.assert_close(recognizer.refine(x), refined, rtol=1e-4, atol=1e-5)


def test_scores_do_not_depend_on_the_batch():
    recognizer = Gaussian(SINGLE).fit(DATA.for_training(), device="cpu").recognizer
    rows = DATA.for_testing().features
    whole = recognizer.scores(rows)
    np.testing.assert_allclose(recognizer.scores(rows, batch_size=1), whole, rtol=1e-4, atol=1e-4)


def test_single_precision_is_enough():
    """Features far from zero, hundreds of them, a few rows each."""
    data = linear_world(signal=150, nuisance=50, per_class=6)
    found, exact = (
        Gaussian(config).fit(data.for_training(), device="cpu").recognizer.scores(data.features)
        for config in (SINGLE, DOUBLE)
    )
    assert np.abs(found - exact).max() < 1e-2 * np.ptp(exact, axis=1).mean()


def test_a_file_of_it_gives_the_same_scores(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    recognizer = Gaussian(SINGLE).fit(DATA.for_training(), device="cpu").recognizer
    rows = DATA.for_testing().features
    export_onnx(recognizer, tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["scores"], {"features": rows})
    np.testing.assert_allclose(found, recognizer.scores(rows), rtol=1e-4, atol=1e-3)


# --- data of all kinds --------------------------------------------------------------------------


def signed() -> GZSLDataset:
    data = tiny()
    return dataclasses.replace(data, features=data.features - 1)


def repeated_descriptors() -> GZSLDataset:
    data = tiny()
    descriptors = data.descriptors.copy()
    descriptors[[1, 7, 8]] = descriptors[0]
    return dataclasses.replace(data, descriptors=descriptors)


def one_image_a_class() -> GZSLDataset:
    """Of each seen class in training."""
    data = linear_world(classes=12, unseen=4, noise=0.01)
    rows = data.split.trainval
    first = rows[np.unique(data.labels[rows], return_index=True)[1]]
    split = Split(first, data.split.test_seen, data.split.test_unseen)
    return dataclasses.replace(data, split=split)


CASES = {
    "signed": signed(),
    "fewer rows than features": linear_world(per_class=5, signal=200),
    "identical descriptors": repeated_descriptors(),
    "one image a class": one_image_a_class(),
    "no unseen class": dataset(DATA.features, DATA.labels, DATA.descriptors, range(0), seed=0),
}


@pytest.mark.parametrize("case", CASES)
def test_odd_data_are_learned(case):
    data = CASES[case]
    recognizer = Gaussian(SINGLE).fit(data.for_training(), device="cpu").recognizer
    test = data.for_testing()
    scores = recognizer.scores(test.features)
    assert np.isfinite(scores).all()
    chosen = scores.argmax(1) == test.labels
    assert chosen.mean() > 3 / data.num_classes


def test_rows_in_a_file_give_the_same(monkeypatch, tmp_path):
    whole = Gaussian(DOUBLE).fit(DATA.for_training(), device="cpu").recognizer.scores(DATA.features)
    save_dataset(DATA, tmp_path / "data")
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "0")
    monkeypatch.setattr(gaussian, "CHUNK_ROWS", 7)
    training = load_dataset(tmp_path / "data").for_training()
    assert isinstance(training.features, StoredRows)
    parts = Gaussian(DOUBLE).fit(training, device="cpu").recognizer.scores(DATA.features)
    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-6)


def test_principal_directions_of_many_features():
    """By subspace iteration, as those of a full decomposition."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 120)) * np.logspace(0, -3, 120))
    covariance = x.T @ x
    found = gaussian._principal(covariance, 10)
    _, wanted = torch.linalg.eigh(covariance)
    wanted = wanted[:, -10:]
    torch.testing.assert_close(found @ found.T, wanted @ wanted.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"shrinkage": 0.0}, {"components": 0}, {"kernel": "poly"}])
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Gaussian(**wrong)


# --- the protocol -------------------------------------------------------------------------------


def test_test_rows_may_be_noise():
    rng = np.random.default_rng(0)
    features, labels = DATA.features.copy(), DATA.labels.copy()
    for rows in (DATA.split.test_seen, DATA.split.test_unseen):
        features[rows] = rng.random((len(rows), features.shape[1])) * 100
        labels[rows] = rng.permutation(labels[rows])
    noise = dataclasses.replace(DATA, features=features, labels=labels)
    ours, theirs = (Gaussian(SINGLE).choose(one, device="cpu") for one in (DATA, noise))
    assert ours.method == theirs.method
    assert ours.recognizer.calibration == theirs.recognizer.calibration
    probe = DATA.for_testing().features
    np.testing.assert_array_equal(ours.recognizer.scores(probe), theirs.recognizer.scores(probe))


def test_unseen_classes_are_recognised():
    """H by chance is 4."""
    _, tested = choose_and_test(Gaussian(SINGLE), linear_world(noise=0.1))
    assert tested.H is not None
    assert tested.H > 60


def test_shrinkages_share_one_pass(monkeypatch):
    passes = []
    of = gaussian.Statistics.of
    monkeypatch.setattr(gaussian.Statistics, "of", lambda *a: passes.append(1) or of(*a))
    training = DATA.for_training()
    found = {one.shrinkage: r for one, r in Gaussian(SINGLE).candidates(training, device="cpu")}
    assert set(found) == set(Gaussian().choices)
    assert len(passes) == 1
    alone = Gaussian(SINGLE, shrinkage=0.3).fit(training, device="cpu").recognizer
    np.testing.assert_array_equal(alone.scores(DATA.features), found[0.3].scores(DATA.features))


# --- growth -------------------------------------------------------------------------------------


def described(descriptors) -> GZSLDataset:
    """`DATA` with further classes that have descriptors only."""
    names = [*DATA.class_names, *(f"new {i}" for i in range(len(descriptors)))]
    every = np.concatenate([DATA.descriptors, descriptors])
    return dataclasses.replace(DATA, descriptors=every, class_names=tuple(names))


def test_an_added_class_is_as_if_described_from_the_start(tmp_path):
    before = Gaussian(SINGLE).fit(DATA.for_training(), device="cpu").recognizer
    save_model(before, tmp_path)
    training = described(NEW).for_training()
    wanted = Gaussian(SINGLE).fit(training, device="cpu").recognizer
    x = DATA.features
    for model in (before, load_model(tmp_path)):
        grown, exemplars = add_classes(model, None, ["new 0", "new 1"], 3 * NEW)
        assert exemplars is None
        assert grown.class_names == wanted.class_names
        np.testing.assert_allclose(grown.scores(x), wanted.scores(x), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(grown.scores(x)[:, :9], before.scores(x), rtol=1e-5, atol=1e-4)
        assert torch.equal(grown.head.weight[:9], before.head.weight)
        assert grown.metadata.history[-1]["classes"] == ["new 0", "new 1"]
        back, _ = remove_classes(grown, None, ["new 0", "new 1"])
        assert back.class_names == before.class_names
        assert torch.equal(back.head.weight, before.head.weight)
        other = rename_classes(grown, {"new 0": "okapi"})
        assert torch.equal(other.head.weight, grown.head.weight)


def test_a_class_is_added_after_all_seen_ones_were_removed():
    """What the regression learned stays."""
    model = Gaussian(SINGLE).fit(DATA.for_training(), device="cpu").recognizer
    gone = [n for n, s in zip(DATA.class_names, model.seen_mask.tolist(), strict=True) if s]
    small, _ = remove_classes(model, None, gone)
    grown, _ = add_classes(small, None, ["one"], NEW[:1])
    wanted, _ = add_classes(model, None, ["one"], NEW[:1])
    assert torch.equal(grown.head.weight[-1], wanted.head.weight[-1])
    assert torch.equal(grown.head.bias[-1], wanted.head.bias[-1])
    assert np.isfinite(grown.scores(DATA.features)).all()


def test_growing_leaves_the_model_as_it_is():
    model = Gaussian(SINGLE).fit(DATA.for_training(), device="cpu").recognizer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grown, _ = add_classes(model, None, ["one"], NEW[:1])
    grown.double()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_no_samples_are_asked_of_it():
    model = Gaussian(SINGLE).fit(DATA.for_training(), device="cpu").recognizer
    with pytest.raises(DataError, match="expected none for a gaussian head"):
        add_classes(model, None, ["one"], NEW[:1], synthetic_per_class=5)


def test_a_served_model_takes_classes(tmp_path):
    model = Gaussian(SINGLE).fit(DATA.for_training(), device="cpu").recognizer
    save_model(model, tmp_path)
    engine = load_engine(tmp_path, "cpu")
    change = Change("add", "okapi", description=Description(vector=tuple(NEW[0].tolist())))
    assert engine.change([change]) == [None]
    assert engine.catalogue.names[-1] == "okapi"
    assert load_engine(tmp_path, "cpu", changes=False).describer is None
