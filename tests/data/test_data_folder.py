"""The dataset folder: round trips, memory maps, and damage of every kind."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlis.data import GZSLDataset, Provenance
from mlis.data.io.folder import METADATA, TENSORS, load_folder, save_dataset
from mlis.data.out_of_core.stored import StoredArray
from mlis.errors import DataError


@pytest.fixture
def data() -> GZSLDataset:
    rng = np.random.default_rng(0)
    names = tuple(f"classe née {i} 猫" for i in range(6))
    made = GZSLDataset.from_arrays(
        rng.random((60, 5), dtype=np.float32),
        np.repeat(np.arange(6), 10),
        rng.random((6, 3)),
        class_names=names,
        unseen_classes=[5],
    )
    provenance = Provenance("zoo", "f.mat", "s.mat:att", {"f.mat": "00ff"}, ("a note",))
    return replace(made, provenance=provenance)


def test_what_is_saved_is_loaded(data, tmp_path):
    save_dataset(data, tmp_path / "new" / "zoo")
    loaded = load_folder(tmp_path / "new" / "zoo")
    assert loaded.sha256 == data.sha256
    assert loaded.provenance == data.provenance
    assert loaded.class_names == data.class_names
    for name in ("features", "labels", "descriptors"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(data, name))
    for name in data.split.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(loaded.split, name), getattr(data.split, name))
    assert sorted(path.name for path in (tmp_path / "new" / "zoo").iterdir()) == [METADATA, TENSORS]


def test_empty_parts_survive(data, tmp_path):
    bare = GZSLDataset.from_arrays(
        data.features[:20], data.labels[:20], data.descriptors[:2], unseen_classes=[]
    )
    save_dataset(bare, tmp_path)
    loaded = load_folder(tmp_path)
    assert loaded.sha256 == bare.sha256
    assert not loaded.split.test_unseen.size


def test_a_folder_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot be written"):
        save_dataset(data, tmp_path / "file")


def test_what_is_no_dataset_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json: no such file"):
        load_folder(tmp_path)
    with pytest.raises(DataError, match=r"dataset\.json: no such file"):
        load_folder(tmp_path / "none")


WORD_FAULTS = {
    "no JSON": ("{", r"dataset\.json: damaged"),
    "not UTF-8": (b"\xff\xfe{}", r"dataset\.json: damaged"),
    "a list": ("[]", "expected the format 'mlis-dataset'"),
    "other format": ({"format": "x"}, "expected the format 'mlis-dataset'"),
    "newer": ({"version": 2}, "expected version 1, got 2"),
    "names no list": ({"class_names": "abcdef"}, "damaged: TypeError"),
    "names no text": ({"class_names": [1, 2, 3, 4, 5, 6]}, "class_names: name 0: .* got 1"),
    "a name too few": (
        {"class_names": list("abcde")},
        "expected 6 names.* got 5",
    ),
    "a name changed": (
        {"class_names": list("abcdef")},
        "together: expected SHA-256",
    ),
    "no provenance": ({"provenance": {}}, "damaged: KeyError"),
    "provenance no text": (
        {"provenance": {"name": 1, "features": "", "descriptors": "", "files": {}, "notes": []}},
        "values other than text",
    ),
    "no hash": ({"sha256": None}, "do not belong together"),
}


@pytest.mark.parametrize("fault", WORD_FAULTS)
def test_each_fault_of_the_words_is_told(data, tmp_path, fault):
    change, message = WORD_FAULTS[fault]
    save_dataset(data, tmp_path)
    path = tmp_path / METADATA
    if isinstance(change, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        path.write_text(change)
    with pytest.raises(DataError, match=message):
        load_folder(tmp_path)


def rewrite_header(path: Path, change) -> None:
    """Change the JSON header of a safetensors file and leave the numbers."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


