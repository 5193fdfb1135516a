"""Rows that stay in their file: what is read, from which file, and what is said when it cannot."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlis.compute.memory import RESIDENT_FRACTION, available_memory, resident_limit
from mlis.data import GZSLDataset
from mlis.data.io.folder import TENSORS, load_folder, save_dataset
from mlis.data.out_of_core.arrays import row_chunks
from mlis.data.out_of_core.stored import StoredRows, stored
from mlis.errors import DataError, SettingsError
from simulated import tiny

VALUES = np.random.default_rng(0).random((50, 7), dtype=np.float32)


@pytest.fixture
def mapped(tmp_path) -> np.ndarray:
    np.save(tmp_path / "x.npy", VALUES)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def view(mapped: np.ndarray, rows) -> StoredRows:
    where = stored(mapped)
    assert where is not None
    return StoredRows(where, np.asarray(rows, dtype=np.int64))


def test_an_array_is_found_in_its_file_also_a_part_of_it(mapped):
    for part in (mapped, mapped[3:40], mapped[3:40][2:], np.asarray(mapped)[10:], mapped[:, :][5:]):
        where = stored(part)
        assert where is not None
        out = np.empty(part.shape, np.float32)
        where.read(0, out)
        np.testing.assert_array_equal(out, part)


def test_what_is_no_plain_read_only_map_is_read_as_an_array(mapped, tmp_path):
    np.save(tmp_path / "columns.npy", np.asfortranarray(VALUES))
    others = [
        VALUES,
        mapped[:, :3],
        mapped[::2],
        mapped[:0],
        np.load(tmp_path / "x.npy", mmap_mode="r+"),
        np.load(tmp_path / "x.npy", mmap_mode="c"),
        np.load(tmp_path / "columns.npy", mmap_mode="r"),
    ]
    for array in others:
        assert stored(array) is None
        chunks = [chunk.copy() for _, chunk in row_chunks(array)]
        if chunks:
            np.testing.assert_array_equal(np.concatenate(chunks), array)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(0, 49), max_size=60))
def test_rows_in_any_order_and_more_than_once(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any-order.npy"
    if not path.exists():
        np.save(path, VALUES)
    ours, expected = view(np.load(path, mmap_mode="r"), rows), VALUES[np.array(rows, dtype=int)]
    np.testing.assert_array_equal(ours[:], expected)
    assert ours.shape == expected.shape
    assert len(ours) == len(expected)


def test_rows_are_chosen_as_from_an_array(mapped):
    rows = np.array([40, 3, 4, 5, 3, 49])
    ours, expected = view(mapped, rows), VALUES[rows]
    assert (ours.ndim, ours.shape, ours.dtype, ours.nbytes) == (2, (6, 7), np.float32, 6 * 7 * 4)
    mask = np.array([True, False, True, True, False, False])
    for index in (slice(1, 4), slice(None, None, -1), slice(9, 12), 2, -1, np.array([5, 0]), mask):
        np.testing.assert_array_equal(ours[index], expected[index])
        assert ours[index].shape == expected[index].shape
    np.testing.assert_array_equal(np.asarray(ours), expected)
    np.testing.assert_array_equal(np.asarray(ours, dtype=np.float64), expected)
    np.testing.assert_array_equal(np.stack(list(ours)), expected)
    ours[0][:] = 9  # a new array each time
    np.testing.assert_array_equal(ours[0], expected[0])
    with pytest.raises(IndexError):
        ours[6]


def test_a_file_cut_short_is_named_with_the_row(mapped, tmp_path):
    rows = view(mapped, np.arange(50))
    path = tmp_path / "x.npy"
    os.truncate(path, path.stat().st_size - 10 * 7 * 4 - 1)
    np.testing.assert_array_equal(rows[:39], VALUES[:39])
    for index in (39, slice(0, 50), np.array([2, 39])):
        with pytest.raises(DataError, match=r"x\.npy: row 39 is missing.*truncated"):
            rows[index]


def test_a_file_that_cannot_be_read_is_named_with_the_row(mapped, monkeypatch):
    rows = view(mapped, np.arange(50))

    def fails(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mlis.data.out_of_core.stored.OpenFile._read", fails)
    with pytest.raises(DataError, match=r"x\.npy: row 12 cannot be read: Input/output error"):
        rows[12:14]


def test_a_file_that_is_deleted_or_replaced_later_is_still_the_one_that_was_opened(tmp_path):
    data = tiny()
    save_dataset(data, tmp_path / "a")
    loaded = load_folder(tmp_path / "a")
    other = np.flip(data.features, 0).copy()
    (tmp_path / "a" / TENSORS).unlink()
    save_dataset(GZSLDataset(other, *(getattr(data, n) for n in FIELDS)), tmp_path / "a")
    np.testing.assert_array_equal(view(loaded.features, [3, 1])[:], data.features[[3, 1]])


FIELDS = ("labels", "descriptors", "class_names", "split", "provenance")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_file_is_closed_with_the_last_who_reads_it(mapped):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are counted in /proc")
    before = open_files()
    rows = view(mapped, [1])
    assert open_files() == before + 1
    assert view(mapped[2:], [1]).array.file is rows.array.file
    del rows, mapped
    # the fixture keeps the map, and the map keeps its file
    assert open_files() == before + 1


# --- what stays in its file ------------------------------------------------------------------


def test_the_limit_is_a_share_of_memory_or_what_the_user_says(monkeypatch):
    monkeypatch.delenv("MLIS_RESIDENT_MIB", raising=False)
    share = resident_limit() / available_memory()
    assert share == pytest.approx(RESIDENT_FRACTION, rel=0.2)  # memory comes and goes meanwhile
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "1.5")
    assert resident_limit() == 3 << 19
    for wrong in ("-1", "2GB", "nan", "inf"):
        monkeypatch.setenv("MLIS_RESIDENT_MIB", wrong)
        with pytest.raises(SettingsError, match=f"MLIS_RESIDENT_MIB: .* got '{wrong}'"):
            resident_limit()


def test_parts_of_a_large_map_are_views_with_the_same_rows(tmp_path, monkeypatch):
    save_dataset(tiny(), tmp_path)
    data = load_folder(tmp_path)
    resident = data.for_training(), data.for_testing(), *data.for_validation()
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "0")
    left = data.for_training(), data.for_testing(), *data.for_validation()
    for ours, whole in zip(left, resident, strict=True):
        assert type(whole.features) is np.ndarray
        assert isinstance(ours.features, StoredRows)
        np.testing.assert_array_equal(np.asarray(ours.features), whole.features)
    for ours, whole in zip(left[::2], resident[::2], strict=True):
        assert ours.key == whole.key
    assert type(tiny().for_training().features) is np.ndarray  # no file to leave it in
