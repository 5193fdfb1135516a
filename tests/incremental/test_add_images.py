"""Images added to classes of a trained model: Bayes' theorem, quality, consistency, errors."""

import numpy as np
import pytest
import torch

from mlis import add_classes, add_images, remove_classes, rename_classes
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError
from mlis.incremental.image_posterior import informed_sampler
from mlis.io.checkpoint import load_exemplars, load_model, save_model
from mlis.io.onnx import export_onnx
from mlis.methods.auto import together
from mlis.methods.gaussian import Gaussian
from mlis.methods.prototype import RidgePrototype
from mlis.methods.raw import RidgeSoftmax
from mlis.model.recognizer import Recognizer
from mlis.pipeline import Trained
from pairs import Pair, trained_pair
from simulated import dataset, linear_world, small, tiny

DATA = tiny()
NEW = np.array([0.5, -0.5, 0.5, 0.5], dtype=np.float32)
UNSEEN = [DATA.class_names[c] for c in DATA.unseen_classes]
DOUBLE = Config(precision="float64")


@pytest.fixture(scope="module")
def gaussian() -> Recognizer:
    return Gaussian(DOUBLE).fit(DATA.for_training(), device="cpu").recognizer


@pytest.fixture(scope="module", params=["ridge", "wgan-gp"])
def linear(request) -> Pair:
    config = small(generation={"generator": request.param}, refinement={"components": "none"})
    return trained_pair(DATA.for_training(), config, seed=1, device="cpu")


def rows_of(name: str, count: int | None = None) -> np.ndarray:
    return DATA.features[DATA.labels == DATA.class_names.index(name)][:count]


