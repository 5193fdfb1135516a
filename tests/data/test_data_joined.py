"""Several files with features of the same rows, joined by columns."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fake_backbones import Colours
from mlis.cli import main
from mlis.config import Preprocessing
from mlis.data import load_dataset, save_dataset
from mlis.data.io.feature_folder import ImageFeatures, write_feature_folder
from mlis.data.io.folder import load_folder
from mlis.data.out_of_core.stored import StoredRows, choose_rows
from mlis.errors import DataError
from mlis.model.preprocessing import FeatureScaler
from standins import tiny_benchmark, write_mat, write_tiny


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path, Path]:
    """Two files of features of the same images, and the split file."""
    one, split = write_tiny(tmp_path)
    fields = tiny_benchmark()[0]
    rng = np.random.default_rng(1)
    fields["features"] = rng.random((5, 120)) * 40
    fields["image_files"] = [f"elsewhere\\images\\{row:03d}.jpg" for row in range(120)]
    write_mat(tmp_path / "whole.mat", fields)
    return one, tmp_path / "whole.mat", split


def change(path: Path, **fields: object) -> None:
    write_mat(path, tiny_benchmark()[0] | fields)


@pytest.mark.parametrize("cache", [True, False])
def test_columns_of_two_files_in_their_order(pair, cache):
    one, two, split = pair
    alone = [load_dataset(features_file=path, split_file=split) for path in (one, two)]
    for _ in range(2):  # the second time from the cache, if there is one
        data = load_dataset(features_file=[one, str(two)], split_file=split, cache=cache)
        np.testing.assert_array_equal(
            data.features, np.concatenate([part.features for part in alone], axis=1)
        )
    np.testing.assert_array_equal(data.labels, alone[0].labels)
    origin = data.provenance
    assert origin.features == "res101.mat + whole.mat"
    assert origin.files == alone[0].provenance.files | alone[1].provenance.files
    assert len(set(origin.files.values())) == 3
    swapped = load_dataset(features_file=[two, one], split_file=split)
    np.testing.assert_array_equal(swapped.features[:, :5], data.features[:, 8:])


def test_one_file_in_a_list_is_that_file(pair):
    one, _, split = pair
    data = load_dataset(features_file=[one], split_file=split)
    assert data.sha256 == load_dataset(features_file=one, split_file=split).sha256
    assert data.provenance.features == "res101.mat"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"features": np.ones((3, 119)), "labels": np.ones((119, 1)), "image_files": []},
            "expected 120 rows, as in .*res101.mat, got 119",
        ),
        (
            {"labels": np.repeat(np.arange(10, 0, -1.0), 12)[:, None]},
            r"row 1 .*the label '1', as in .*res101.mat, got '10'",
        ),
        (
            {"image_files": [f"images/{row + row // 50:03d}.jpg" for row in range(120)]},
            r"row 51 .*the image '050.jpg', as in .*res101.mat, got '051.jpg'",
        ),
    ],
)
def test_rows_that_differ_name_both_files_and_the_first_row(pair, fields, said):
    one, two, split = pair
    change(two, **fields)
    with pytest.raises(DataError, match=rf"whole\.mat: .*{said}"):
        load_dataset(features_file=[one, two], split_file=split)


def test_a_file_without_image_names_is_joined_by_its_labels(pair):
    one, two, split = pair
    fields = tiny_benchmark()[0]
    del fields["image_files"]
    write_mat(two, fields)
    assert load_dataset(features_file=[one, two], split_file=split).features.shape == (120, 16)


def test_wrong_lists_of_files(pair):
    one, _, split = pair
    with pytest.raises(DataError, match=r"res101\.mat: .*got it twice"):
        load_dataset(features_file=[one, one], split_file=split)
    with pytest.raises(DataError, match="at least one file"):
        load_dataset(features_file=[], split_file=split)


def test_more_than_memory_is_joined_in_a_file(pair, monkeypatch, tmp_path):
    one, two, split = pair
    expected = load_dataset(features_file=[one, two], split_file=split)
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "0")
    data = load_dataset(features_file=[one, two], split_file=split)
    assert data.sha256 == expected.sha256
    rows = choose_rows(data.features, np.array([7, 3]))
    assert isinstance(rows, StoredRows)
    np.testing.assert_array_equal(rows[:], expected.features[[7, 3]])
    save_dataset(data, tmp_path / "folder")
    folder = load_folder(tmp_path / "folder")
    assert folder.sha256 == expected.sha256
    assert folder.provenance.files == expected.provenance.files


@pytest.mark.parametrize("scaling", ["minmax", "standard"])
def test_each_view_is_scaled_by_itself(pair, scaling):
    """The second view's numbers are 40 times as large: scaling is by column."""
    one, two, split = pair
    joined = load_dataset(features_file=[one, two], split_file=split).features
    settings = Preprocessing(feature_scaling=scaling)

    def scaled_by_itself(features: np.ndarray) -> np.ndarray:
        return FeatureScaler.fit(features, settings)(torch.tensor(features)).numpy()

    scaled = scaled_by_itself(joined)
    for part, columns in ((one, slice(0, 8)), (two, slice(8, 13))):
        alone = load_dataset(features_file=part, split_file=split).features
        np.testing.assert_allclose(scaled[:, columns], scaled_by_itself(alone), atol=1e-5)


