"""Several views of each picture: what each shows, how they are joined, who remembers them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fake_backbones import Colours, names, write_images
from mlis.data.io.feature_folder import read_feature_folder
from mlis.errors import DataError, SettingsError
from mlis.features.backbones import BackboneSpec, load_backbone
from mlis.features.backbones.views import with_views
from mlis.features.images.embed import embed
from mlis.features.images.extract import extract_folder
from mlis.features.images.files import find_images
from mlis.image_classifier import ImageClassifier
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Metadata, Recognizer
from mlis.model.refiners import LinearReLU

SIZE = Colours().identity.size
BOTH, ALL = ("centre", "whole"), ("centre", "centre-flip", "whole", "whole-flip")


class Cropping(Colours):
    """Its own view is the middle of the image; the whole image is another one."""

    crops = True

    def prepare(self, image: Image.Image) -> np.ndarray:
        width, height = image.size
        middle = (width // 4, height // 4, width - width // 4, height - height // 4)
        return super().prepare(image.crop(middle))

    def prepare_whole(self, image: Image.Image) -> np.ndarray:
        return super().prepare(image)


class Squashing(Cropping):
    """Its own view is the whole image."""

    crops = False


def picture(seed: int = 0, size: tuple[int, int] = (40, 24)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def alone(image: Image.Image, *, whole: bool) -> np.ndarray:
    model = Cropping()
    return model([model.prepare_whole(image) if whole else model.prepare(image)])[0]


def test_features_of_the_views_are_joined_in_order():
    images = [picture(0), picture(1, (24, 40))]
    for views in (BOTH, BOTH[::-1]):
        model = with_views(Cropping(), views)
        rows = model([model.prepare(image) for image in images])
        parts = [[alone(image, whole=view == "whole") for view in views] for image in images]
        np.testing.assert_array_equal(rows, [np.concatenate(part) for part in parts])
        assert (model.identity.size, model.identity.views) == (2 * SIZE, views)


def test_a_mirrored_view_is_averaged_with_the_one_that_is_not():
    image, model = picture(), with_views(Cropping(), ["whole-flip", "whole", "centre"])
    row = model([model.prepare(image)])[0]
    mirrored = alone(ImageOps.mirror(image), whole=True)
    np.testing.assert_allclose(row[:SIZE], (alone(image, whole=True) + mirrored) / 2)
    np.testing.assert_array_equal(row[SIZE:], alone(image, whole=False))
    assert model.identity.views == ("whole", "whole-flip", "centre")
    assert with_views(Cropping(), ALL).identity.size == 2 * SIZE


def test_the_default_are_the_views_that_differ():
    assert with_views(Cropping(), None).identity.views == BOTH
    assert with_views(Squashing(), None).identity.views == ("centre",)
    model = Cropping()
    assert with_views(model, ["centre"]) is model  # nothing in between


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (["middle"], "'middle'"),
        ([], "got ''"),
        (["whole", "whole"], "'whole,whole'"),
        (["centre", "whole-flip"], "'whole' beside 'whole-flip'"),
    ],
)
def test_wrong_views(views, said):
    with pytest.raises(SettingsError, match=said):
        with_views(Cropping(), views)


def test_a_model_that_does_not_crop_has_no_second_view():
    with pytest.raises(SettingsError, match="colours, whose own preparation does not crop"):
        with_views(Squashing(), BOTH)
    flipped = with_views(Squashing(), ["centre", "centre-flip"])
    assert flipped.identity.size == SIZE


def test_views_are_part_of_a_backbones_identity():
    plain, both = Cropping().identity, with_views(Cropping(), BOTH).identity
    fingerprints = {
        with_views(Cropping(), views).identity.fingerprint
        for views in (BOTH, BOTH[::-1], ALL, ["centre"], ["whole"])
    }
    assert len(fingerprints) == 5
    assert "views" not in plain.to_dict()  # as in files from before there were views
    assert plain.fingerprint in fingerprints
    for spec in (plain, both):
        assert BackboneSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert "views centre,whole" in str(both)


def test_as_many_pictures_are_computed_at_once_as_without_views():
    calls: list[int] = []

    class Counting(Cropping):
        batch = 8

        def __call__(self, inputs):
            calls.append(len(inputs))
            return super().__call__(inputs)

    list(embed([picture(seed) for seed in range(9)], with_views(Counting(), BOTH)))
    assert max(calls) == 8


def test_an_image_is_decoded_once_for_all_views(tmp_path, monkeypatch):
    from mlis.features.images import embed as reading

    decoded: list[bytes] = []
    decode = reading.decode
    monkeypatch.setattr(
        reading, "decode", lambda data, enough: decoded.append(data) or decode(data, enough)
    )
    write_images(tmp_path, names(3))
    list(embed([tmp_path / name for name in names(3)], with_views(Cropping(), ALL)))
    assert len(decoded) == 3


def test_a_folder_of_other_views_is_refused_continued_or_replaced(tmp_path):
    images, output = tmp_path / "in", tmp_path / "out"
    write_images(images, names(4))
    extract_folder(find_images(images), Cropping(), output)  # as before there were views
    both = with_views(Cropping(), BOTH)
    write_images(images, names(5)[4:], first=4)
    found = find_images(images)
    with pytest.raises(DataError, match=r"views centre,whole.*--views centre, .*--force"):
        extract_folder(found, both, output)
    assert extract_folder(found, with_views(Cropping(), ["centre"]), output).computed == 1
    assert extract_folder(found, both, output, replace=True).computed == 5
    table = read_feature_folder(output)
    assert table.features.shape == (5, 2 * SIZE)
    assert table.backbone["views"] == list(BOTH)
    write_images(images, names(6)[5:], first=5)
    assert extract_folder(find_images(images), both, output).computed == 1


# --- models remember them -----------------------------------------------------------------------


def recognizer(spec: BackboneSpec | None, size: int) -> Recognizer:
    import torch

    rng = torch.Generator().manual_seed(0)
    return Recognizer(
        preprocessing=FeatureScaler("none", torch.zeros(size), torch.full((size,), 1 / 255)),
        refiner=LinearReLU(torch.randn(8, size, generator=rng), torch.zeros(8)),
        head=LinearHead(torch.randn(3, 8, generator=rng), torch.zeros(3)),
        class_names=("a", "b", "c"),
        seen_mask=np.array([True, True, False]),
        descriptors=np.eye(3, dtype=np.float32),
        metadata=Metadata({} if spec is None else {"backbone": spec.to_dict()}),
    )


@pytest.fixture
def loads(monkeypatch) -> None:
    def load(name: str, *, views=("centre",), **_: object):
        assert name == "colours"
        return with_views(Cropping(), views)

    monkeypatch.setattr("mlis.image_classifier.load_backbone", load)


@pytest.mark.usefixtures("loads")
def test_a_model_makes_the_views_that_it_was_trained_on():
    for views in (("centre",), BOTH, ("whole", "centre"), ALL):
        spec = with_views(Cropping(), views).identity
        model = recognizer(spec, spec.size)
        for given in (None, "colours"):
            classifier = ImageClassifier(model, given)
            assert classifier.backbone.identity == spec
        assert len(classifier.predict([picture()], k=1)[0].classes) == 1
    with pytest.raises(DataError, match="views centre,centre-flip,whole,whole-flip"):
        ImageClassifier(model, Cropping())


@pytest.mark.usefixtures("loads")
@pytest.mark.filterwarnings("ignore")
def test_without_a_record_the_number_of_features_tells_the_views():
    for size, views in ((SIZE, ("centre",)), (2 * SIZE, BOTH)):
        found = ImageClassifier(recognizer(None, size), "colours").backbone
        assert found.identity.views == views
    with pytest.raises(DataError, match=f"takes {3 * SIZE} features"):
        ImageClassifier(recognizer(None, 3 * SIZE), "colours")


# --- real models --------------------------------------------------------------------------------


def test_the_whole_picture_is_squashed_by_efficientnet():
    model = load_backbone("efficientnet-lite0", device="cpu", precision="float32", views=BOTH)
    image = Image.new("RGB", (600, 300), (10, 20, 30))
    image.paste((250, 240, 230), (0, 0, 60, 300))  # a stripe that the centre crop does not see
    centre, whole = model.prepare(image)
    assert centre.shape == whole.shape == (224, 224, 3)
    assert centre.max() < 60
    np.testing.assert_array_equal(whole[:, :20], np.broadcast_to([250, 240, 230], (224, 20, 3)))
    np.testing.assert_array_equal(whole[:, 25:], np.broadcast_to([10, 20, 30], (224, 199, 3)))
    assert model([model.prepare(image)]).shape == (1, 2560)


@pytest.mark.parametrize("kind", ["convnext", "clip", "vit"])
def test_the_whole_picture_is_squashed_by_a_model_of_transformers(tmp_path, kind):
    import torch
    import transformers as hf

    from mlis.features.backbones.hub import loading

    processor = {
        "convnext": lambda: hf.ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.8),
        "clip": lambda: hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32),
        "vit": lambda: hf.ViTImageProcessorPil(size={"height": 32, "width": 32}),
    }[kind]()
    with torch.random.fork_rng(), loading(str(tmp_path), "model", "images", ""):
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}
        hf.ResNetModel(hf.ResNetConfig(**sizes)).save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
    model = load_backbone(str(tmp_path), device="cpu", precision="float32", views=None)
    if kind == "vit":  # it squashes by itself
        assert model.identity.views == ("centre",)
        return
    assert (model.identity.views, model.identity.size) == (BOTH, 48)
    image = Image.new("RGB", (160, 64), "black")
    image.paste("white", (0, 0, 40, 64))  # a quarter that the centre crop does not see
    centre, whole = model.prepare(image)
    assert centre.shape == whole.shape == (3, 32, 32)
    assert np.ptp(centre, axis=(1, 2)).max() < 1e-6
    black, white = whole[:, :, 12:], whole[:, :, :6]
    assert np.ptp(black, axis=(1, 2)).max() < 0.05
    assert (white.min(axis=(1, 2)) > black.max(axis=(1, 2)) + 1).all()
    assert model([model.prepare(image)]).shape == (1, 48)


def test_both_views_of_the_flowers_agree_with_the_files(shared_data: Path):
    """The files were computed from the same photographs at full size: each view is closer to its
    own file than to the other one.
    """
    from mlis.data.io.matlab import read_columns

    root, files = shared_data / "flowers102", ["efficientnet_lite2", "efficientnet_lite2_whole"]
    paths = [shared_data / "xlsa17" / "FLO" / f"{name}.mat" for name in files]
    if not (root / "images.csv").is_file() or not paths[1].is_file():
        pytest.skip("the photographs, or features of the whole pictures, are absent")
    with (root / "images.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))[::112]
    own = [int(row["flo_row"]) for row in rows]
    published = [read_columns(path, "features")[own] for path in paths]
    model = load_backbone("efficientnet-lite2", device="cpu", precision="float32", views=None)
    batches = embed([root / "images" / row["path"] for row in rows], model)
    found = np.stack([item.features for batch in batches for item in batch])
    for place, view in enumerate((found[:, :1280], found[:, 1280:])):
        cosine = [
            (view * file).sum(1) / np.linalg.norm(view, axis=1) / np.linalg.norm(file, axis=1)
            for file in published
        ]
        assert cosine[place].mean() > 0.96
        assert cosine[place].mean() > cosine[1 - place].mean() + 0.03
