"""Text halves of image-text models: tiny random CLIP and SigLIP, no download."""

import json

import numpy as np
import pytest
import torch

from mlis.errors import SettingsError
from mlis.features.backbones import load_backbone
from mlis.features.descriptors.text_tower import TextTower
from tiny_clip import LENGTH, write_clip, write_siglip

pytest.importorskip("transformers")
WRITE = {"clip": write_clip, "siglip": write_siglip}
TEXTS = ["a red zebra", "the blue lion with stripes", "it is an okapi"]


@pytest.fixture(scope="module", params=list(WRITE))
def folder(request, tmp_path_factory):
    return WRITE[request.param](tmp_path_factory.mktemp(request.param))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_texts_are_embedded_in_the_space_of_the_images(folder):
    tower = TextTower(str(folder), device="cpu")
    backbone = load_backbone(str(folder), device="cpu", precision="float32")
    assert tower.size == backbone.identity.size
    vectors = tower.encode(TEXTS)
    assert vectors.shape == (3, tower.size)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[~np.eye(3, dtype=bool)].max() < 1 - 1e-4


def test_the_embedding_is_the_models_own(folder):
    """By hand, one text at a time: SigLIP is given padded texts, as it was trained, CLIP not."""
    from transformers import AutoModel, AutoTokenizer

    from mlis.features.backbones.hub import loading

    with loading(folder.name, "model", "images", ""):
        net = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        if net.config.model_type == "siglip":
            ids = ids + [0] * (LENGTH - len(ids))
        with torch.inference_mode():
            found = net.get_text_features(input_ids=torch.tensor([ids]))
        expected.append(getattr(found, "pooler_output", found)[0].numpy())
    found = TextTower(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, unit(np.stack(expected)), atol=1e-5)


def test_descriptors_by_the_model_are_its_texts(folder):
    """`--text-model` reads the model as `mlis compare` does: with it, images and texts compare."""
    pytest.importorskip("sentence_transformers")
    from mlis.features.descriptors.text_model import TextModel

    model = TextModel(str(folder), device="cpu")
    tower = TextTower(str(folder), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), tower.encode(TEXTS), atol=1e-6)
    assert model.identity.size == tower.size


def test_texts_of_a_class_are_averaged_as_unit_vectors(folder):
    tower = TextTower(str(folder), device="cpu")
    found = tower.describe([TEXTS[:2], TEXTS[2:]])
    rows = tower.encode(TEXTS)
    np.testing.assert_allclose(found, unit(np.stack([rows[:2].mean(0), rows[2]])), atol=1e-6)


def test_long_texts_are_cut_and_counted(folder):
    tower = TextTower(str(folder), device="cpu")
    long = " ".join(["zebra"] * 30)
    assert tower.cut([long, "a zebra"]) == 1
    assert tower.encode([long]).shape == (1, tower.size)


def test_a_model_without_texts_is_refused(tmp_path):
    from transformers import ViTConfig, ViTModel

    from mlis.features.backbones.hub import loading

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with loading("vit", "model", "images", ""):
        ViTModel(ViTConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"expected one that embeds images and texts.*ViTModel"):
        TextTower(str(tmp_path))


def test_weights_that_are_missing_are_not_random(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_clip(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SettingsError, match=r"text_projection\.weight are missing"):
        TextTower(str(folder))


@pytest.mark.parametrize("name", ["/no/such/model", "./models/clip"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(name):
    with pytest.raises(SettingsError, match=r"there is no such folder\.") as error:
        TextTower(name)
    assert "hf download" not in str(error.value)


def test_a_hub_that_is_not_reached_says_what_to_do(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match=r"could not be downloaded.*hf download NAME"):
        TextTower("openai/no-such-clip")


def test_a_damaged_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"})[:-3])
    with pytest.raises(SettingsError, match="contains no model that can be loaded"):
        TextTower(str(tmp_path))
