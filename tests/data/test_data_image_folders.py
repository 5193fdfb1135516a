"""Images in folders named as other classes are: seen, warned of, and never by mistake."""

from pathlib import Path

import numpy as np
import pytest

from mlis.data import load_benchmark, load_pair
from mlis.data.io.image_folders import folder_mismatch, pack
from mlis.data.io.matlab import read_strings
from standins import tiny_benchmark, write_mat


def write_folders(folder: Path, folders: list[str], names: list[str] | None, **how) -> tuple:
    """A tiny benchmark whose class of label i + 1 has its images in `folders[i]`."""
    features, split = tiny_benchmark()
    labels = np.asarray(features["labels"]).ravel().astype(int) - 1
    features["image_files"] = [f"{folders[y]}/{row:03d}.jpg" for row, y in enumerate(labels)]
    if names is None:
        del split["allclasses_names"]
    else:
        split["allclasses_names"] = names
    folder.mkdir(exist_ok=True)
    write_mat(folder / "res101.mat", features, **how)
    write_mat(folder / "att_splits.mat", split, **how)
    return folder / "res101.mat", folder / "att_splits.mat"


BIRDS = [
    "Laysan_Albatross",
    "Sooty_Albatross",
    "Crested_Auklet",
    "Parakeet_Auklet",
    "Red_Blackbird",
]
BIRDS += ["Rusty_Blackbird", "Bobolink", "Indigo_Bunting", "Gray_Catbird", "Pied_Cormorant"]
ORDER = [2, 3, 5, 7, 10, 11, 13, 14, 19, 25]  # as CUB's split file: numbers of the folders
NESTED = [*BIRDS[:8], "Catbird", "Gray_Catbird"]  # as SUN's: kitchen beside bakery/kitchen
NUMBERED = [f"{number:03d}.{bird}" for number, bird in zip(ORDER, BIRDS, strict=True)]


@pytest.mark.parametrize("how", [{}, {"compress": True}, {"hdf5": True}], ids=str)
@pytest.mark.parametrize("cache", [False, True])
def test_features_numbered_by_folder_are_warned_of(tmp_path, caplog, how, cache):
    """Three classes are numbered one too high: the others are right."""
    wrong = [*NUMBERED[:5], NUMBERED[8], *NUMBERED[5:8], NUMBERED[9]]
    files = write_folders(tmp_path, [f"CUB/images/{name}" for name in wrong], NUMBERED, **how)
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        data = load_pair(*files, cache=cache)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        said = record.getMessage()
        assert said.startswith(
            f"{files[0]}: 4 of 10 classes have images from the folder of another class"
        )
        assert (
            "label 6 is folder '019.Gray_Catbird' but class '011.Rusty_Blackbird'; label 7" in said
        )
        assert "label 9" not in said  # the first three are enough
        assert f"att in {files[1]}: match names, not numbers" in said
        assert any("4 of 10 classes" in note for note in data.provenance.notes)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (NUMBERED, NUMBERED),
        (BIRDS, NUMBERED),
        ([f"{100 + i} {bird.lower()}" for i, bird in enumerate(BIRDS)], NUMBERED),
        ([f"C:\\birds\\{name.replace('_', ' ')}" for name in BIRDS], BIRDS),
        ([f"b/{name.replace('_', '/')}" for name in NESTED], NESTED),
        (["jpg"] * 10, BIRDS),
        (["VOC2008/JPEGImages"] * 9 + ["Bobolink"], BIRDS),
        (["Bobolink"] * 2 + [f"batch{i}" for i in range(8)], BIRDS),
        ([f"class_{i:03d}" for i in range(10)], None),
        ([""] * 10, BIRDS),
    ],
    ids=[
        "the same",
        "without numbers",
        "other numbers and case",
        "of Windows",
        "nested",
        "one folder",
        "no class folders",
        "mostly no class folders",
        "names that are made up",
        "no folder",
    ],
)
def test_folders_that_do_not_contradict_are_not_warned_of(tmp_path, caplog, folders, names):
    load_pair(*write_folders(tmp_path, folders, names), cache=False)
    assert not caplog.records


def test_the_real_flowers_contradict_nothing(xlsa17, caplog):
    data = load_benchmark("FLO", xlsa17, features_file="efficientnet_lite2.mat")
    assert not caplog.records
    assert len(data.provenance.notes) == 1


@pytest.mark.parametrize("name", ["AWA2", "SUN", "CUB"])
def test_real_class_names_as_folders_contradict_nothing(xlsa17, name):
    """SUN's folders are nested where its names have an underscore: bakery/kitchen, also kitchen."""
    file = "sent_splits.mat" if name == "CUB" else "att_splits.mat"
    names = read_strings(xlsa17 / name / file, "allclasses_names")
    for folders in (names, [f"a/{one.replace('_', '/', 1)}" for one in names]):
        pairs = [(label, folder) for label, folder in enumerate(folders, 1)]
        assert folder_mismatch(pack(pairs), names) is None
    swapped = [names[1], names[0], *names[2:]]
    assert "2 of " in folder_mismatch(pack(list(enumerate(swapped, 1))), names)
