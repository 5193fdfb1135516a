"""Explanations by sentences: which are weighed, what they say, and what is embedded again."""

import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mlis
from mlis.data.io.folder import check_sources
from mlis.errors import DataError
from mlis.explanation import Attribute, Explainer, Explanation, explain, sentence_encoder
from mlis.explanation.sentences import MOST, sentences_of
from mlis.methods.registry import build_method
from mlis.model.attribute_evidence import AttributeRegression
from mlis.model.recognizer import replace
from simulated import small
from worded import SIZE, Words, worded_world


@pytest.fixture(scope="module")
def data():
    return worded_world()


@pytest.fixture(scope="module")
def recognizer(data):
    return build_method("gaussian").choose(data, seed=0).recognizer


@pytest.fixture(scope="module")
def explainer(recognizer):
    return Explainer(recognizer, None, sentence_encoder(recognizer, Words()))


def ask(explainer, data, label):
    """Explanations of a class's images: the last but one class is the answer, the last follows."""
    rows = np.flatnonzero(data.labels == data.num_classes + label)
    scores = np.zeros((len(rows), data.num_classes))
    scores[:, -2:] = 2, 1
    return explainer(data.features[rows], scores)


def changed(recognizer, **values):
    record = {**recognizer.metadata.sources["descriptors"], **values}
    metadata = dataclasses.replace(recognizer.metadata, sources={"descriptors": record})
    return replace(recognizer, metadata=metadata)


def test_the_sentences_that_differ_decide(explainer, data):
    own, other = data.class_names[-2:]
    for one in ask(explainer, data, -2):
        assert {(each.name, each.of) for each in one.attributes} == {
            ("It looks like 98.", own),
            ("It looks like 99.", other),
        }
        assert sum(each.evidence for each in one.attributes) > 0.5
    for one in ask(explainer, data, -1):
        assert sum(each.evidence for each in one.attributes) < -0.5


def test_the_values_are_cosines_without_what_all_share(recognizer, explainer, data):
    seen = recognizer.seen_mask.numpy()
    classes = data.descriptors.astype(np.float64)
    texts = sentences_of(recognizer, data.class_names[-2])
    apart = Words().encode(texts).astype(np.float64) - classes[seen].mean(axis=0)
    known = np.array([[c @ u / np.linalg.norm(u) for u in apart] for c in classes])
    refiner, head = recognizer.gaussian_part()
    means, variances = head.moments()
    regression = AttributeRegression(means[seen], variances[seen].mean(0))
    penalty = regression.fit(torch.from_numpy(classes[seen])).penalty
    fitted = regression.fit(torch.from_numpy(known[seen]), penalty)
    row = np.flatnonzero(data.labels == data.num_classes - 2)[:1]
    h = head.coordinates(refiner(recognizer.preprocessing(torch.from_numpy(data.features[row]))))
    pair = (torch.from_numpy(known[[c]]) for c in (-2, -1))
    evidence = fitted.evidence(fitted.predict(h), *pair)[0]
    own = [one for one in ask(explainer, data, -2)[0].attributes if one.of == data.class_names[-2]]
    assert own
    for each in own:
        place = texts.index(each.name)
        assert each.evidence == pytest.approx(evidence[place].item(), rel=1e-3, abs=1e-3)
        assert each.answer == pytest.approx(known[-2, place], abs=1e-5)
        assert each.runner_up == pytest.approx(known[-1, place], abs=1e-5)


def test_attributes_and_similarity_stay_beside_sentences(recognizer, data):
    named = changed(recognizer, columns=[f"number {i}" for i in range(SIZE)])
    x = data.features[:40]
    encoder = sentence_encoder(named, Words())
    both, alone = Explainer(named, None, encoder)(x), Explainer(named)(x)
    assert [one.similarity for one in both] == [one.similarity for one in alone]
    assert any(each.of for one in both for each in one.attributes)
    assert any(not each.of for one in both for each in one.attributes)
    for one, other in zip(both, alone, strict=True):
        plain = {each.name: each for each in other.attributes}
        assert {each.of for each in one.attributes} <= {"", one.answer, one.runner_up}
        assert len(one.attributes) <= 5
        values = [each.evidence for each in one.attributes]
        assert values == sorted(values, reverse=True)
        for each in one.attributes:
            if not each.of and each.name in plain:
                assert each == plain[each.name]


