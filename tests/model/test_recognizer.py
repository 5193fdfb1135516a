"""The recognizer as a composition: any refiner and head is built, saved, loaded, and predicts."""

import json
from typing import Any, Self

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlis.errors import ModelFileError, SettingsError
from mlis.image_classifier import top_classes
from mlis.incremental import remove_classes
from mlis.io.checkpoint import load_model, save_model
from mlis.model.heads import HEADS, CosineHead, Head, LinearHead, PairHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Metadata, Recognizer, replace
from mlis.model.refiners import (
    REFINERS,
    Concatenation,
    Identity,
    Layers,
    LinearReLU,
    Refiner,
)
from mlis.storage.tensors import load_tensors, save_tensors

INPUTS, CLASSES = 6, 5
SEEN = np.array([True, True, True, False, False])
RNG = np.random.default_rng(0)
X = RNG.random((40, INPUTS)).astype(np.float32)


def draw(*shape: int) -> Tensor:
    return torch.from_numpy(RNG.normal(size=shape).astype(np.float32))


def layer(inputs: int, outputs: int, slope: float = 0.0) -> LinearReLU:
    return LinearReLU(draw(outputs, inputs), draw(outputs), slope)


def recognizer(refiner: Refiner, head: Head, **options: Any) -> Recognizer:
    scaler = FeatureScaler("none", torch.from_numpy(X.min(0)), torch.from_numpy(1 / np.ptp(X, 0)))
    names = [f"class {i}" for i in range(CLASSES)]
    return Recognizer(scaler, refiner, head, names, SEEN, np.eye(CLASSES), 0.25, **options)


REFINED = {
    "none": (Identity(), INPUTS),
    "linear": (layer(INPUTS, 4), 4),
    "leaky": (layer(INPUTS, 4, slope=0.2), 4),
    "layers": (Layers([layer(INPUTS, 8, slope=0.2), layer(8, 3)]), 3),
    "concatenation": (Concatenation([Identity(), layer(INPUTS, 4)]), INPUTS + 4),
    "nested": (Layers([Concatenation([layer(INPUTS, 2), Identity()]), layer(2 + INPUTS, 7)]), 7),
}
MADE = {
    "linear": lambda width: LinearHead(draw(CLASSES, width), draw(CLASSES)),
    "cosine": lambda width: CosineHead(draw(CLASSES, width), scale=10.0),
    "pair": lambda width: PairHead(draw(CLASSES, width), draw(width), slope=0.1),
}
COMPOSITIONS = {
    f"{name}, {kind}": recognizer(refiner, make(width))
    for name, (refiner, width) in REFINED.items()
    for kind, make in MADE.items()
}


@pytest.fixture(params=list(COMPOSITIONS))
def model(request) -> Recognizer:
    return COMPOSITIONS[request.param]


def test_batched_inference_is_the_forward_pass(model):
    with torch.no_grad():
        expected = model(torch.from_numpy(X)).numpy()
        h = model.refiner(model.preprocessing(torch.from_numpy(X))).numpy()
    found = model.scores(X, batch_size=7)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.refine(X, batch_size=7), h, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.predict(X), model.scores(X).argmax(1))
    np.testing.assert_array_equal(model.top_k(X, 1)[0][:, 0], model.predict(X))


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert repr(loaded) == repr(model)
    assert type(loaded.refiner) is type(model.refiner)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    np.testing.assert_array_equal(loaded.scores(X), model.scores(X))


