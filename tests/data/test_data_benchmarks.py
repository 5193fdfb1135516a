"""The benchmarks by name and as pairs of files: real files, stand-ins, and every fault."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from mlis.cli import main
from mlis.data import TABLE_1, Counts, load_benchmark, load_dataset, load_pair
from mlis.data.io.benchmarks import PROPOSED_SPLITS
from mlis.errors import DataError
from mlis.experiments.inputs import inputs_of
from standins import CLASS_GROUPS, tiny_benchmark, write_mat, write_standin, write_tiny

FLO = "efficientnet_lite2.mat"  # one of two files of features there
FOLDERS = {name: "APY" if name == "aPY" else name for name in TABLE_1}


@pytest.fixture(scope="module")
def standin_root(xlsa17, tmp_path_factory) -> Path:
    """Stand-ins of every benchmark, 16 features an image; aPY in v7.3."""
    root = tmp_path_factory.mktemp("standins")
    for name in CLASS_GROUPS:
        write_standin(root, name, xlsa17, image_files=name == "CUB", hdf5=name == "APY")
    return root


def rows_of(xlsa17: Path, name: str, part: str) -> np.ndarray:
    file = "sent_splits.mat" if name == "CUB" else "att_splits.mat"
    return scipy.io.loadmat(xlsa17 / FOLDERS[name] / file)[part].ravel().astype(int) - 1


@pytest.mark.parametrize("name", TABLE_1)
def test_the_real_split_files_give_table_1(standin_root, name):
    data = load_benchmark(name.lower(), standin_root)
    assert Counts.of(data) == TABLE_1[name]
    assert data.provenance.name == name
    assert len(set(data.class_names)) == data.num_classes
    assert sorted(data.provenance.files) == sorted(
        ["res101.mat", "sent_splits.mat" if name == "CUB" else "att_splits.mat"]
    )


@pytest.mark.parametrize("name", TABLE_1)
def test_the_version_of_the_split_is_known(standin_root, name):
    data = load_benchmark(name, standin_root)
    assert data.split.fingerprint == PROPOSED_SPLITS[name]
    assert inputs_of(data)["split"] == f"proposed split v1, {PROPOSED_SPLITS[name]}"
    rows = data.split.test_seen[1:]  # as another version has other rows
    other = replace(data, split=replace(data.split, test_seen=rows))
    assert inputs_of(other)["split"] == f"not proposed split v1, {other.split.fingerprint}"
    assert other.split.fingerprint != data.split.fingerprint
    kind = "sentence embeddings" if name in ("CUB", "FLO") else "attributes"
    assert inputs_of(data)["descriptors"].startswith(f"{kind}, ")


def test_table_1_is_the_papers(shared_data):
    lines = (shared_data.parent / "paper" / "table1.csv").read_text().splitlines()
    header = lines[0].split(",")[1:]
    for line in lines[1:]:
        name, *counts = line.split(",")
        assert asdict(TABLE_1[name]) == dict(zip(header, map(int, counts), strict=True))


@pytest.mark.parametrize("name", TABLE_1)
def test_the_published_train_and_val_rows_hold_test_images_and_ours_do_not(
    standin_root, xlsa17, name
):
    published = np.union1d(rows_of(xlsa17, name, "train_loc"), rows_of(xlsa17, name, "val_loc"))
    test_seen = rows_of(xlsa17, name, "test_seen_loc")
    assert np.isin(test_seen, published).all() == (name != "aPY")
    split = load_benchmark(name, standin_root).split
    ours = np.concatenate([split.train, split.val_seen, split.val_unseen])
    assert np.isin(ours, split.trainval).all()
    assert not np.isin(test_seen, ours).any()


@pytest.mark.parametrize("name", TABLE_1)
def test_validation_classes_are_as_many_as_the_files_have(standin_root, name):
    training, testing = load_benchmark(name, standin_root).for_validation()
    train, val, _ = CLASS_GROUPS[FOLDERS[name]]
    assert (training.seen_mask.sum(), (~training.seen_mask).sum()) == (train, val)
    assert len(np.unique(testing.labels)) == train + val


def test_flowers_are_read_in_full(xlsa17):
    data = load_benchmark("flo", xlsa17, features_file=FLO)
    raw = scipy.io.loadmat(xlsa17 / "FLO" / FLO)
    split = scipy.io.loadmat(xlsa17 / "FLO" / "att_splits.mat")
    np.testing.assert_array_equal(data.features, raw["features"].T)
    np.testing.assert_array_equal(data.labels, raw["labels"].ravel().astype(int) - 1)
    np.testing.assert_array_equal(data.descriptors, split["att"].T.astype(np.float32))
    np.testing.assert_array_equal(
        data.split.trainval, np.sort(split["trainval_loc"].ravel().astype(int) - 1)
    )
    training, testing = data.for_validation()
    assert (training.seen_mask.sum(), (~training.seen_mask).sum()) == (62, 20)
    assert len(training.labels) == 3765
    assert len(testing.labels) == 940 + 926
    assert data.class_names[0] == "pink primrose"
    assert data.class_names[-1] == "blackberry lily"


def test_flower_names_are_those_of_the_photographs(shared_data, xlsa17):
    names = load_benchmark("FLO", xlsa17, features_file=FLO).class_names
    for line in (shared_data / "flowers102" / "images.csv").read_text().splitlines()[1:]:
        _, number, name, *_ = line.split(",")
        assert names[int(number) - 1] == name


def test_cub_names_are_in_the_order_of_the_descriptors_and_not_in_cubs_numbering(standin_root):
    data = load_benchmark("CUB", standin_root)
    assert data.class_names[:2] == ("002.Laysan_Albatross", "003.Sooty_Albatross")
    assert data.provenance.descriptors == "sent_splits.mat:att"


@pytest.mark.parametrize("hdf5", [False, True])
def test_a_pair_of_any_size_is_read_in_both_formats(tmp_path, hdf5):
    features, split = tiny_benchmark()
    data = load_pair(*write_tiny(tmp_path, hdf5=hdf5))
    np.testing.assert_array_equal(data.features, features["features"].T.astype(np.float32))
    np.testing.assert_array_equal(data.labels, features["labels"].ravel() - 1)
    np.testing.assert_array_equal(data.descriptors, split["att"].T.astype(np.float32))
    assert data.class_names == tuple(split["allclasses_names"])
    assert data.unseen_classes.tolist() == [7, 8, 9]
    assert len(data.for_validation()[0].class_names) == 7


def test_the_unnormalised_descriptors_can_be_chosen(tmp_path):
    files = write_tiny(tmp_path)
    data = load_pair(*files, descriptors="original_att")
    assert data.descriptors.max() > 2
    assert data.provenance.descriptors == "att_splits.mat:original_att"
    with pytest.raises(DataError, match="expected descriptors 'w2v', got att, original_att"):
        load_pair(*files, descriptors="w2v")


def test_minus_one_in_descriptors_is_warned_of_and_can_be_missing(tmp_path, caplog):
    features, split = tiny_benchmark()
    att = np.array(split["att"])
    att[1, 3] = -1
    files = tmp_path / "F.mat", tmp_path / "S.mat"
    write_mat(files[0], features)
    write_mat(files[1], {**split, "att": att})
    load_pair(*files, cache=False)
    assert "-1 in 1 values" in caplog.text
    filled = load_pair(*files, cache=False, missing=-1).descriptors[3, 1]
    assert filled == pytest.approx(np.delete(att[1], 3).mean(), rel=1e-6)


@pytest.mark.parametrize("hdf5", [False, True])
def test_an_empty_part_is_no_fault(tmp_path, hdf5):
    empty = np.empty((0, 0))
    files = write_fault(tmp_path, split={"test_seen_loc": empty}, hdf5=hdf5)
    if hdf5:
        import h5py

        with h5py.File(files[1], "r+") as file:  # as MATLAB writes []
            del file["test_seen_loc"]
            file["test_seen_loc"] = np.zeros(2, dtype=np.uint64)
            file["test_seen_loc"].attrs["MATLAB_empty"] = 1
    assert not load_pair(*files).split.test_seen.size


def write_fault(
    folder: Path,
    *,
    features: dict | None = None,
    split: dict | None = None,
    hdf5: bool = False,
) -> tuple[Path, Path]:
    """The tiny benchmark with some fields replaced, or left out where None."""
    paths = []
    fields = tiny_benchmark()
    for file, whole, change in zip(("F.mat", "S.mat"), fields, (features, split), strict=True):
        changed = {**whole, **(change or {})}
        write_mat(folder / file, {k: v for k, v in changed.items() if v is not None}, hdf5=hdf5)
        paths.append(folder / file)
    return paths[0], paths[1]


TINY_FEATURES, TINY_SPLIT = tiny_benchmark()
LABELS = TINY_FEATURES["labels"]


def labels_with(row: int, value: float) -> np.ndarray:
    labels = LABELS.copy()
    labels[row] = value
    return labels


FAULTS = {
    "features transposed": (
        {"features": TINY_FEATURES["features"].T},
        {},
        ["F.mat", "(120, 8)", "one column per image, (Dx, N)", "Transpose"],
    ),
    "features of another length": (
        {"features": TINY_FEATURES["features"][:, :100]},
        {},
        ["F.mat", "(8, 100)", "120 columns, one per label"],
    ),
    "features missing": ({"features": None}, {}, ["F.mat: expected a field 'features'", "labels"]),
    "labels missing": ({"labels": None}, {}, ["F.mat: expected a field 'labels'"]),
    "labels a matrix": ({"labels": np.ones((60, 2))}, {}, ["F.mat: labels: expected shape (n, 1)"]),
    "labels count from 0": (
        {"labels": LABELS - 1},
        {},
        ["F.mat: labels: entry 1: expected labels counted from 1, got 0", "Add 1"],
    ),
    "label not whole": (
        {"labels": labels_with(4, 1.5)},
        {},
        ["F.mat: labels: entry 5: expected an integer, got 1.5"],
    ),
    "label beyond the descriptors": (
        {"labels": labels_with(100, 11)},
        {},
        ["F.mat: labels: entry 101: expected a class up to 10", "S.mat", "up to 10"],
    ),
    "nan": (
        {"features": np.where(np.arange(120) == 7, np.nan, TINY_FEATURES["features"])},
        {},
        ["(F.mat): features: row 7, column 0: expected a finite number, got nan"],
    ),
    "features too large": (
        {"features": TINY_FEATURES["features"] * 1e300},
        {},
        ["F.mat: features", "row 0, column 0", "within float32"],
    ),
    "descriptors transposed": (
        {},
        {"att": TINY_SPLIT["att"].T},
        [
            "S.mat: att: expected one column per class",
            "one row for each of the 10 classes",
            "Transpose",
        ],
    ),
    "descriptors missing": (
        {},
        {"att": None},
        ["S.mat: expected descriptors 'att', got original_att"],
    ),
    "descriptor zero": (
        {},
        {"att": TINY_SPLIT["att"] * (np.arange(10) != 3)},
        ["(S.mat:att): descriptors: row 3 (class 'class+d'): expected values that differ, got 0"],
    ),
    "names of another length": (
        {},
        {"allclasses_names": ["a", "b"]},
        ["S.mat: allclasses_names: expected 10 names", "(2, 1)"],
    ),
    "names repeated": (
        {},
        {"allclasses_names": ["a"] * 10},
        ["S.mat", "class_names", "'a'"],
    ),
    "names are numbers": (
        {},
        {"allclasses_names": np.arange(10.0)[:, None]},
        ["S.mat: allclasses_names: expected a cell array of strings"],
    ),
    "rows missing": ({}, {"test_seen_loc": None}, ["S.mat: expected a field 'test_seen_loc'"]),
    "rows count from 0": (
        {},
        {"trainval_loc": TINY_SPLIT["trainval_loc"] - 2},
        [
            "S.mat: trainval_loc: entry 1: expected row numbers counted from 1, got 0",
            "Add 1",
        ],
    ),
    "rows beyond the images": (
        {},
        {"test_unseen_loc": TINY_SPLIT["test_unseen_loc"] + 1},
        [
            "S.mat: test_unseen_loc: entry 36: expected a row up to 120",
            "number of images",
            "belongs to this split",
        ],
    ),
    "unseen class trained": (
        {},
        {"trainval_loc": np.r_[TINY_SPLIT["trainval_loc"], [[90.0]]]},
        ["(S.mat)", "split.test_unseen", "1 rows are also in split.trainval, the first is row 89"],
    ),
    "label of an unseen class on a training row": (
        {"labels": labels_with(1, 8)},
        {},
        ["(S.mat): split.test_unseen", "'class+h'", "unseen, but has rows"],
    ),
}


@pytest.mark.parametrize(
    ("fault", "hdf5"),
    [*((fault, False) for fault in FAULTS), ("nan", True), ("rows missing", True)],
)
def test_each_fault_names_file_and_place_and_remedy(tmp_path, fault, hdf5):
    features, split, parts = FAULTS[fault]
    files = write_fault(tmp_path, features=features, split=split, hdf5=hdf5)
    with pytest.raises(DataError) as caught:
        load_pair(*files)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path):
    features, split = write_tiny(tmp_path)
    with pytest.raises(DataError, match=r"none\.mat: cannot be read: No such file"):
        load_pair(tmp_path / "none.mat", split)
    with pytest.raises(DataError, match=r"none\.mat: no such file"):
        load_pair(features, tmp_path / "none.mat")


def test_a_count_that_differs_from_table_1_is_named(tmp_path, xlsa17):
    folder = write_standin(tmp_path, "APY", xlsa17, image_files=False)
    split = scipy.io.loadmat(folder / "att_splits.mat")
    fields = {name: split[name] for name in split if name.endswith("_loc") or name == "att"}
    fields["trainval_loc"] = fields["trainval_loc"][:-3]
    write_mat(folder / "att_splits.mat", fields)
    with pytest.raises(DataError) as caught:
        load_benchmark("aPY", tmp_path)
    message = str(caught.value)
    assert "aPY" in message
    assert "trainval images expected 5932, got 5929" in message
    assert "test seen" not in message
    loaded = load_pair(folder / "res101.mat", folder / "att_splits.mat")
    assert len(loaded.split.trainval) == 5929


def test_which_files_are_taken(tmp_path, xlsa17):
    folder = write_standin(tmp_path, "APY", xlsa17, image_files=False)
    with pytest.raises(DataError, match=r"none\.mat: no such file"):
        load_benchmark("aPY", tmp_path, split_file="none.mat")
    (folder / "res101.mat").rename(folder / "other.mat")
    assert load_benchmark("aPY", tmp_path).provenance.features == "other.mat"
    elsewhere = tmp_path / "elsewhere.mat"
    elsewhere.write_bytes((folder / "other.mat").read_bytes())
    chosen = load_benchmark("aPY", tmp_path, features_file=elsewhere)
    assert chosen.provenance.features == "elsewhere.mat"
    (folder / "another.mat").write_bytes((folder / "other.mat").read_bytes())
    with pytest.raises(DataError, match=r"with features: another\.mat, other\.mat\. Name the one"):
        load_benchmark("aPY", tmp_path)
    named = load_benchmark("aPY", tmp_path, features_file="another.mat")
    assert named.provenance.features == "another.mat"
    for path in (folder / "another.mat", folder / "other.mat"):
        path.unlink()
    with pytest.raises(DataError, match=r"res101\.mat: no such file, .* features: none"):
        load_benchmark("aPY", tmp_path)


def test_a_root_without_the_benchmark_says_what_it_should_hold(tmp_path):
    with pytest.raises(DataError, match=r"SUN/res101\.mat.*no folder SUN"):
        load_benchmark("sun", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        load_benchmark("sun", tmp_path / "none")
    said = r"benchmark: expected one of CUB, AWA1.* or a folder .* with att_splits\.mat, got 'SUM'"
    with pytest.raises(DataError, match=said):
        load_benchmark("SUM", tmp_path)


def test_another_folder_in_the_format_is_a_dataset_by_its_name(tmp_path):
    write_tiny(tmp_path / "Mine")
    data = load_dataset("Mine", data_root=tmp_path)
    assert data.provenance.name == "Mine"
    assert inputs_of(data)["split"].startswith("own split, ")
    assert main(["data", "info", "Mine", "--data-root", str(tmp_path)]) == 0
