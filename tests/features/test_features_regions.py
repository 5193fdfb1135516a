"""Features of regions: what part of a picture each is of, who remembers and who averages them."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli_cases import last_json, printed, refused
from fake_backbones import Letters
from mlis.compute.precision import Precision
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.data.io.folder import load_folder, save_dataset
from mlis.data.out_of_core.streaming import StreamedRows
from mlis.errors import DataError, SettingsError
from mlis.features.backbones import BackboneSpec, load_backbone
from mlis.features.backbones.base import grid_means, grid_of
from mlis.features.build import redescribe
from mlis.features.descriptors.class_descriptions import read_descriptions
from mlis.features.descriptors.describe import describe, read_descriptors, write_descriptors
from mlis.image_classifier import ImageClassifier
from mlis.io.checkpoint import load_model, save_model
from mlis.methods.registry import build_method
from mlis.model.preprocessing import FeatureScaler, prepare
from simulated import of_regions, regions_world, small
from tiny_clip import write_clip


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)


# --- backbones ------------------------------------------------------------------------------------


def test_cells_of_a_map_are_averaged_row_by_row():
    maps = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    found = grid_means(maps, 2)
    assert found.shape == (2, 4, 3)
    for region, (rows, columns) in enumerate([(0, 0), (0, 3), (2, 0), (2, 3)]):
        cell = maps[:, :, rows : rows + 2, columns : columns + 3]
        torch.testing.assert_close(found[:, region], cell.mean((2, 3)))
    with pytest.raises(SettingsError, match=r"at most 4, .* 4 × 6, got 5"):
        grid_means(maps, 5)


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("efficientnet-lite0", device="cpu", precision="float32")


def test_regions_of_efficientnet_are_those_of_the_map_that_it_averages(lite0):
    model = load_backbone("efficientnet-lite0", device="cpu", precision="float32", grid=7)
    image = noise(224, 224)
    row = model([model.prepare(image)])[0]
    assert model.identity.regions == 49
    assert row.shape == (49 * 1280,)
    regions = row.reshape(49, 1280)
    np.testing.assert_allclose(regions.mean(0), lite0([lite0.prepare(image)])[0], atol=1e-4)
    darker = np.asarray(image).copy()
    darker[:, 150:] = 0  # the right third
    changed = model([model.prepare(Image.fromarray(darker))])[0].reshape(7, 7, 1280)
    by_column = np.abs(changed - regions.reshape(7, 7, 1280)).mean((0, 2))
    assert by_column[:2].max() < by_column[5:].min()


@pytest.mark.parametrize("registers", [0, 4])
def test_patch_tokens_are_averaged_without_class_and_register_tokens(tmp_path, registers):
    from transformers import (
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        ViTImageProcessorPil,
    )

    from mlis.features.backbones.hub import loading

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    config = Dinov2WithRegistersConfig(**sizes, patch_size=8, num_register_tokens=registers)
    with torch.random.fork_rng(), loading(str(tmp_path), "model", "images", ""):
        torch.manual_seed(0)
        net = Dinov2WithRegistersModel(config).eval()
        net.save_pretrained(tmp_path)
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = load_backbone(str(tmp_path), device="cpu", precision="float32", grid=2)
    inputs = model.prepare(noise(50, 40))
    with torch.inference_mode():
        tokens = net(torch.from_numpy(inputs[None])).last_hidden_state[0, 1 + registers :]
    cells = tokens.view(4, 4, 16)
    expected = [cells[r : r + 2, c : c + 2].mean((0, 1)) for r in (0, 2) for c in (0, 2)]
    np.testing.assert_allclose(model([inputs])[0], torch.cat(expected), atol=1e-5)


def test_an_image_text_model_gives_tokens_before_the_projection(tmp_path):
    from transformers import CLIPModel

    name = str(write_clip(tmp_path))
    model = load_backbone(name, device="cpu", precision="float32", grid=4)
    inputs = model.prepare(noise(50, 40))
    assert model.identity.size == 16 * 16
    with torch.inference_mode():
        tower = CLIPModel.from_pretrained(name).eval().vision_model
        expected = tower(torch.from_numpy(inputs[None])).last_hidden_state[0, 1:]
    np.testing.assert_allclose(model([inputs])[0], expected.flatten(), atol=1e-4)


def test_regions_are_part_of_a_backbones_identity(lite0):
    how = {"device": "cpu", "precision": "float32"}
    three = load_backbone("efficientnet-lite0", **how, views=None, grid=3)
    both = load_backbone("efficientnet-lite0", **how, views=["whole", "centre"], grid=3)
    plain = lite0.identity
    assert "regions" not in plain.to_dict()  # as in files from before there were regions
    assert three.identity.views == ("centre",)
    assert both.identity.regions == 18
    assert both.identity.size == 2 * three.identity.size == 18 * plain.size
    specs = [plain, three.identity, both.identity]
    assert len({one.fingerprint for one in specs}) == 3
    for spec, grid in zip(specs, (1, 3, 3), strict=True):
        assert BackboneSpec.from_dict(spec.to_dict()) == spec
        assert grid_of(spec.to_dict()) == grid
    image = noise(300, 200)
    rows = both([both.prepare(image)])[0]
    np.testing.assert_allclose(rows[9 * 1280 :], three([three.prepare(image)])[0], atol=1e-4)


@pytest.mark.parametrize(
    ("grid", "views", "said"),
    [
        (8, None, r"at most 7, .* 7 × 7, got 8"),
        (0, None, r"at least 2, got 0"),
        (2, ["centre", "centre-flip"], r"centre,centre-flip"),
    ],
)
def test_grids_that_do_not_suit(grid, views, said):
    with pytest.raises(SettingsError, match=said):
        load_backbone("efficientnet-lite0", device="cpu", grid=grid, views=views)


# --- datasets and models --------------------------------------------------------------------------


def test_photographs_to_predictions(tmp_path, capsys):
    """Extraction, dataset, training, and a photograph in the same regions as in training."""
    for i, name in enumerate("abcd"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for j in range(4):
            noise(60, 50, 10 * i + j).save(tmp_path / "in" / name / f"{j}.png")
    folder = str(tmp_path / "features")
    flags = ["--backbone", "efficientnet-lite0", "--precision", "float32", "--device", "cpu"]
    extract = ["features", "images", str(tmp_path / "in"), "-o", folder, *flags]
    printed(capsys, *extract, "--regions", "2")
    assert "--force" in refused(capsys, *extract, "--views", "centre")  # of the whole view
    (tmp_path / "classes.csv").write_text(
        "name,split,p,q\na,seen,1,0\nb,seen,0,1\nc,seen,1,0.3\nd,unseen,0.5,0\n"
    )
    data = str(tmp_path / "data")
    build = ["data", "build", "--features", folder, "--classes", str(tmp_path / "classes.csv")]
    assert "--regions" in refused(capsys, *build, "-o", data, "--regions", "2")
    printed(capsys, *build, "-o", data)
    dataset = load_dataset(data)
    assert dataset.provenance.regions == 4
    assert dataset.for_training().regions == 4
    config = small(classification={"calibration": 0.0})
    options = {"steps": 3, "choices": (3,)}
    for name in ("prototype", "dazle"):
        method = build_method(name, config, **(options if name == "dazle" else {}))
        trained = method.choose(dataset, device="cpu")
        save_model(trained.recognizer, tmp_path / name)
        classifier = ImageClassifier(load_model(tmp_path / name), device="cpu", precision="float32")
        photo = tmp_path / "in" / "a" / "0.png"
        found = classifier.backbone([classifier.backbone.prepare(Image.open(photo))])
        np.testing.assert_allclose(found[0], dataset.features[0], atol=1e-4)
        (best,) = classifier.predict([photo], k=1)
        row = classifier.recognizer.predict(np.array(dataset.features[:1]))
        assert best.classes[0].name == dataset.class_names[int(row[0])]


def test_columns_must_be_those_of_the_regions(tmp_path):
    data = regions_world(regions=4)
    with pytest.raises(DataError, match=r"columns of 5 regions.*got 96"):
        of_regions(data, 5)
    save_dataset(data, tmp_path / "data")
    text = (tmp_path / "data" / "dataset.json").read_text()
    (tmp_path / "data" / "dataset.json").write_text(text.replace('"regions": 4', '"regions": "4"'))
    with pytest.raises(DataError, match="regions: expected a positive whole number"):
        load_folder(tmp_path / "data")


def averaged(data: GZSLDataset) -> GZSLDataset:
    """One region per image, the mean of all."""
    rows = data.features.reshape(len(data.features), data.provenance.regions, -1).mean(1)
    return of_regions(replace(of_regions(data, 1), features=np.ascontiguousarray(rows)), 1)


@pytest.mark.parametrize("scaling", ["minmax", "standard", "none"])
@pytest.mark.parametrize("name", ["ridge", "prototype"])
def test_methods_without_regions_see_their_mean(name, scaling, tmp_path):
    data = regions_world()
    config = small(generation={"generator": "ridge"}, preprocessing={"feature_scaling": scaling})
    how = {"device": "cpu", "seed": 1}
    method = build_method(name, config)
    found, wanted = (method.fit(d.for_training(), **how).recognizer for d in (data, averaged(data)))
    rows = data.for_testing().features
    assert found.num_features == 96
    expected = wanted.scores(averaged(data).for_testing().features)
    np.testing.assert_allclose(found.scores(rows), expected, atol=1e-4)
    assert not found.preprocessing.signed or scaling == "standard"
    save_model(found, tmp_path)
    again = load_model(tmp_path)
    np.testing.assert_allclose(again.scores(rows), expected, atol=1e-4)
    with pytest.warns(match="outside the training range"):
        again.scores(50 * rows)


def test_statistics_and_rows_of_a_file_are_those_of_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "0")
    monkeypatch.setattr("mlis.model.preprocessing.CHUNK_ROWS", 50)
    data = regions_world()
    save_dataset(data, tmp_path / "data")
    config = small(generation={"generator": "ridge"}, preprocessing={"feature_scaling": "standard"})
    again = load_dataset(str(tmp_path / "data"))
    precision = Precision.of("float32", "cpu")
    for pool in (True, False):
        (_, whole), (_, streamed) = (
            prepare(d.for_training(), config.preprocessing, precision, pool=pool)
            for d in (data, again)
        )
        assert isinstance(streamed.x, StreamedRows)
        assert streamed.x.shape == whole.x.shape
        rows = torch.tensor([7, 0, 200])
        torch.testing.assert_close(streamed.x[rows], whole.x[rows])
        parts = list(streamed.x.split(60))
        assert [len(part) for part in parts] == [60, 60, 60, 60, 12]
        torch.testing.assert_close(torch.cat(parts), whole.x)
    method = build_method("dvbe", config, steps=3, pca=5)
    first, second = (
        method.fit(d.for_training(), device="cpu").recognizer.scores(data.features[:9])
        for d in (data, again)
    )
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_what_is_trained_depends_on_the_regions():
    data = regions_world()
    keys = {d.for_training().key for d in (data, of_regions(data, 2), of_regions(data, 1))}
    assert len(keys) == 3


def test_a_scaler_of_regions_is_that_of_the_mean():
    x = np.random.default_rng(0).random((30, 12), dtype=np.float32)
    config = small(preprocessing={"feature_transform": "sqrt"}).preprocessing
    found, wanted = (
        FeatureScaler.fit(x, config, 3),
        FeatureScaler.fit(x.reshape(30, 3, 4).mean(1), config),
    )
    rows = torch.from_numpy(x)
    torch.testing.assert_close(found(rows), wanted(rows.unflatten(1, (3, 4)).mean(1)))


# --- phrases --------------------------------------------------------------------------------------


def described(folder: Path, rows: list[tuple[str, ...]]):
    with (folder / "classes.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("name", "head", "bead"), *rows])
    words = read_descriptions(folder / "classes.csv")
    return describe(words, Letters(), phrases=True)  # pyright: ignore[reportArgumentType]


def test_names_of_attributes_and_classes_have_vectors(tmp_path):
    rows = [("abe", "1", "0"), ("bag", "0", "1"), ("cab", "1", "0.3"), ("dad", "0.5", "1")]
    write_descriptors(described(tmp_path, rows), tmp_path / "words")
    words = read_descriptors(tmp_path / "words")
    x = np.random.default_rng(0).random((40, 6))
    data = GZSLDataset.from_arrays(
        x, np.repeat(["abe", "bag", "cab", "dad"], 10), np.eye(4, 5),
        class_names=[row[0] for row in rows][::-1], unseen_classes=["dad"],
    )  # fmt: skip
    assert data.for_training().attribute_vectors is None
    assert data.for_training().name_vectors is None
    data = redescribe(data, words, name="other")
    training = data.for_training()
    letters = Letters()
    found = training.attribute_vectors
    np.testing.assert_allclose(found, letters.encode(["head", "bead"]), atol=1e-5)
    expected = letters.encode(["dad", "cab", "bag", "abe"])
    np.testing.assert_allclose(training.name_vectors, expected, atol=1e-5)
    save_dataset(data, tmp_path / "data")
    again = load_folder(tmp_path / "data").for_training()
    np.testing.assert_array_equal(again.attribute_vectors, found)
    assert again.key == training.key
    fold, _ = data.for_validation()
    names = [letters.encode([name])[0] for name in fold.class_names]
    np.testing.assert_allclose(fold.name_vectors, names, atol=1e-5)
    model = build_method("prototype", small()).choose(data, device="cpu").recognizer
    assert "phrases" not in model.metadata.sources["descriptors"]
    assert model.metadata.sources["descriptors"]["attributes"]


def test_phrases_of_other_descriptors_are_not_used(tmp_path):
    """Columns that are not attributes have no name: then no vector is used at all."""
    words = described(tmp_path, [("abe", "1", "0"), ("bag", "0", "1")])
    words = replace(words, vectors=np.eye(2, 3, dtype=np.float32))
    x = np.random.default_rng(0).random((20, 6))
    data = GZSLDataset.from_arrays(
        x, np.repeat(["abe", "bag"], 10), np.eye(2), class_names=words.names
    )
    training = redescribe(data, words, name="other").for_training()
    assert training.attribute_vectors is None
    assert training.name_vectors is not None


def test_phrases_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "mlis.features.descriptors.text_model.TextModel", lambda *_, **__: Letters()
    )
    path = tmp_path / "classes.csv"
    path.write_text("name,head,bead\nabe,1,0\nbag,0,1\n")
    command = ["features", "text", str(path), "-o", str(tmp_path / "words")]
    assert last_json(printed(capsys, *command, "--phrases", "--json"))["classes"] == 2
    assert set(read_descriptors(tmp_path / "words").record["phrases"]) == {
        "text",
        "attributes",
        "classes",
    }
    said = refused(capsys, *command, "--text-model", "x")
    assert "--text-model" in said
    with pytest.raises(SettingsError, match="expected a text model"):
        describe(read_descriptions(path), None, phrases=True)