def test_the_temperature_divides_scores_before_the_softmax(model, tmp_path):
    warm = replace(model, temperature=2.5)
    expected = softmax(warm.scores(X).astype(np.float64) / 2.5, axis=1)
    np.testing.assert_array_equal(warm.scores(X), model.scores(X))
    np.testing.assert_allclose(warm.probabilities(X), expected, rtol=1e-12)
    as_tensor = warm.probabilities(torch.from_numpy(X))
    assert as_tensor.dtype == torch.float32
    np.testing.assert_allclose(as_tensor, expected, rtol=1e-4, atol=1e-7)
    save_model(warm, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.temperature == 2.5
    assert remove_classes(loaded, None, [loaded.class_names[0]])[0].temperature == 2.5
    for shown, scores in zip(top_classes(loaded, X[:3], 2), expected, strict=False):
        found = [one.score for one in shown]
        np.testing.assert_allclose(found, np.sort(scores)[:-3:-1], rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_is_a_positive_number(temperature):
    with pytest.raises(SettingsError, match="temperature"):
        replace(COMPOSITIONS["none, linear"], temperature=temperature)


def test_it_is_a_module(model):
    assert isinstance(model, nn.Module)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.scores(torch.from_numpy(X)).requires_grad
    exact = replace(model).double()
    assert exact.scores(X).dtype == np.float64
    assert model.scores(X).dtype == np.float32  # a copy shares nothing
    np.testing.assert_allclose(exact.scores(X), model.scores(X), rtol=1e-4, atol=1e-4)
    other = replace(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.neg_()
    changed = other.scores(X)
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other.scores(X), model.scores(X))
    assert not np.allclose(changed, model.scores(X))


def test_a_changed_weight_or_constant_counts_at_once(model):
    other = replace(model)
    before = other.scores(X)
    other.calibration = 2.0
    np.testing.assert_allclose(before - other.scores(X), 1.75 * SEEN + 0 * before, atol=1e-4)
    with torch.no_grad():
        next(other.head.parameters()).neg_()
    assert not np.allclose(other.scores(X), before)


def test_the_cosine_head_is_the_cosine():
    model = COMPOSITIONS["none, cosine"]
    x = model.preprocessing(torch.from_numpy(X))
    expected = 10 * normalize(x, dim=1) @ normalize(model.head.prototypes, dim=1).T
    seen = 0.25 * torch.from_numpy(SEEN)
    np.testing.assert_allclose(model.scores(X), (expected - seen).numpy(), rtol=1e-5, atol=1e-5)


# --- a new kind: its class, its line in the registry, its test ------------------------------------


class Distance(Head):
    """Scores are negative squared distances to a centre per class."""

    kind = "distance"

    def __init__(self, centres: Tensor):
        super().__init__()
        self.centres = nn.Parameter(centres, requires_grad=False)

    def chosen(self, classes: Tensor) -> Self:
        return type(self)(self.centres[classes])

    def sizes(self) -> dict[str, Any]:
        return {"inputs": self.centres.shape[1], "classes": len(self.centres)}

    @classmethod
    def empty(cls, inputs: int, classes: int) -> Self:
        return cls(torch.empty(classes, inputs, device="meta"))

    def forward(self, h: Tensor) -> Tensor:
        return -torch.cdist(h, self.centres).square()


class Square(Refiner):
    """`x²`."""

    kind = "square"

    def width(self, inputs: int) -> int:
        return inputs

    def sizes(self) -> dict[str, Any]:
        return {}

    @classmethod
    def empty(cls) -> Self:
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def test_a_registered_head_and_refiner_are_built_saved_loaded_and_predict(tmp_path, monkeypatch):
    monkeypatch.setitem(HEADS, "distance", Distance)
    monkeypatch.setitem(REFINERS, "square", Square)
    refiner, centres = Concatenation([Square(), Identity()]), draw(CLASSES, 2 * INPUTS)
    model = recognizer(refiner, Distance(centres), metadata=Metadata(record={"seed": 1}))
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert "concatenation refiner, distance head" in repr(loaded)
    assert loaded.metadata.record == {"seed": 1}
    np.testing.assert_array_equal(loaded.scores(X), model.scores(X))
    scaled = model.preprocessing(torch.from_numpy(X))
    h = torch.cat([scaled**2, scaled], dim=1)
    nearest = (torch.cdist(h, centres) ** 2 + 0.25 * torch.from_numpy(SEEN)).argmin(1)
    np.testing.assert_array_equal(loaded.predict(X), nearest.numpy())
    monkeypatch.delitem(HEADS, "distance")
    with pytest.raises(ModelFileError, match=r"config\.json .*'distance'"):
        load_model(tmp_path)


# --- descriptions that are not of a model ---------------------------------------------------------


def again(folder, change) -> None:
    """Write the files of a model with another description, under right checksums."""
    tensors, _ = load_tensors(folder / "model.safetensors")
    content = json.loads((folder / "config.json").read_text())
    record = content.pop("record")
    change(content)
    text = json.dumps(content, sort_keys=True)
    save_tensors(folder / "model.safetensors", tensors, {"description": text})
    (folder / "config.json").write_text(json.dumps({**content, "record": record}))


@pytest.mark.parametrize(
    "changes",
    [
        {"head": {"kind": "linear", "inputs": 5, "classes": 5}},
        {"head": {"kind": "linear", "inputs": 4, "classes": 10**30}},
        {"head": {"kind": "linear", "inputs": -4, "classes": 5}},
        {"head": {"kind": "linear"}},
        {"head": {"inputs": 4, "classes": 5}},
        {"head": ["linear"]},
        {"head": {"kind": ["linear"]}},
        {"refiner": {"kind": "layers", "parts": [{"kind": "linear"}]}},
        {"refiner": {"kind": "layers", "parts": {}}},
        {"refiner": {"kind": "concatenation", "parts": []}},
        {"refiner": {"kind": "linear", "inputs": 6, "outputs": 4, "slope": "steep"}},
        {"preprocessing": {"transform": "log", "size": 6, "with_range": False}},
        {"preprocessing": {}},
        {"temperature": 0},
        {"temperature": "warm"},
        {"temperature": True},
        {"descriptor_size": "five"},
        {"descriptor_size": 6},
        {"class_names": ["a", "b"]},
    ],
)
def test_a_description_that_does_not_make_a_model_is_refused(changes, tmp_path):
    save_model(COMPOSITIONS["linear, linear"], tmp_path)
    again(tmp_path, lambda content: content.update(changes))
    with pytest.raises(ModelFileError, match=r"config\.json|model\.safetensors"):
        load_model(tmp_path)


def test_a_model_from_before_temperatures_has_1(tmp_path):
    model = COMPOSITIONS["none, linear"]
    save_model(model, tmp_path)
    again(tmp_path, lambda content: content.pop("temperature"))
    assert load_model(tmp_path).temperature == 1.0
    np.testing.assert_array_equal(load_model(tmp_path).probabilities(X), model.probabilities(X))


def test_huge_sizes_cost_no_memory(tmp_path):
    save_model(COMPOSITIONS["linear, linear"], tmp_path)
    huge = {"kind": "linear", "inputs": 4, "classes": 5}
    part = {"kind": "linear", "inputs": 6, "outputs": 10**12}
    back = {"kind": "linear", "inputs": 10**12, "outputs": 4}
    refiner = {"kind": "layers", "parts": [part, back]}
    again(tmp_path, lambda content: content.update(head=huge, refiner=refiner))
    with pytest.raises(ModelFileError, match="holds no tensor"):
        load_model(tmp_path)