# --- tables and feature folders -----------------------------------------------------------------

LABELS = ["cat"] * 6 + ["dog"] * 6
CLASSES = "name,split,tail,bark\ncat,seen,1,0\ndog,seen,0.5,1\nfox,unseen,0.7,0.2\n"


def write_csv(path: Path, first: int = 0, labels: list[str] = LABELS, marks: bool = False) -> Path:
    path.parent.mkdir(exist_ok=True)
    numbers = np.random.default_rng(first).random((len(labels), 2)).round(3)
    lines = [f"x{first},y{first},label" + ",split" * marks]
    for i, ((x, y), label) in enumerate(zip(numbers, labels, strict=True)):
        lines.append(f"{x},{y},{label}" + (",test" if i % 3 else ",train") * marks)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_tables_are_joined_and_marks_of_one_count_for_all(tmp_path):
    (tmp_path / "c.csv").write_text(CLASSES)
    one, two = write_csv(tmp_path / "a" / "f.csv"), write_csv(tmp_path / "b" / "f.csv", 1)
    data = load_dataset(features_file=[one, two], classes_file=tmp_path / "c.csv")
    assert data.features.shape == (12, 4)
    assert {str(one), str(two), "c.csv"} == set(data.provenance.files)  # both are called f.csv
    marked = write_csv(tmp_path / "marked.csv", 2, marks=True)
    data = load_dataset(features_file=[one, marked], classes_file=tmp_path / "c.csv")
    np.testing.assert_array_equal(data.split.trainval, [0, 3, 6, 9])
    other = write_csv(tmp_path / "other.csv", 1, labels=[*LABELS[:4], "dog", "cat", *LABELS[6:]])
    with pytest.raises(DataError, match=r"other\.csv: row 5 .*'cat', as in .*f\.csv, got 'dog'"):
        load_dataset(features_file=[one, other], classes_file=tmp_path / "c.csv")


def test_arrays_share_their_file_of_labels(tmp_path):
    (tmp_path / "c.csv").write_text(CLASSES)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    rng = np.random.default_rng(0)
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path in files:
        np.save(path, rng.random((12, 3), dtype=np.float32))
    options = {"classes_file": tmp_path / "c.csv", "labels_file": tmp_path / "labels.txt"}
    assert load_dataset(features_file=files, **options).features.shape == (12, 6)
    mixed = [*files, write_csv(tmp_path / "f.csv")]
    assert load_dataset(features_file=mixed, **options).features.shape == (12, 8)


def test_feature_folders_are_joined_by_image(tmp_path):
    (tmp_path / "c.csv").write_text(CLASSES)
    paths = tuple(f"{name}/{i}.png" for i, name in enumerate(LABELS))
    rows = np.random.default_rng(0).random((12, 48), dtype=np.float32)
    images = ImageFeatures(
        rows, paths, tuple(LABELS), None, ("0" * 64,) * 12, Colours().identity.to_dict()
    )
    for name, each in (
        ("one", images),
        ("two", replace(images, features=rows + 1)),
        ("three", replace(images, paths=(*paths[:10], paths[11], paths[10]))),
    ):
        (tmp_path / name).mkdir()
        write_feature_folder(each, tmp_path / name)
    options = {"classes_file": tmp_path / "c.csv"}
    data = load_dataset(features_file=[tmp_path / "one", tmp_path / "two"], **options)
    np.testing.assert_array_equal(data.features, np.concatenate([rows, rows + 1], axis=1))
    assert data.provenance.features == "one + two"
    assert "backbone" not in data.provenance.sources  # no one image model computes all of them
    assert len(data.provenance.files) == 3
    with pytest.raises(DataError, match=r"three: row 11 .*'10\.png', as in .*one, got '11\.png'"):
        load_dataset(features_file=[tmp_path / "one", tmp_path / "three"], **options)


