"""What is told about classes that are added by a description: text, descriptor, attraction."""

import json

import numpy as np
import pytest

from fake_backbones import Letters
from mlis import check
from mlis.data.dataset import GZSLDataset
from mlis.features.descriptors.class_descriptions import read_descriptions
from mlis.features.descriptors.describe import describe
from mlis.features.descriptors.new_classes import descriptions_like
from mlis.features.descriptors.visual_words import says_little, visual_words
from mlis.incremental import add_classes, add_images, remove_classes, rename_classes
from mlis.incremental.class_warnings import ATTRACTS, attraction
from mlis.methods.gaussian import Gaussian
from mlis.methods.raw import RidgeSoftmax
from mlis.model.heads import LinearHead
from mlis.model.recognizer import Metadata, replace
from simulated import linear_world, small

GOOD = "A red bird with a yellow beak and a long tail."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a bird", []),
        ("A very popular plant, first described by Linnaeus in 1753.", []),
        ("It is kept as a pet in many countries.", []),
        ("Known for a long time, it came back in the 1950s.", ["long"]),
        ("It is hard to find, and one of five with light wood.", []),
        ("a bluish, star-shaped bloom", ["bluish", "star", "shaped"]),
        ("STRIPES on the LEGS; hooves", ["stripes", "legs", "hooves"]),
        ("dotted, furry, leafless", ["dotted", "furry", "leafless"]),
    ],
)
def test_words_for_what_can_be_seen(text, words):
    assert visual_words(text) == words


def test_one_such_word_is_little():
    assert says_little(["a striped animal"])
    assert says_little(["a red one", "a red thing"])
    assert not says_little(["a red one", "a thing with stripes"])


@pytest.fixture(scope="module")
def trained():
    """Data with many classes described only, and its models."""
    data = linear_world(classes=30, unseen=8, per_class=12, noise=0.3)
    return data, models_of(data)


class Told(list[tuple[str, str]]):
    """What `add_classes` told of classes."""

    def __call__(self, name: str, problem: str) -> None:
        self.append((name, problem))


def models_of(data):
    """The two kinds that can be grown: from exemplars, and in closed form."""
    config = small(generation={"generator": "ridge"})
    linear = RidgeSoftmax(config).fit(data.for_training(), device="cpu")
    gaussian = Gaussian(small()).fit(data.for_training(), device="cpu")
    return [(linear.recognizer, linear.exemplars), (gaussian.recognizer, None)]


def test_a_class_that_attracts_images_of_others_is_told_with_its_share():
    """Classes described only lie on one side, apart from one that is put among the seen ones."""
    rng = np.random.default_rng(0)
    known = rng.normal(size=(28, 6)).astype(np.float32)
    known[20:, :2] = np.abs(known[20:, :2]) + 6
    labels = np.repeat(np.arange(28), 8)
    features = known[labels] @ rng.normal(size=(6, 16)) + 0.2 * rng.normal(size=(224, 16))
    features = (features - features.min()).astype(np.float32)
    data = GZSLDataset.from_arrays(features, labels, known, unseen_classes=range(20, 28))
    for model, exemplars in models_of(data):
        told = Told()
        hub = np.array([[0, 0, 0, 0, 0, 0.1]], dtype=np.float32)
        grown, kept = add_classes(model, exemplars, ["hub"], hub, warn=told)
        shares = attraction(grown, kept)
        assert np.flatnonzero(np.isfinite(shares)).tolist() == list(range(20, 29))
        assert np.nansum(shares) == pytest.approx(1)
        assert shares[-1] >= ATTRACTS / 9
        assert [text for _, text in told if f"{shares[-1]:.0%}" in text and "11%" in text]
        assert {name for name, _ in told} == {"hub"}
        found = check(grown, kept).of_check("attracts")
        assert ("hub",) in [one.classes for one in found]


@pytest.mark.parametrize("count", [3, 4])
def test_fewer_than_four_classes_are_not_compared(trained, count):
    _, ((model, exemplars), _) = trained
    left, kept = remove_classes(model, exemplars, model.class_names[-8:-count])
    bias = left.head.bias.clone()
    bias[-1] += 1e6  # is the best one for all images
    hub = replace(left, head=LinearHead(left.head.weight, bias))
    assert attraction(hub, kept)[-count:].tolist() == [0] * (count - 1) + [1]
    found = [one.classes for one in check(hub, kept).of_check("attracts")]
    assert found == ([(left.class_names[-1],)] if count > 3 else [])


def test_images_that_a_class_learnt_from_are_not_those_of_others(trained):
    data, ((model, exemplars), _) = trained
    name = model.class_names[-1]
    own = data.features[data.labels == data.num_classes - 1]
    grown, kept = add_images(model, exemplars, {name: np.repeat(own, 20, axis=0)})
    shares = attraction(grown, kept)
    others = np.flatnonzero(~model.seen_mask.numpy())[:-1]
    assert np.flatnonzero(np.isfinite(shares)).tolist() == others.tolist()
    of_seen = kept.chosen(np.arange(len(model.class_names) - 1))  # without its images
    smaller, _ = remove_classes(grown, None, [name])
    np.testing.assert_allclose(shares[:-1], attraction(smaller, of_seen))
    assert not [one for one in check(grown, kept).of_check("attracts") if name in one.classes]


