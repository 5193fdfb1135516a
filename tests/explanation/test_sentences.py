"""Explanations by sentences: which are weighed, what they say, and what is embedded again."""

import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mlis
from mlis.errors import DataError
from mlis.explanation import Explainer, explain, recorded_sentences
from mlis.methods.registry import build_method
from mlis.model.attribute_evidence import AttributeEvidence
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
def said(recognizer):
    return recorded_sentences(recognizer, Words())


def ask(explainer, data, rows):
    """Explanations where the last but one class is the answer, and the last the runner-up."""
    scores = np.zeros((len(rows), data.num_classes))
    scores[:, -2:] = 2, 1
    return explainer(data.features[rows], scores)


def test_the_sentences_that_differ_decide(recognizer, said, data):
    own, other = data.class_names[-2:]
    shown = np.flatnonzero(data.labels == data.num_classes - 2)
    for one in ask(Explainer(recognizer, None, said), data, shown):
        assert {(each.name, each.of) for each in one.attributes} == {
            ("It looks like 98.", own),
            ("It looks like 99.", other),
        }
        assert sum(each.evidence for each in one.attributes) > 0.5
        because = one.because.split("; ")
        assert any(text.startswith(f"{own}: “It looks like 98” +") for text in because) or any(
            text.startswith(f"unlike {other}: “It looks like 99” +") for text in because
        )


def test_another_image_turns_the_sign(recognizer, said, data):
    own, other = data.class_names[-2:]
    shown = np.flatnonzero(data.labels == data.num_classes - 1)
    for one in ask(Explainer(recognizer, None, said), data, shown):
        assert sum(each.evidence for each in one.attributes) < -0.5
        assert f"{other}: “It looks like 99” -" in one.because or (
            f"unlike {own}: “It looks like 98” -" in one.because
        )


def test_the_values_are_cosines_without_what_all_share(recognizer, said, data):
    vectors = Words().encode(said.texts).astype(np.float64)
    apart = vectors - vectors.mean(axis=0)
    known = np.array(
        [[c @ u / np.linalg.norm(u) for u in apart] for c in data.descriptors.astype(np.float64)]
    )
    descriptors = recognizer.descriptors.double()
    np.testing.assert_allclose(said.columns(descriptors).numpy(), known, atol=1e-6)
    part, seen = recognizer.gaussian_part()[1], recognizer.seen_mask
    means, variances = part.moments()
    fitted = AttributeEvidence.fit(
        means[seen], torch.from_numpy(known)[seen], variances[seen].mean(0)
    )
    row = np.flatnonzero(data.labels == data.num_classes - 2)[:1]
    (one,) = ask(Explainer(recognizer, None, said), data, row)
    x = recognizer.preprocessing(torch.from_numpy(data.features[row]))
    h = part.coordinates(recognizer.gaussian_part()[0](x))
    pair = (torch.from_numpy(known[[c]]) for c in (-2, -1))
    evidence = fitted.evidence(fitted.predict(h), *pair)[0]
    for each in one.attributes:
        place = said.texts.index(each.name)
        assert each.evidence == pytest.approx(evidence[place].item(), abs=1e-3)
        assert each.answer == pytest.approx(known[-2, place], abs=1e-5)
        assert each.runner_up == pytest.approx(known[-1, place], abs=1e-5)


def test_attributes_and_similarity_stay_beside_sentences(recognizer, said, data):
    """Only sentences of the two classes are named, and what they are called does not matter."""
    names = [f"number {i}" for i in range(SIZE)]
    record = {**recognizer.metadata.sources["descriptors"], "columns": names}
    metadata = dataclasses.replace(recognizer.metadata, sources={"descriptors": record})
    named = replace(recognizer, metadata=metadata)
    x = data.features[:40]
    both, alone = Explainer(named, None, said)(x), Explainer(named)(x)
    assert [one.similarity for one in both] == [one.similarity for one in alone]
    assert any(each.of for one in both for each in one.attributes)
    assert any(not each.of for one in both for each in one.attributes)
    for one, other in zip(both, alone, strict=True):
        plain = {each.name: each for each in other.attributes}
        assert {each.of for each in one.attributes} <= {"", one.answer, one.runner_up}
        for each in one.attributes:
            if not each.of and each.name in plain:
                assert each == plain[each.name]


def test_parts_of_many_rows_are_the_same(recognizer, said, data, monkeypatch):
    explainer = Explainer(recognizer, None, said)
    whole = explainer(data.features[:9])
    monkeypatch.setattr("mlis.explanation.explainer._NUMBERS", 1)
    for one, other in zip(whole, explainer(data.features[:9]), strict=True):
        assert one.because == other.because


def test_only_new_sentences_are_embedded(recognizer, said, data):
    model = Words()
    assert recorded_sentences(recognizer, model, said).texts == said.texts
    assert model.asked == []
    new = np.ones((1, SIZE), dtype=np.float32)
    grown, _ = mlis.add_classes(
        recognizer, None, ["okapi"], new, sentences={"okapi": ["Striped legs. A long neck."]}
    )
    more = recorded_sentences(grown, model, said)
    assert model.asked == ["Striped legs.", "A long neck."]
    assert more.owners[-2:].tolist() == [60, 60]
    assert torch.equal(more.vectors[:-2], said.vectors)
    fewer, _ = mlis.remove_classes(grown, None, [data.class_names[0]])
    assert recorded_sentences(fewer, model, more).texts == more.texts[3:]
    assert recorded_sentences(fewer, model, more).owners[0] == 0
    assert len(model.asked) == 2


def test_without_the_text_model_the_rest_is_explained(recognizer, data, caplog):
    with caplog.at_level(logging.WARNING):
        (one,) = explain(recognizer, data.features[:1])  # no model "words" is on this machine
    assert one.because.startswith("similarity to the description")
    assert "explanations leave out sentences" in caplog.text
    caplog.clear()
    other = Words()
    other.identity = SimpleNamespace(fingerprint="other")
    assert recorded_sentences(recognizer, other) is None
    assert "Install the version used in training" in caplog.text


def changed(recognizer, **values):
    record = {**recognizer.metadata.sources["descriptors"], **values}
    metadata = dataclasses.replace(recognizer.metadata, sources={"descriptors": record})
    return replace(recognizer, metadata=metadata)


def test_a_record_that_does_not_fit_is_not_used(recognizer):
    model = Words()
    for values in ({"size": SIZE + 1}, {"text": None}, {"texts": {}}, {"texts": {"other": ["A."]}}):
        assert recorded_sentences(changed(recognizer, **values), model) is None
    with pytest.raises(DataError, match="damaged"):
        recorded_sentences(changed(recognizer, text={"name": "words"}), model)


def test_a_head_without_densities_needs_training_images(said, data):
    config = small(generation={"generator": "ridge"})
    chosen = build_method("ridge", config).choose(data, seed=0)
    own, other = data.class_names[-2:]
    shown = np.flatnonzero(data.labels == data.num_classes - 2)
    for one in ask(Explainer(chosen.recognizer, chosen.exemplars, said), data, shown):
        assert {each.of for each in one.attributes} == {own, other}
        assert sum(each.evidence for each in one.attributes) > 0