# --- on the command line ------------------------------------------------------------------------


def test_features_is_given_once_per_file(pair, tmp_path, capsys):
    one, two, split = pair
    given = ["--features", str(one), "--features", str(two), "--split", str(split)]
    assert main(["data", "info", *given, "--json"]) == 0
    info = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert info["feature_size"] == 13
    assert {"res101.mat", "whole.mat"} <= info["files"].keys()
    assert main(["data", "convert", *given, "-o", str(tmp_path / "folder")]) == 0
    assert load_folder(tmp_path / "folder").sha256 == info["sha256"]


def test_a_run_on_joined_files_is_resumed_evaluated_and_predicts(pair, tmp_path, capsys):
    from cli_cases import QUICK

    one, two, split = pair
    given = ["--features", str(one), "--features", str(two), "--split", str(split)]
    run = str(tmp_path / "run")
    assert main(["fit", *given, "-o", run, *QUICK]) == 0
    plan = json.loads((tmp_path / "run" / "run.json").read_text())
    assert plan["dataset"]["features_file"] == [str(one), str(two)]
    assert main(["fit", "--resume", run]) == 0
    assert main(["evaluate", run, "--json"]) == 0
    capsys.readouterr()
    assert main(["predict", run, str(one), str(two), "--top-k", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 121
    assert main(["predict", run, str(one)]) == 2
    assert "8 features per row, expected 13" in capsys.readouterr().err


def test_labelled_tables_are_joined_for_evaluation(tmp_path, capsys):
    from cli_cases import QUICK

    (tmp_path / "c.csv").write_text(CLASSES.replace("fox,unseen", "fox,seen"))
    labels = ["cat"] * 12 + ["dog"] * 12 + ["fox"] * 12 + ["owl"] * 4
    (tmp_path / "c.csv").write_text(
        CLASSES.replace("fox,unseen", "fox,seen") + "owl,unseen,0,0.4\n"
    )
    files = [write_csv(tmp_path / f"{i}.csv", i, labels) for i in (0, 1)]
    given = [part for path in files for part in ("--features", str(path))]
    run = str(tmp_path / "run")
    fit = ["fit", *given, "--classes", str(tmp_path / "c.csv"), "-o", run, *QUICK]
    assert main([*fit, "--classes-per-batch", "3"]) == 0
    model = shutil.copytree(next((tmp_path / "run").rglob("model")), tmp_path / "alone")
    capsys.readouterr()
    assert main(["evaluate", str(model), *given, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["dataset"] == f"{files[0]} + {files[1]}"


def test_a_folder_with_several_files_says_that_they_can_be_joined(pair, tmp_path):
    one, two, split = pair
    folder = tmp_path / "root" / "FLO"
    folder.mkdir(parents=True)
    one.rename(folder / "one.mat")
    two.rename(folder / "two.mat")
    split.rename(folder / "att_splits.mat")
    with pytest.raises(DataError, match=r"one\.mat, two\.mat.*join"):
        load_dataset("FLO", data_root=tmp_path / "root")
    with pytest.raises(DataError, match="Table 1"):  # both are found; the counts are not FLO's
        load_dataset("FLO", data_root=tmp_path / "root", features_file=["one.mat", "two.mat"])


def test_two_views_of_the_flowers(shared_data):
    files, root = ["efficientnet_lite2.mat", "efficientnet_lite2_whole.mat"], shared_data / "xlsa17"
    if not (root / "FLO" / files[1]).is_file():
        pytest.skip(f"{files[1]} is absent")
    data = load_dataset("FLO", data_root=root, features_file=files)
    assert data.features.shape == (8189, 2560)
    assert set(files) < data.provenance.files.keys()
