"""The zero-shot text classifier as a member of the automatic choice, and as a head of a model."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mlis import add_classes, add_images, remove_classes
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.io.checkpoint import load_model, save_model
from mlis.io.onnx import export_onnx
from mlis.methods.auto import Auto, text_member
from mlis.methods.cosine import SharedSpaceCosine
from mlis.model.heads import EnsembleHead, SharedSpaceHead
from simulated import small

SIZE, CLASSES = 16, 24
SETTINGS = small(classification={"calibration": "validation"})


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def world(*, known: bool = True, views: int = 1, noise: float = 0.25, **made) -> GZSLDataset:
    """Images scattered around their class's text, by a model like CLIP; or around something else.

    Classes differ in directions that those of others do not predict, so that only the text tells.
    """
    rng = np.random.default_rng(3)
    texts, others = unit(rng.normal(size=(2, CLASSES, SIZE)))
    labels = np.repeat(np.arange(CLASSES), 15)
    around = np.tile((texts if known else others)[labels], views)
    features = 9 * (around + noise * rng.normal(size=(len(labels), views * SIZE)))
    data = GZSLDataset.from_arrays(
        features.astype(np.float32), labels, texts, unseen_classes=[20, 21, 22, 23]
    )
    sources = {
        "backbone": {"name": "clip"},
        "descriptors": {"text": {"name": "clip", "size": SIZE}, **made},
    }
    return dataclasses.replace(
        data, provenance=dataclasses.replace(data.provenance, sources=sources)
    )


@pytest.fixture(scope="module")
def found():
    return Auto(SETTINGS, budget=math.inf).choose(world(), device="cpu")


def text_part(recognizer) -> SharedSpaceHead:
    assert isinstance(recognizer.head, EnsembleHead)
    heads = [one.head for one in recognizer.head.members]
    return next(head for head in heads if isinstance(head, SharedSpaceHead))


def test_texts_that_the_images_are_near_to_get_weight(found):
    assert list(found.report["tried"]) == ["gaussian", "text", "ridge", "mlis"]
    assert found.report["kept"]["text"] > 0
    test = world().for_testing()
    text_alone = SharedSpaceCosine(SETTINGS).fit(world().for_training(), device="cpu").recognizer
    wanted = unit(np.asarray(test.features)) @ world().descriptors.T
    np.testing.assert_allclose(text_alone.scores(test.features), wanted, atol=1e-5)
    scaled = found.recognizer.preprocessing(torch.from_numpy(np.asarray(test.features)))
    np.testing.assert_allclose(text_part(found.recognizer)(scaled).numpy(), wanted, atol=1e-4)


def test_texts_of_other_things_are_left_out():
    report = Auto(SETTINGS, budget=math.inf).choose(world(known=False), device="cpu").report
    assert "text" in report["tried"]
    assert "text" not in report["kept"]


def test_it_is_tried_only_where_one_model_made_images_and_texts():
    plain = Config().replace({"preprocessing": {"feature_transform": "none"}})
    rooted = plain.replace({"preprocessing": {"feature_transform": "sqrt"}})
    assert text_member(world(), plain)
    assert not text_member(world(), rooted)
    assert not text_member(world(text_mean=[0.0] * SIZE), plain)
    for sources in ({}, {"backbone": {"name": "clip"}, "descriptors": {"text": None}}):
        data = world()
        other = dataclasses.replace(data.provenance, sources=sources)
        assert not text_member(dataclasses.replace(data, provenance=other), plain)
    assert not text_member(world(text={"name": "minilm", "size": SIZE}), plain)
    assert not text_member(world(text={"name": "clip", "size": 5}), plain)


def test_views_are_averaged_and_attributes_beside_the_text_ignored():
    data = world(views=2)
    beside = np.random.default_rng(0).random((CLASSES, 3), dtype=np.float32)
    joined = np.hstack([0.5 * data.descriptors, beside]).astype(np.float32)
    data = dataclasses.replace(data, descriptors=joined)
    plain = Config().replace({"preprocessing": {"feature_transform": "none"}})
    (entry,) = text_member(data, plain)
    rows = np.asarray(data.for_testing().features)
    scores = entry.method.fit(data.for_training(), device="cpu").recognizer.scores(rows)
    each = unit(rows.reshape(len(rows), 2, SIZE)) @ world().descriptors.T
    np.testing.assert_allclose(scores, each.mean(1), atol=1e-4)


def test_it_is_saved_exported_and_grown_as_other_members(found, tmp_path):
    rows = np.asarray(world().for_testing().features)
    save_model(found.recognizer, tmp_path / "model", found.exemplars)
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.scores(rows), found.recognizer.scores(rows))
    new = unit(np.random.default_rng(8).normal(size=(1, SIZE))).astype(np.float32)
    grown, kept = add_classes(again, found.exemplars, ["okapi"], new)
    torch.testing.assert_close(text_part(grown).texts[-1], torch.from_numpy(new[0]))
    smaller, _ = remove_classes(grown, kept, ["okapi"])
    torch.testing.assert_close(text_part(smaller).texts, text_part(again).texts)
    shown = {"tapir": 9 * np.tile(new, (4, 1))}
    learnt, _ = add_images(again, found.exemplars, shown)  # a class without a description
    torch.testing.assert_close(text_part(learnt).texts[-1], text_part(again).texts.mean(0))


def test_it_is_exported(found, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    rows = np.asarray(world().for_testing().features)
    export_onnx(found.recognizer, tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"features": rows})
    wanted = found.recognizer.scores(rows)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