HEADER_FAULTS = {
    "other type": lambda h: h["features"].update(dtype="F64"),
    "huge": lambda h: h["features"].update(shape=[10**12, 10**12]),
    "negative": lambda h: h["features"].update(shape=[-60, -5]),
    "reversed": lambda h: h["features"].update(data_offsets=[1200, 0]),
    "beyond the end": lambda h: h["features"].update(data_offsets=[10**9, 10**9 + 1200]),
    "transposed": lambda h: h["features"].update(shape=[5, 60]),
    "moved": lambda h: h["features"].update(data_offsets=[4, 1204]),
    "missing": lambda h: h.pop("labels"),
    "no metadata": lambda h: h.pop("__metadata__"),
}


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_each_fault_of_the_header_is_told(data, tmp_path, fault):
    save_dataset(data, tmp_path)
    rewrite_header(tmp_path / TENSORS, HEADER_FAULTS[fault])
    with pytest.raises(DataError) as caught:
        load_folder(tmp_path)
    place = "zoo (f.mat): features" if fault == "transposed" else "features.safetensors"
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 200, -1])
def test_a_file_cut_short_is_told(data, tmp_path, length):
    save_dataset(data, tmp_path)
    path = tmp_path / TENSORS
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"features\.safetensors: damaged"):
        load_folder(tmp_path)


def test_no_change_of_a_byte_goes_unnoticed(data, tmp_path):
    """Whatever byte is changed in either file: an error, or the very same dataset."""
    save_dataset(data, tmp_path)
    chance = random.Random(0)
    for name in (TENSORS, METADATA):
        path = tmp_path / name
        good = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(good)
            damaged[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            try:
                loaded = load_folder(tmp_path)
            except DataError:
                continue
            assert loaded.sha256 == data.sha256
            np.testing.assert_array_equal(loaded.features, data.features)
        path.write_bytes(good)


def test_features_of_another_dataset_are_noticed(data, tmp_path):
    save_dataset(data, tmp_path / "a")
    save_dataset(replace(data, features=np.flip(data.features, 0).copy()), tmp_path / "b")
    (tmp_path / "b" / TENSORS).replace(tmp_path / "a" / TENSORS)
    with pytest.raises(DataError, match="do not belong together: expected SHA-256"):
        load_folder(tmp_path / "a")


# --- large files are gone through once ----------------------------------------------------------


@pytest.fixture
def large(data, tmp_path, monkeypatch) -> Path:
    """A folder whose features count as large, and whose files count as settled."""
    monkeypatch.setattr("mlis.data.io.folder.VERIFY_ONCE", 0)
    monkeypatch.setattr("mlis.data.io.cache._SETTLED_NS", -(10**15))
    monkeypatch.setenv("MLIS_CACHE", str(tmp_path / "cache"))
    save_dataset(data, tmp_path / "large")
    return tmp_path / "large"


@pytest.fixture
def rows_read(monkeypatch) -> list[int]:
    read: list[int] = []
    original = StoredArray.read

    def counted(self, start, out):
        if out.shape[1:] == (5,):
            read.append(len(out))
        original(self, start, out)

    monkeypatch.setattr(StoredArray, "read", counted)
    return read


def test_a_large_file_is_gone_through_once(data, large, rows_read):
    assert load_folder(large).sha256 == data.sha256
    assert sum(rows_read) == 2 * 60  # checked, hashed
    rows_read.clear()
    loaded = load_folder(large)
    assert loaded.sha256 == data.sha256
    assert not rows_read
    np.testing.assert_array_equal(loaded.features, data.features)


def test_a_file_that_changed_just_now_is_gone_through_again(large, rows_read, monkeypatch):
    monkeypatch.setattr("mlis.data.io.cache._SETTLED_NS", 10**15)
    for _ in range(2):
        load_folder(large)
    assert sum(rows_read) == 4 * 60


def test_a_large_file_that_was_changed_is_noticed(large):
    load_folder(large)
    path = large / TENSORS
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    for value, message in (
        (np.float32(0.5), "do not belong together"),
        (np.nan, "row 0, column 0: .* got nan"),
    ):
        content[start : start + 4] = np.float32(value).tobytes()
        path.write_bytes(content)
        for _ in range(2):  # nothing of a damaged file is remembered
            with pytest.raises(DataError, match=message):
                load_folder(large)


def test_what_is_remembered_may_be_damaged(data, large, tmp_path):
    load_folder(large)
    (memory,) = (tmp_path / "cache" / "verified").iterdir()
    for content in (b"", b"\xff\xfe", memory.read_bytes().replace(b"0", b"1")):
        memory.write_bytes(content)
        assert load_folder(large).sha256 == data.sha256
