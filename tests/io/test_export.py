"""ONNX files: the same scores in onnxruntime, everything needed in the metadata, no bad file."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from PIL import Image

import mlis.io.onnx
from cli_cases import last_json, printed, refused
from mlis import ImageClassifier
from mlis.config import Config
from mlis.errors import DataError, ModelFileError, SettingsError
from mlis.features.backbones import load_backbone
from mlis.io.checkpoint import save_model
from mlis.io.onnx import export_onnx
from mlis.model.heads import CosineHead, LinearHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Metadata, Recognizer, replace
from mlis.model.refiners import Concatenation, Identity, LinearReLU
from mlis.pipeline import fit
from simulated import small, tiny

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
DATA = tiny()
LITE = "efficientnet-lite0"


def trained(**sections) -> Recognizer:
    config: Config = small(generation={"generator": "ridge"}, **sections)
    found = fit(DATA.for_training(), config, device="cpu").recognizer
    return replace(found, calibration=0.7)


def session(path: Path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"refinement": {"components": "none"}, "preprocessing": {"feature_transform": "sqrt"}},
    ],
    ids=["encoder", "no encoder, square root"],
)
def test_scores_are_the_recognizers_for_any_batch(sections, tmp_path):
    model = trained(**sections)
    done = export_onnx(model, tmp_path / "m.onnx")
    assert done.difference < 1e-5
    assert done.size == (tmp_path / "m.onnx").stat().st_size
    run = session(tmp_path / "m.onnx").run
    for rows in (1, 2, 50):
        x = DATA.features[:rows]
        scores, chances = run(["scores", "probabilities"], {"features": x})
        np.testing.assert_allclose(scores, model.scores(x), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(chances, scipy.special.softmax(scores, axis=1), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_metadata_say_all_that_is_needed(tmp_path):
    model = replace(trained(), class_names=tuple(f"汉 {i}" for i in range(9)), temperature=1.5)
    export_onnx(model, tmp_path / "m.onnx")
    told = session(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(told["class_names"]) == list(model.class_names)
    assert json.loads(told["seen"]) == model.seen_mask.tolist()
    assert float(told["calibration"]) == 0.7
    assert float(told["temperature"]) == 1.5
    assert "features of the image model" in told["preprocessing_outside"]


def test_a_file_with_other_scores_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"precious")
    forward = mlis.io.onnx._Graph.forward
    monkeypatch.setattr(
        *(mlis.io.onnx._Graph, "forward"),
        lambda self, x: [one + 0.01 for one in forward(self, x)],
    )
    with pytest.raises(ModelFileError, match=r"off PyTorch's, more than 0\.0001"):
        export_onnx(trained(), path)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def recognizer_of_images(views: tuple[str, ...]) -> Recognizer:
    """A recognizer of EfficientNet-Lite0's features; what it says means nothing."""
    pytest.importorskip("efficientnet_lite_pytorch")
    rng = torch.Generator().manual_seed(0)
    identity = load_backbone(LITE, device="cpu", precision="float32", views=views).identity
    size = identity.size
    return Recognizer(
        preprocessing=FeatureScaler("none", torch.zeros(size), torch.full((size,), 1 / 6)),
        refiner=LinearReLU(torch.randn(32, size, generator=rng) / 10, torch.zeros(32)),
        head=LinearHead(torch.randn(5, 32, generator=rng), torch.zeros(5)),
        class_names=tuple("abcde"),
        seen_mask=np.array([True, True, True, False, False]),
        descriptors=np.eye(5, dtype=np.float32),
        metadata=Metadata({"backbone": identity.to_dict()}),
    )