def moments(model: Recognizer, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the mean (k,) that a Gaussian head has of a class."""
    square, linear = model.head.weight[model.class_names.index(name)].numpy().reshape(2, -1)
    variance = 1 / (1 - 2 * square)
    return linear * variance, variance - 1


def whitened(model: Recognizer, rows: np.ndarray) -> np.ndarray:
    scaled = model.preprocessing(torch.from_numpy(np.float64(rows)))
    return ((scaled - model.head.offset) @ model.head.projection.T).numpy()


# --- Gaussian heads -----------------------------------------------------------------------------


def test_a_gaussian_head_has_the_conjugate_posterior(gaussian):
    name = UNSEEN[0]
    z = whitened(gaussian, rows_of(name, 3))
    m, v = moments(gaussian, name)
    grown, exemplars = add_images(gaussian, None, {name: rows_of(name, 3)})
    assert exemplars is None
    mean, variance = moments(grown, name)
    np.testing.assert_allclose(variance, 1 / (1 / v + 3), rtol=1e-9)
    np.testing.assert_allclose(mean, (m / v + 3 * z.mean(0)) / (1 / v + 3), rtol=1e-9, atol=1e-9)
    others = [i for i, other in enumerate(gaussian.class_names) if other != name]
    np.testing.assert_array_equal(
        grown.scores(DATA.features)[:, others], gaussian.scores(DATA.features)[:, others]
    )


@pytest.mark.parametrize("name", [UNSEEN[0], "class_000", "new"])
def test_images_one_by_one_or_together_give_a_gaussian_head_the_same(gaussian, name):
    """Of an unseen, a seen and a new class, in any order."""
    rows = rows_of(UNSEEN[0], 4)
    together_, _ = add_images(gaussian, None, {name: rows})
    one_by_one = gaussian
    for row in rows[::-1]:
        one_by_one, _ = add_images(one_by_one, None, {name: row[None]})
    for ours, theirs in zip(moments(one_by_one, name), moments(together_, name), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_seen_class_counts_the_images_that_it_had(gaussian):
    name = "class_000"
    count = int((DATA.labels[DATA.split.trainval] == 0).sum())
    _, v = moments(add_images(gaussian, None, {name: rows_of(name, 2)})[0], name)
    np.testing.assert_allclose(v, 1 / (count + 2), rtol=1e-9)


def test_without_a_descriptor_the_prior_is_that_of_the_seen_classes(gaussian):
    seen = [name for name in gaussian.class_names if name not in UNSEEN]
    means = np.stack([moments(gaussian, name)[0] for name in seen])
    rows = rows_of(UNSEEN[0], 2)
    grown, _ = add_images(gaussian, None, {"new": rows})
    v = means.var(0, ddof=1) * (1 + 1 / len(seen))
    mean, variance = moments(grown, "new")
    np.testing.assert_allclose(variance, v / (1 + 2 * v), rtol=1e-6, atol=1e-12)
    expected = (means.mean(0) + v * whitened(grown, rows).sum(0)) / (1 + 2 * v)
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-6)
    assert not grown.descriptors[-1].any()


# --- linear heads -------------------------------------------------------------------------------


def test_synthetic_features_lie_around_the_posterior_mean():
    """Against the formula, with a generator whose samples are the class's mean."""
    rng = np.random.default_rng(0)
    described = torch.eye(4)
    known = torch.tensor([True, True, True, False])
    x = torch.from_numpy(rng.normal(size=(16, 5)).astype(np.float32)) + 3
    y = torch.tensor([0] * 5 + [1] * 5 + [2] * 4 + [3] * 2)
    guess = torch.full((4, 5), 2.0)

    class Certain:
        def sampler(self, descriptors):
            return lambda labels, rng: guess[labels]

    settings = Config().replace({"generation": {"ridge_kernel": "linear"}}).generation
    sampler = informed_sampler(
        Certain(), settings, lambda: [(x, y)], described, known, torch.Generator(), signed=True
    )
    means = np.stack([x[y == c].double().numpy().mean(0) for c in range(4)])
    within = sum(((x[y == c].numpy() - means[c]) ** 2).sum(0) for c in range(3)) / (14 - 3)
    # orthogonal descriptors say nothing of each other: left out, a class is the mean of all
    v = ((means[:3] - means[:3].mean(0)) ** 2).mean(0)
    expected = 2 + 2 * v / (2 * v + within) * (means[3] - 2)
    found = sampler(torch.tensor([3, 0]), torch.Generator())
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert found[1].tolist() == [2] * 5


def test_a_linear_head_learns_from_images_once_or_twice(linear):
    names = UNSEEN[:2]
    once, kept = add_images(*linear, {name: rows_of(name, 4) for name in names})
    assert kept is not None
    assert len(kept.rows) == len(linear.exemplars.rows) + 8
    assert torch.equal(kept.sample_weight[-8:], torch.ones(8))
    assert not np.array_equal(once.scores(DATA.features), linear.scores(DATA.features))
    assert torch.equal(once.seen_mask, linear.seen_mask)
    assert once.calibration == linear.calibration
    more = add_images(once, kept, {"class_000": rows_of("class_000", 2), "new": rows_of(names[0])})
    assert more[0].class_names[-1] == "new"
    smaller, _ = remove_classes(*more, ["new", names[1]])
    assert smaller.class_names == tuple(n for n in linear.class_names if n != names[1])
    assert len(add_classes(*more, ["later"], NEW[None])[0].class_names) == 11


def test_an_exemplar_beyond_the_range_widens_it(linear):
    far = linear.exemplars.low + 300 * linear.exemplars.step
    grown = linear.exemplars.with_images(far[None], torch.tensor([0]))
    restored = grown.rows * grown.step + grown.low
    np.testing.assert_allclose(restored[-1], far, rtol=1e-5, atol=1e-5)
    before = linear.exemplars.rows * linear.exemplars.step + linear.exemplars.low
    assert ((restored[:-1] - before).abs() <= grown.step / 2 + 1e-6).all()


def accuracy(model: Recognizer, features: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(np.array(model.class_names)[model.predict(features)] == truth))


def world(seed: int = 3) -> GZSLDataset:
    """Descriptors tell half of what classes look like."""
    data = linear_world(seed, noise=0.2)
    own = np.random.default_rng(seed).normal(size=(data.num_classes, data.features.shape[1]))
    features = data.features + 0.3 * own[data.labels].astype(np.float32)
    return dataset(features, data.labels, data.descriptors, data.unseen_classes, seed)


@pytest.mark.parametrize("method", [Gaussian, RidgeSoftmax])
def test_description_and_images_together_are_worth_more_than_either(method):
    data = world()
    config = small(classification={"synthetic_per_unseen": 30, "max_iterations": 60})
    model = Trained.of(method(config).fit(data.for_training(), device="cpu"))
    pair = model.recognizer, model.exemplars
    unseen = [data.class_names[c] for c in data.unseen_classes]
    rows = {name: np.flatnonzero(data.labels == data.class_names.index(name)) for name in unseen}
    kept = np.concatenate([own[2:] for own in rows.values()])
    truth = np.array(data.class_names)[data.labels[kept]]
    given = {name: data.features[own[:2]] for name, own in rows.items()}
    both = accuracy(add_images(*pair, given)[0], data.features[kept], truth)
    alone = add_images(*remove_classes(*pair, unseen), given)[0]
    assert both > accuracy(pair[0], data.features[kept], truth) + 0.1
    assert both >= accuracy(alone, data.features[kept], truth) > 0.4


def test_members_of_an_ensemble_learn_as_each_alone():
    training = DATA.for_training()
    config = small(refinement={"components": "none"})
    ridge = Trained.of(RidgeSoftmax(config).fit(training, device="cpu"))
    closed = Gaussian(config).fit(training, device="cpu").recognizer
    both = together([closed, ridge.recognizer], [0.7, 2.0])
    images = {UNSEEN[0]: rows_of(UNSEEN[0], 3), "new": rows_of(UNSEEN[1], 2)}
    grown, kept = add_images(both, ridge.exemplars, images, {"new": NEW})
    parts = [add_images(closed, None, images, {"new": NEW})[0]]
    parts += [add_images(ridge.recognizer, ridge.exemplars, images, {"new": NEW})[0]]
    expected = 0.7 * parts[0].scores(DATA.features) + 2.0 * parts[1].scores(DATA.features)
    np.testing.assert_allclose(grown.scores(DATA.features), expected, rtol=1e-3, atol=1e-3)
    assert kept is not None
    assert kept.labels[-2:].tolist() == [9, 9]


# --- afterwards ---------------------------------------------------------------------------------


@pytest.mark.slow  # imports onnx
def test_exported(gaussian, tmp_path):
    pytest.importorskip("onnx")
    grown, _ = add_images(gaussian, None, {"new": rows_of(UNSEEN[0], 3)})
    export_onnx(grown, tmp_path / "grown.onnx")
    assert (tmp_path / "grown.onnx").exists()


def test_saved_loaded_and_renamed(linear, gaussian, tmp_path):
    for i, (model, exemplars) in enumerate([linear, (gaussian, None)]):
        given = {"new": rows_of(UNSEEN[0], 3)}
        grown, kept = add_images(model, exemplars, given, note="by hand")
        save_model(grown, tmp_path / str(i), kept)
        loaded = load_model(tmp_path / str(i)), load_exemplars(tmp_path / str(i))
        np.testing.assert_array_equal(loaded[0].scores(DATA.features), grown.scores(DATA.features))
        (entry,) = loaded[0].metadata.history
        assert entry["action"] == "add images"
        assert entry["images"] == {"new": 3}
        assert entry["added"] == ["new"]
        assert entry["note"] == "by hand"
        renamed = rename_classes(loaded[0], {"new": "old"})
        again = add_images(renamed, loaded[1], {"old": rows_of(UNSEEN[0], 1)})
        assert again[0].class_names[-1] == "old"
        assert remove_classes(*again, ["old"])[0].class_names == model.class_names


def test_a_class_without_a_descriptor_is_no_example_for_later_ones(gaussian, caplog):
    grown, _ = add_images(gaussian, None, {"silent": rows_of(UNSEEN[0], 2)})
    grown, _ = add_classes(grown, None, ["twin"], gaussian.descriptors[:1].numpy())
    assert "'twin' and 'class_000' are nearly identical" in caplog.text


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "descriptors", "said"),
    [
        ({}, None, "no class is named"),
        ({"a": np.zeros((2, 3))}, None, r"'a'.*\(n, \d+\).*got \(2, 3\)"),
        ({"a": rows_of(UNSEEN[0])[:0]}, None, r"n ≥ 1.*got \(0, "),
        ({"a": np.full((2, DATA.features.shape[1]), np.nan)}, None, "'a': row 0.*NaN"),
        ({"a": [rows_of(UNSEEN[0])[0], rows_of(UNSEEN[0])[1] + 1e9]}, None, "'a': row 1.*units"),
        ({"a": rows_of(UNSEEN[0])}, {"b": NEW}, "got b"),
        ({"class_000": rows_of("class_000")}, {"class_000": NEW}, "got class_000"),
        ({"a": rows_of(UNSEEN[0])}, {"a": NEW[:2]}, r"\(1, 4\).*got \(1, 2\)"),
    ],
)
def test_wrong_images(gaussian, images, descriptors, said):
    with pytest.raises(DataError, match=said):
        add_images(gaussian, None, images, descriptors)


def test_models_that_cannot(linear):
    images = {UNSEEN[0]: rows_of(UNSEEN[0], 2)}
    with pytest.raises(DataError, match=r"exemplars\.safetensors"):
        add_images(linear.recognizer, None, images)
    cosine = RidgePrototype(small()).fit(DATA.for_training(), device="cpu").recognizer
    with pytest.raises(DataError, match="expected a linear or Gaussian head, got 'cosine'"):
        add_images(cosine, linear.exemplars, images)