def test_without_a_seen_class_nothing_attracts(trained):
    data, ((model, exemplars), _) = trained
    name = model.class_names[-1]
    grown, kept = add_images(model, exemplars, {name: data.features[-3:]})
    seen = [name for name, seen in zip(model.class_names, model.seen_mask, strict=True) if seen]
    smaller, few = remove_classes(grown, kept, seen)
    assert np.isnan(attraction(smaller, few)).all()


def test_real_descriptions_attract_no_more_than_their_share(trained):
    data, models = trained
    for model, exemplars in models:
        for name in model.class_names[-3:]:
            told = Told()
            row = data.descriptors[data.class_names.index(name)][None]
            add_classes(*remove_classes(model, exemplars, [name]), [name], row, warn=told)
            assert [text for _, text in told if "attract" in text] == []


def with_texts(recognizer, texts):
    sources = {"descriptors": {"texts": texts}}
    return replace(recognizer, metadata=Metadata(sources=sources))


def test_a_text_that_says_nothing_is_told_and_kept(trained, caplog):
    data, (_, (model, _)) = trained
    rng = np.random.default_rng(1)
    vectors = data.descriptors[:2] + rng.normal(0, 0.5, data.descriptors[:2].shape)
    known = with_texts(model, {name: [GOOD] for name in model.class_names})
    said = {"bird": ["a bird"], "macaw": ["A blue bird", "with a yellow breast and long tail"]}
    grown, _ = add_classes(known, None, list(said), vectors, sentences=said)
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "'a bird'" in text]
    assert not [text for text in told if "macaw" in text and "seen" in text]
    (found,) = check(grown).of_check("no-visual-words")
    assert found.classes == ("bird",)


def vague(recognizer):
    """The classes whose text `check` names."""
    return [one.classes for one in check(recognizer).of_check("no-visual-words")]


def test_sentences_follow_the_names_of_classes(trained):
    data, (_, (model, _)) = trained
    one, other = model.class_names[:2]
    texts = {name: [GOOD] for name in model.class_names} | {one: ["a bird"]}
    known = with_texts(model, texts)
    assert vague(known) == [(one,)]
    assert vague(rename_classes(known, {one: "new"})) == [("new",)]
    assert vague(rename_classes(known, {one: other, other: one})) == [(other,)]
    smaller, _ = remove_classes(known, None, [one])
    assert vague(smaller) == []
    again, _ = add_classes(smaller, None, [one], data.descriptors[:1])
    assert vague(again) == []


def test_sentences_are_of_classes_in_any_unicode_form(trained):
    data, (_, (model, _)) = trained
    known = with_texts(model, {name: [GOOD] for name in model.class_names})
    row = data.descriptors[:1] + np.random.default_rng(1).normal(0, 0.5, data.descriptors[:1].shape)
    grown, _ = add_classes(known, None, ["cafe\u0301"], row, sentences={" cafe\u0301": ["a bird"]})
    assert vague(grown) == [("caf\u00e9",)]


def test_images_of_a_known_class_leave_its_sentences(trained):
    data, (_, (model, _)) = trained
    name = model.class_names[0]
    known = with_texts(model, {each: [GOOD] for each in model.class_names})
    for said in ({name: ()}, {name: ["a bird"]}):  # are of added classes alone
        grown, _ = add_images(known, None, {name: data.features[:2]}, sentences=said)
        assert grown.metadata.sources["descriptors"]["texts"][name] == [GOOD]


def test_nothing_is_told_of_texts_where_the_training_s_are_like_them(trained):
    data, (_, (model, _)) = trained
    other = with_texts(model, {name: ["ein Vogel"] for name in model.class_names})
    told = Told()
    row = data.descriptors[:1] + np.random.default_rng(1).normal(0, 0.5, data.descriptors[:1].shape)
    said = {"vogel": ["ein Vogel"]}
    add_classes(other, None, ["vogel"], row, sentences=said, warn=told)
    assert told == []


def test_the_record_of_descriptors_keeps_sentences_but_not_names(tmp_path):
    (tmp_path / "t.csv").write_text("name,text\ncat,abba\nowl,cafe\n")
    record = dict(describe(read_descriptions(tmp_path / "t.csv"), Letters()).record)
    assert json.loads(json.dumps(record))["texts"] == {"cat": ["abba"], "owl": ["cafe"]}
    said, _ = descriptions_like(record, {"bee": "bead"}, model=Letters())
    assert said.sentences == (("bead",),)
    names = read_descriptions(tmp_path / "t.csv", sentences=["name"])
    assert "texts" not in describe(names, Letters()).record