@pytest.mark.slow  # the one below is of views that include this one
def test_from_pixels_to_scores(tmp_path, capsys):
    of_images = recognizer_of_images(("centre",))
    save_model(of_images, tmp_path / "model")
    path = tmp_path / "m.onnx"
    out = printed(capsys, "export", tmp_path / "model", "-o", path, "--images", "--json")
    assert "images → scores of 5 classes" in out
    assert last_json(out)["difference"] < 1e-4
    backbone = load_backbone(LITE, device="cpu", precision="float32")
    colours = np.random.default_rng(1).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    images = [Image.fromarray(one).resize((320, 280)) for one in colours]
    pixels = np.stack([backbone.prepare(image) for image in images])
    run = session(path)
    (found,) = run.run(["probabilities"], {"pixels": pixels})
    told = ImageClassifier(of_images, backbone).predict(images, k=5)
    for row, one in zip(found, told, strict=True):
        expected = {each.name: each.score for each in one.classes}
        np.testing.assert_allclose(row, [expected[name] for name in "abcde"], atol=1e-3)
    meta = run.get_modelmeta().custom_metadata_map
    assert "centre crop 224" in meta["preprocessing_outside"]
    assert json.loads(meta["backbone"])["fingerprint"] == backbone.identity.fingerprint


def test_views_of_each_image_are_joined_in_the_graph(tmp_path, capsys):
    model = recognizer_of_images(("centre", "whole", "whole-flip"))
    save_model(model, tmp_path / "model")
    out = printed(
        capsys, "export", tmp_path / "model", "-o", tmp_path / "m.onnx", "--images", "--json"
    )
    assert "images → scores of 5 classes" in out
    assert last_json(out)["difference"] < 1e-4
    classifier = ImageClassifier(model, device="cpu", precision="float32")
    noise = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((320, 280))
    run = session(tmp_path / "m.onnx")
    (found,) = run.run(["probabilities"], {"pixels": classifier.backbone.prepare(image)[None]})
    (expected,) = classifier.predict([image])
    by_name = {one.name: one.score for one in expected.classes}
    np.testing.assert_allclose(found[0], [by_name[name] for name in "abcde"], atol=1e-3)
    outside = run.get_modelmeta().custom_metadata_map["preprocessing_outside"]
    assert "views centre, whole, whole-flip, stacked" in outside


def test_other_image_models_stay_outside(tmp_path):
    from coloured import Colours

    model = replace(trained(), metadata=Metadata({"backbone": Colours().identity.to_dict()}))
    with pytest.raises(DataError, match="only a single EfficientNet-Lite can"):
        export_onnx(model, tmp_path / "m.onnx", images=True, backbone=Colours())
    with pytest.raises(DataError, match="does not know which image model"):
        export_onnx(trained(), tmp_path / "m.onnx", images=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "m.pt"], "expected a .onnx file"),
        (["-o", "absent/m.onnx"], "no folder absent"),
        (["-o", "m.onnx", "--backbone", "x"], "--backbone: not allowed without --images"),
        (["-o", "m.onnx", "--images"], "does not know which image model"),
    ],
)
def test_wrong_use(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(trained(), "model")
    assert said in refused(capsys, "export", "model", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_extra(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=r"mlis\[onnx\]"):
        export_onnx(trained(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_row_that_is_not_finite_has_no_finite_score(tmp_path):
    """A graph cannot raise an error; no row may be answered as if it were a usual one."""
    model = trained()
    export_onnx(model, tmp_path / "m.onnx")
    run = session(tmp_path / "m.onnx").run
    expected = model.scores(DATA.features[:4])
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        x = np.array(DATA.features[:4])
        x[2] = bad
        (scores,) = run(["scores"], {"features": x})
        assert not np.isfinite(scores[2]).any() or bad == 3e38
        assert not np.isfinite(scores[2]).all()
        np.testing.assert_allclose(scores[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-4, atol=1e-4)


def test_any_composition_is_exported(tmp_path):
    width = DATA.features.shape[1]
    layer = LinearReLU(torch.randn(5, width), torch.zeros(5), slope=0.2)
    head = CosineHead(torch.randn(9, width + 5), scale=20.0)
    model = replace(trained(), refiner=Concatenation([Identity(), layer]), head=head)
    assert export_onnx(model, tmp_path / "m.onnx").difference < 1e-5
    (scores,) = session(tmp_path / "m.onnx").run(["scores"], {"features": DATA.features})
    np.testing.assert_allclose(scores, model.scores(DATA.features), rtol=1e-4, atol=1e-4)
