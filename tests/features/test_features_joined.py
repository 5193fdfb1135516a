"""Several image models: their features side by side, in folders, models and answers."""

import json

import numpy as np
import pytest
from PIL import Image
from test_features_views import BOTH, Cropping, Squashing, picture, recognizer

from fake_backbones import Colours, names, write_images
from mlis.data.io.feature_folder import read_feature_folder
from mlis.errors import DataError, SettingsError
from mlis.features.backbones import BackboneSpec, load_backbone
from mlis.features.images.embed import embed
from mlis.features.images.extract import extract_folder
from mlis.features.images.files import find_images
from mlis.image_classifier import ImageClassifier
from mlis.serving.engine import Engine
from mlis.serving.exchange import Query


class Grey(Cropping):
    """Another input than that of `Colours`: one channel of float32, 2 × 3."""

    batch = 2

    def __init__(self):
        self.identity = BackboneSpec("grey", "two", "resize", "none", 6)
        self.images = 0

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("L").resize((2, 3)), dtype=np.float32)

    prepare_whole = prepare


class Squashed(Squashing):
    """A model without a second view."""

    def __init__(self):
        super().__init__()
        self.identity = BackboneSpec("squashed", "three", "resize", "none", 48)


@pytest.fixture(autouse=True)
def families(monkeypatch) -> None:
    made = {"colours": Cropping, "grey": Grey, "squashed": Squashed}
    monkeypatch.setattr(
        "mlis.features.backbones.FAMILIES",
        {name: lambda *_, download, model=model: model() for name, model in made.items()},
    )


def alone(name: str, image: Image.Image, views=BOTH) -> np.ndarray:
    model = load_backbone(name, views=views)
    return model([model.prepare(image)])[0]


def test_features_of_the_models_are_side_by_side():
    images = [picture(seed, size) for seed, size in enumerate([(40, 24), (24, 40), (30, 30)])]
    for views in (("centre",), BOTH):
        for name in ("colours,grey", "grey,colours"):
            model = load_backbone(name, views=views)
            found = np.stack([item.features for batch in embed(images, model) for item in batch])
            parts = [[alone(one, image, views) for one in name.split(",")] for image in images]
            np.testing.assert_array_equal(found, [np.concatenate(part) for part in parts])
            assert (model.identity.name, model.identity.size) == (name, found.shape[1])
            assert model.batch <= 2


@pytest.fixture
def proportions(monkeypatch) -> None:
    """A processor that keeps a picture's proportions: its inputs differ in shape."""

    def prepare(_: Grey, image: Image.Image) -> np.ndarray:
        wide = image.width > image.height
        return np.asarray(image.convert("L").resize((3, 2) if wide else (2, 3)), dtype=np.float32)

    monkeypatch.setattr(Grey, "prepare", prepare)


@pytest.mark.usefixtures("proportions")
def test_inputs_of_different_shapes_are_computed_apart():
    images = [picture(seed, size) for seed, size in enumerate([(40, 24), (24, 40)])]
    model = load_backbone("colours,grey", views=("centre",))
    found = np.stack([item.features for batch in embed(images, model) for item in batch])
    for row, image in zip(found, images, strict=True):
        parts = [alone(name, image, ("centre",)) for name in ("colours", "grey")]
        np.testing.assert_array_equal(row, np.concatenate(parts))


@pytest.mark.usefixtures("proportions")
def test_pictures_of_different_shapes_are_answered_together():
    model = load_backbone("colours,grey", views=("centre",))
    sizes = [(40, 24), (24, 40), (40, 24)]
    inputs = [model.prepare(picture(seed, size)) for seed, size in enumerate(sizes)]
    engine = Engine(recognizer(model.identity, model.identity.size), model)
    answers = engine.answer([Query(each, True) for each in inputs])
    for answer, each in zip(answers, inputs, strict=True):
        np.testing.assert_array_equal(answer.features, model([each])[0])


def test_all_have_the_same_views():
    assert load_backbone("colours,grey", views=None).identity.views == BOTH
    assert load_backbone("colours,squashed", views=None).identity.views == ("centre",)
    with pytest.raises(SettingsError, match="squashed, whose own preparation does not crop"):
        load_backbone("colours,squashed", views=BOTH)


def test_the_order_the_models_and_the_views_are_the_identity():
    some = [("colours", None), ("colours,grey", None), ("grey,colours", None)]
    some += [("colours,grey", ("centre",)), ("colours,squashed", None)]
    specs = [load_backbone(name, views=views).identity for name, views in some]
    assert len({spec.fingerprint for spec in specs}) == len(some)
    for spec in specs:
        assert BackboneSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("name", ["colours,", ",colours", "colours,,grey", "grey,grey", ","])
def test_wrong_names(name):
    with pytest.raises(SettingsError, match="expected a name, or different ones"):
        load_backbone(name)


def test_regions_are_of_one_model():
    with pytest.raises(SettingsError, match=r"expected one image model.*'colours,grey'"):
        load_backbone("colours,grey", grid=2)


def test_a_folder_may_have_a_comma_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grey,colours").mkdir()
    assert load_backbone("grey,colours").identity.name == "grey"  # the fake one's own


def test_a_model_of_joined_features_sees_photographs(tmp_path):
    images, output = tmp_path / "in", tmp_path / "out"
    write_images(images, names(5))
    backbone = load_backbone("colours,grey", views=None)
    extract_folder(find_images(images), backbone, output)
    table = read_feature_folder(output)
    assert table.features.shape == (5, 2 * 48 + 2 * 6)
    assert (table.backbone["name"], table.backbone["views"]) == ("colours,grey", list(BOTH))
    model = recognizer(backbone.identity, backbone.identity.size)
    classifier = ImageClassifier(model)  # by the recorded name
    assert classifier.backbone.identity == backbone.identity
    paths = [images / path for path in table.paths]
    scores = model.scores(table.features)
    best = [model.class_names[c] for c in scores.argmax(1)]
    assert [one.classes[0].name for one in classifier.predict(paths, k=1)] == best
    for other in ("colours", "grey,colours"):
        with pytest.raises(DataError, match=r"trained on features of colours,grey"):
            ImageClassifier(model, other)
    with pytest.raises(DataError, match="another folder, or replace"):
        extract_folder(find_images(images), Colours(), output)