def test_an_explanation_does_not_depend_on_the_other_rows(explainer, data):
    whole = explainer(data.features[::50])
    for row, one in enumerate(whole):
        (alone,) = explainer(data.features[::50][row : row + 1])
        assert [each.name for each in alone.attributes] == [each.name for each in one.attributes]
        for each, other in zip(alone.attributes, one.attributes, strict=True):
            assert each.evidence == pytest.approx(other.evidence, rel=1e-4, abs=1e-4)


def test_a_sentence_that_fits_the_other_class_better_is_left_out(recognizer, data):
    """The last class is described as the one before it: so neither has one of its own."""
    own, other = data.class_names[-2:]
    texts = {name: list(sentences_of(recognizer, name)) for name in data.class_names}
    same = changed(recognizer, texts={**texts, other: texts[own], own: texts[other]})
    for one in ask(Explainer(same, None, sentence_encoder(same, Words())), data, -2):
        assert one.attributes == ()
        assert one.because.startswith("similarity")


def test_sentences_beside_attributes(data):
    """Joined descriptors, of which one class has no attribute: its sentences count as others'."""
    record = {**data.provenance.sources["descriptors"], "size": SIZE + 3}
    record["attributes"] = [{"name": ""}] * 3
    numbers = np.random.default_rng(0).random((data.num_classes, 3), dtype=np.float32)
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    text = data.descriptors * np.float32(np.sqrt(0.5))
    text[0], numbers[0] = data.descriptors[0], 0
    joined = np.concatenate([text, numbers * np.float32(np.sqrt(0.5))], axis=1)
    provenance = dataclasses.replace(data.provenance, sources={"descriptors": record})
    changed_data = dataclasses.replace(data, descriptors=joined, provenance=provenance)
    model = build_method("gaussian").choose(changed_data, seed=0).recognizer
    found = ask(Explainer(model, None, sentence_encoder(model, Words())), data, -2)
    assert all(sum(each.evidence for each in one.attributes) > 0.5 for one in found)
    scores = np.zeros((1, data.num_classes))
    scores[0, [0, 1]] = 2, 1
    row = np.flatnonzero(data.labels == 0)[:1]
    (one,) = Explainer(model, None, sentence_encoder(model, Words()))(data.features[row], scores)
    for each in one.attributes:
        assert abs(each.answer) <= 1
        if each.of == one.answer:
            assert each.answer > each.runner_up


def test_each_sentence_is_embedded_once(recognizer, data):
    model = Words()
    encoder = sentence_encoder(recognizer, model)
    assert model.asked == []
    Explainer(recognizer, None, encoder)(data.features[:3])
    asked = list(model.asked)
    assert len(asked) == len(set(asked)) <= 3 * 2 * 3
    vector = data.descriptors[:1]
    words = {"okapi": ["Striped legs. A long neck."]}
    grown, _ = mlis.add_classes(recognizer, None, ["okapi"], -vector, sentences=words)
    assert sentences_of(grown, "okapi") == ("Striped legs.", "A long neck.")
    renamed = mlis.rename_classes(grown, {data.class_names[0]: "new"})
    assert sentences_of(renamed, "new") == sentences_of(recognizer, data.class_names[0])
    Explainer(renamed, None, encoder)(data.features[:3])
    assert set(model.asked) - set(asked) <= {"Striped legs.", "A long neck."}
    assert len(model.asked) == len(set(model.asked))


