"""Explanations of trained models: attributes, nearest images, and what is refused."""

import dataclasses

import numpy as np
import pytest

import mlis
from mlis.data.dataset import Provenance
from mlis.errors import DataError
from mlis.explanation import Examples, Explainer, explain
from mlis.io.checkpoint import load_model, save_model
from mlis.methods.registry import build_method
from mlis.model.recognizer import replace
from simulated import linear_world, small

COLUMNS = ["stripes", "hooves", "wings", "tail", "fur", "horns"]


def world():
    """Features linear in six named attributes; the last two unseen classes differ in one alone."""
    data = linear_world(classes=40, unseen=8, attributes=len(COLUMNS), noise=0.05)
    rng = np.random.default_rng(3)
    descriptors = rng.random((data.num_classes, len(COLUMNS))).astype(np.float32)
    descriptors[-1] = descriptors[-2]
    descriptors[-2, 2], descriptors[-1, 2] = 0.95, 0.05  # wings
    look = rng.normal(size=(len(COLUMNS), 24))
    signal = descriptors[data.labels] @ look + 0.2 * rng.normal(size=(len(data.labels), 24))
    features = np.concatenate([signal - signal.min(), data.features[:, 24:]], axis=1)
    sources = {"descriptors": {"columns": COLUMNS}}
    return dataclasses.replace(
        data,
        features=np.ascontiguousarray(features, dtype=np.float32),
        descriptors=descriptors,
        provenance=Provenance("made", sources=sources),
    )


@pytest.fixture(scope="module")
def data():
    return world()


@pytest.fixture(scope="module")
def trained(data):
    config = small(generation={"generator": "ridge"})
    return {name: build_method(name, config).choose(data, seed=0) for name in ("gaussian", "ridge")}


@pytest.fixture(scope="module")
def alike(data):
    """Test images of the class with wings that is else described like the last one."""
    rows = data.split.test_unseen
    return data.features[rows[data.labels[rows] == data.num_classes - 2]]


@pytest.mark.parametrize("name", ["gaussian", "ridge"])
def test_the_attribute_that_differs_comes_first(trained, alike, data, name, tmp_path):
    chosen = trained[name]
    save_model(chosen.recognizer, tmp_path / "model")  # the names of the columns are kept
    winged, other = data.class_names[-2:]
    scores = np.zeros((len(alike), data.num_classes))
    scores[:, -2:] = 2, 1  # another class may be the runner-up: ask for this one
    found = Explainer(load_model(tmp_path / "model"), chosen.exemplars)(alike, scores)
    assert len(found) == 20
    for one in found:
        assert (one.answer, one.runner_up) == (winged, other)
        assert one.attributes[0].name == "wings"
        assert one.attributes[0].evidence > 1
        assert one.attributes[0].answer == pytest.approx(0.95)
        assert one.similarity[0] > one.similarity[1]
        assert one.because.startswith("wings +")


def test_answers_are_those_of_the_recognizer(trained, data):
    recognizer, x = trained["gaussian"].recognizer, data.features[:30]
    found = explain(recognizer, x)
    best, _ = recognizer.top_k(x, 2)
    names = [tuple(recognizer.class_names[c] for c in row) for row in best]
    assert [(one.answer, one.runner_up) for one in found] == names
    assert {one.nearest for one in found} == {()}
    assert [len(one.attributes) for one in found] == [5] * len(found)
    for one in found:
        values = [each.evidence for each in one.attributes]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("name", ["gaussian", "ridge"])
def test_the_nearest_training_image_is_the_image_itself(trained, data, name):
    rows = data.split.trainval
    names = [f"photos/{row}.jpg" for row in rows]
    examples = Examples(data.features[rows], data.labels[rows], names)
    found = explain(trained[name].recognizer, data.features[rows[:20]], examples)
    assert [one.nearest[0].name for one in found] == names[:20]
    for one, row in zip(found, rows, strict=False):
        assert one.nearest[0].class_name == data.class_names[data.labels[row]]
        assert one.nearest[0].similarity == pytest.approx(1, abs=1e-4)
        similar = [each.similarity for each in one.nearest]
        assert similar == sorted(similar, reverse=True)
        assert one.resembles.count(";") == 2


def test_the_exemplar_buffer_serves_as_training_images(trained, data):
    chosen, rows = trained["ridge"], data.split.trainval
    kept = explain(chosen.recognizer, data.features[:20], chosen.exemplars)
    given = Examples(data.features[rows], data.labels[rows])
    full = explain(chosen.recognizer, data.features[:20], given)
    for one, other in zip(kept, full, strict=True):  # eight bits, but all rows of so few
        assert one.nearest[0].class_name == other.nearest[0].class_name
        assert one.nearest[0].similarity == pytest.approx(other.nearest[0].similarity, abs=0.02)
        assert one.attributes[0].evidence == pytest.approx(other.attributes[0].evidence, rel=0.1)
    assert other.nearest[0].name.startswith("row ")


def test_without_names_the_similarity_is_told(trained, data):
    chosen = trained["gaussian"].recognizer
    bare = replace(chosen, metadata=dataclasses.replace(chosen.metadata, sources={}))
    (one,) = explain(bare, data.features[:1])
    assert one.attributes == ()
    assert one.because == (
        f"similarity to the description of {one.answer} {one.similarity[0]:+.2f}, "
        f"of {one.runner_up} {one.similarity[1]:+.2f}"
    )


def test_a_class_without_a_descriptor_is_not_compared(trained, data, alike):
    grown, _ = mlis.add_images(trained["gaussian"].recognizer, None, {"new": alike + 3})
    (one,) = explain(grown, alike[:1] + 3)
    assert one.answer == "new"
    assert one.similarity is None
    assert one.because == ""


def test_what_cannot_be_explained_is_refused(trained, data):
    recognizer = trained["ridge"].recognizer
    with pytest.raises(DataError, match="--training"):
        explain(recognizer, data.features[:2])
    with pytest.raises(DataError, match=r"\(40, 3\)"):
        Explainer(recognizer, Examples(np.zeros((40, 3), np.float32), data.labels[:40]))
    broken = data.features[:40].copy()
    broken[17] = np.nan
    with pytest.raises(DataError, match="row 17"):
        Explainer(recognizer, Examples(broken, data.labels[:40]))
    unseen = np.flatnonzero(~data.seen_mask[data.labels])
    with pytest.raises(DataError, match="seen classes"):
        Explainer(recognizer, Examples(data.features[unseen], data.labels[unseen]))
    with pytest.raises(DataError, match="features"):
        explain(trained["gaussian"].recognizer, data.features[:2, :5])
