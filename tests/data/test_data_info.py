"""`load_dataset`, the one entry, and what `describe` says of a dataset."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mlis.data import GZSLDataset, Split, describe, format_info, load_dataset
from mlis.data.checks import CHECKS
from mlis.data.io.folder import save_dataset
from mlis.errors import DataError
from standins import write_standin, write_tiny


@pytest.fixture
def data() -> GZSLDataset:
    """6 classes of 5, 6, … 10 rows; class 5 unseen; row 34 equals training row 0."""
    labels = np.repeat(np.arange(6), np.arange(5, 11))
    features = np.random.default_rng(0).random((45, 4), dtype=np.float32)
    features[34] = features[0]
    descriptors = np.eye(6, dtype=np.float32)
    descriptors[5] = [0, 0, 0, 3, 4, 0]
    seen = np.arange(35)
    split = Split(seen[seen % 5 != 4], seen[seen % 5 == 4], np.arange(35, 45))
    return GZSLDataset.from_arrays(features, labels, descriptors, split=split, name="zoo")


def test_the_numbers_are_right(data):
    info = describe(data)
    assert info["table_1"] == {
        "classes": 6,
        "seen": 5,
        "unseen": 1,
        "trainval_images": 28,
        "test_seen_images": 7,
        "test_unseen_images": 10,
    }
    assert (info["feature_size"], info["descriptor_size"]) == (4, 6)
    assert info["feature_range"] == [data.features.min(), data.features.max()]
    assert info["images_per_class"]["trainval"] == {"classes": 5, "min": 4, "median": 6, "max": 7}
    assert info["images_per_class"]["test_unseen"]["min"] == 10
    assert info["classes_without_images"] == 0
    similarity = info["descriptor_similarity"]
    assert similarity["nearest_class_cosine"]["max"] == pytest.approx(0.8)
    assert similarity["nearest_class_cosine"]["min"] == pytest.approx(0)
    assert sorted(similarity["most_similar"]) == ["class_004", "class_005"]
    assert similarity["unseen_to_nearest_seen_median"] == pytest.approx(0.8)
    assert info["test_images_equal_to_a_training_image"] == 1
    assert info["checks_passed"] == list(CHECKS)
    assert info["sha256"] == data.sha256
    assert info["validation"]["unseen"] == 1


def test_it_is_json_and_the_text_says_it_all(data):
    info = json.loads(json.dumps(describe(data), allow_nan=False))
    text = format_info(info)
    for part in ("zoo", "28", "4 / 6 / 7 (min/median/max)", "0.800", data.sha256, *CHECKS):
        assert part in text
    assert "warning      1 test images have the same features as a training image" in text


def test_datasets_with_little_in_them_can_be_described():
    features = np.random.default_rng(0).random((4, 2))
    lone = GZSLDataset.from_arrays(features, [0, 0, 0, 0], [[1.0, 2.0]])
    info = describe(lone)
    assert info["descriptor_similarity"] is None
    assert info["validation"] is None
    assert "validation   none" in format_info(info)
    some = GZSLDataset.from_arrays(features, [0, 0, 2, 2], np.eye(3), test_fraction=0)
    text = format_info(describe(some))
    assert "classes without images: 1" in text
    assert "test_seen: none" in text


def test_huge_descriptors_do_not_overflow(data):
    huge = replace(data, descriptors=data.descriptors * np.float32(1e30))
    similarity = describe(huge)["descriptor_similarity"]
    assert similarity["nearest_class_cosine"]["max"] == pytest.approx(0.8)


def test_a_dataset_is_found_by_whatever_names_it(data, tmp_path, xlsa17):
    features, split = write_tiny(tmp_path / "tiny")
    assert load_dataset(features_file=features, split_file=split).num_classes == 10
    save_dataset(data, tmp_path / "zoo")
    assert load_dataset(tmp_path / "zoo").sha256 == data.sha256
    assert load_dataset(str(tmp_path / "zoo")).sha256 == data.sha256
    write_standin(tmp_path / "root", "APY", xlsa17, image_files=False)
    assert load_dataset("apy", data_root=tmp_path / "root").provenance.name == "aPY"
    (tmp_path / "c.csv").write_text("name,x\na,1\nb,2\n")
    (tmp_path / "f.csv").write_text("label,x,y\na,1,2\na,2,4\nb,2,9\n")
    tables = load_dataset(features_file=tmp_path / "f.csv", classes_file=tmp_path / "c.csv")
    assert tables.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected the name of a benchmark"),
        ({"features_file": "f.mat"}, "features file with a split file or a classes file"),
        (
            {"features_file": "f", "split_file": "s", "classes_file": "c"},
            "features file with a split file or a classes file",
        ),
        ({"name_or_path": "cub"}, r"CUB: give the folder.*--data-root"),
        ({"name_or_path": "awa3"}, r"expected a dataset folder or one of CUB.*mean 'AWA2'\?"),
        ({"name_or_path": "/"}, "expected a dataset folder, got a folder without dataset.json"),
    ],
)
def test_what_names_no_dataset_is_told(arguments, message):
    with pytest.raises(DataError, match=message):
        load_dataset(**arguments)