def test_texts_are_split_into_sentences(recognizer, data):
    def split(*texts):
        return sentences_of(changed(recognizer, texts={data.class_names[0]: [*texts]}), name)

    name = data.class_names[0]
    assert split("A red flower. Its leaves are narrow.") == (
        "A red flower.",
        "Its leaves are narrow.",
    )
    assert split("Red! Is it tall? “No.” Red!") == ("Red!", "Is it tall?", "“No.” Red!")
    assert split("It is approx. 30 cm long, e.g. in spring") == (
        "It is approx. 30 cm long, e.g. in spring",
    )
    assert split("Named after C. Linnaeus.\n Yellow.") == ("Named after C. Linnaeus.", "Yellow.")
    assert split("Like St. John's wort. It is yellow.") == (
        "Like St. John's wort.",
        "It is yellow.",
    )
    assert split("红色的花。叶子很窄。") == ("红色的花。", "叶子很窄。")
    assert split("Red.", " Red. ", "", "Blue.") == ("Red.", "Blue.")
    assert len(split(" ".join(f"It has part {i}." for i in range(MOST + 50)))) == MOST
    assert sentences_of(recognizer, "no such class") == ()


def explanation(**values):
    one = Attribute("Its petals\n curl far back.", image=0.5, **values)
    return Explanation("lily", "iris", None, (one,), (), {"lily": "tiger lily"})


@pytest.mark.parametrize(
    ("of", "evidence", "said"),
    [
        ("lily", 1.2, "tiger lily: “Its petals curl far back” +1.2"),
        ("lily", -1.2, "unlike tiger lily: “Its petals curl far back” -1.2"),
        ("iris", -0.4, "iris: “Its petals curl far back” -0.4"),
        ("iris", 0.4, "unlike iris: “Its petals curl far back” +0.4"),
    ],
)
def test_a_text_says_whose_sentence_it_is(of, evidence, said):
    found = explanation(evidence=evidence, answer=0.6, runner_up=0.2, of=of)
    assert found.because == said
    assert found.to_dict()["attributes"][0]["name"] == "Its petals\n curl far back."
    long = dataclasses.replace(found.attributes[0], name="long " * 200)
    assert len(dataclasses.replace(found, attributes=(long,)).because) < 200


def test_without_the_text_model_the_rest_is_explained(recognizer, data, caplog):
    with caplog.at_level(logging.WARNING):
        (one,) = explain(recognizer, data.features[:1])  # no model "words" is on this machine
    assert one.because.startswith("similarity to the description")
    assert "explanations leave out sentences" in caplog.text
    caplog.clear()
    other = SimpleNamespace(identity=SimpleNamespace(fingerprint="other"))
    assert sentence_encoder(recognizer, other) is None
    assert "Install the version used in training" in caplog.text


def test_a_record_that_does_not_fit_is_not_used(recognizer):
    model = Words()
    for values in ({"size": SIZE + 1}, {"text": None}, {"texts": {}}):
        assert sentence_encoder(changed(recognizer, **values), model) is None
    text = recognizer.metadata.sources["descriptors"]["text"]
    for damaged in (
        {"text": {"name": "words"}},
        {"text": {**text, "views": 5}},
        {"text": {**text, "regions": "x"}},
        {"text": {**text, "size": SIZE + 1}},
        {"attributes": None},
    ):
        with pytest.raises(DataError, match="damaged"):
            sentence_encoder(changed(recognizer, **damaged), model)
    for attributes in ([{}], 3, [5]):
        with pytest.raises(TypeError):
            check_sources({"descriptors": {"attributes": attributes}})
    with pytest.raises(DataError, match="UTF-8"):
        check_sources({"descriptors": {"texts": {"okapi": ["\ud800"]}}})


def test_a_head_without_densities_needs_training_images(data):
    config = small(generation={"generator": "ridge"})
    chosen = build_method("ridge", config).choose(data, seed=0)
    encoder = sentence_encoder(chosen.recognizer, Words())
    own, other = data.class_names[-2:]
    for one in ask(Explainer(chosen.recognizer, chosen.exemplars, encoder), data, -2):
        assert {each.of for each in one.attributes} <= {own, other}
        assert sum(each.evidence for each in one.attributes) > 0
