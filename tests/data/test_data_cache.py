"""The cache: used when it can be, made again when it is not right, never wrong."""

import logging
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mlis.data.io.cache import ENTRY_VERSION, cached_arrays, file_sha256
from mlis.data.io.xlsa17 import _read_features
from mlis.storage.atomic import cache_folder
from standins import tiny_benchmark, write_mat, write_standin, write_tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MLIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A file that was written a minute ago."""
    path, _ = write_tiny(tmp_path / "data")
    now = time.time_ns()
    monkeypatch.setattr("time.time_ns", lambda: now + 60_000_000_000)
    return path


class Reader:
    """Reads arrays from a file and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> dict[str, np.ndarray]:
        self.calls += 1
        return _read_features(path)


NAMES = ("features", "labels", "folders")


def entry_of(cache: Path) -> Path:
    (entry,) = (cache / f"arrays-v{ENTRY_VERSION}").iterdir()
    return entry


def test_the_second_open_maps_the_cache_and_reads_nothing(source):
    reader = Reader()
    first, digest = cached_arrays(source, NAMES, reader)
    second, again = cached_arrays(source, NAMES, reader)
    assert reader.calls == 1
    assert digest == again
    assert isinstance(first["features"], np.memmap)
    assert isinstance(second["features"], np.memmap)
    for name in NAMES:
        np.testing.assert_array_equal(first[name], _read_features(source)[name])
        np.testing.assert_array_equal(second[name], first[name])


def test_a_changed_file_of_the_same_size_and_time_is_read_again(source):
    reader = Reader()
    cached_arrays(source, NAMES, reader)
    stat = source.stat()
    content = bytearray(source.read_bytes())
    content[-3000] ^= 0x01  # inside the numbers of the features
    source.write_bytes(content)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    cached_arrays(source, NAMES, reader)
    assert reader.calls == 2
    assert len(list((cache_folder() / f"arrays-v{ENTRY_VERSION}").iterdir())) == 2


@pytest.mark.parametrize("place", [0, 8, 100, -1])
def test_a_flipped_bit_anywhere_in_an_entry_makes_it_be_made_again(
    source, own_cache, caplog, place
):
    reader = Reader()
    expected, _ = cached_arrays(source, NAMES, reader)
    entry = entry_of(own_cache)
    good = entry.read_bytes()
    damaged = bytearray(good)
    damaged[place] ^= 0x10
    entry.unlink()
    entry.write_bytes(damaged)
    arrays, _ = cached_arrays(source, NAMES, reader)
    assert reader.calls == 2
    assert "will be replaced" in caplog.text
    assert entry.read_bytes() == good
    for name in NAMES:
        np.testing.assert_array_equal(arrays[name], expected[name])


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_truncated_entry_is_made_again(source, own_cache, caplog, length):
    reader = Reader()
    cached_arrays(source, NAMES, reader)
    entry = entry_of(own_cache)
    good = entry.read_bytes()
    entry.unlink()
    entry.write_bytes(good[:length])
    arrays, _ = cached_arrays(source, NAMES, reader)
    assert reader.calls == 2
    assert "will be replaced" in caplog.text
    assert entry.read_bytes() == good
    assert arrays["features"].shape == (120, 8)


@pytest.mark.parametrize("content", [b"", b"0" * 64 + b" 00000000"])
def test_a_damaged_memory_of_hashes_is_not_believed(source, own_cache, content):
    digest = file_sha256(source)
    (memory,) = (own_cache / "file-hashes").iterdir()
    memory.write_bytes(content)
    assert file_sha256(source) == digest


def test_a_hash_is_remembered_only_once_the_file_is_settled(tmp_path, own_cache, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"first")
    first = file_sha256(path)
    assert not (own_cache / "file-hashes").exists()  # it may change again in this very tick
    now = time.time_ns()
    monkeypatch.setattr("time.time_ns", lambda: now + 60_000_000_000)
    assert file_sha256(path) == first
    assert len(list((own_cache / "file-hashes").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_done_without(source, own_cache, caplog):
    own_cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, logger="mlis"):
        arrays, _ = cached_arrays(source, NAMES, Reader())
    assert "not cached" in caplog.text
    assert arrays["features"].shape == (120, 8)


def test_a_full_disk_leaves_no_half_entry(source, own_cache, caplog, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    arrays, _ = cached_arrays(source, NAMES, Reader())
    assert "No space left" in caplog.text
    assert arrays["features"].shape == (120, 8)
    assert not list((own_cache / f"arrays-v{ENTRY_VERSION}").iterdir())


MEASURE = """
import re, sys, time
from pathlib import Path
import mlis.data
start = time.perf_counter()
data = mlis.data.load_benchmark("AWA2", sys.argv[1])
seconds = time.perf_counter() - start
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(seconds, int(peak[1]) * 1024, type(data.features).__name__, data.sha256)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    "options", [{}, {"compress": True}, {"hdf5": True}], ids=["v5", "v7", "v7.3"]
)
def test_an_awa2_sized_file_fits_in_memory_and_is_mapped_the_next_time(xlsa17, tmp_path, options):
    write_standin(
        tmp_path / "root", "AWA2", xlsa17, feature_size=2048, image_files=not options, **options
    )
    time.sleep(2.1)  # a file written just now has its hash computed each time
    array_bytes = 37_322 * 2048 * 8

    def measure() -> tuple[float, float, str, str]:
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "root")]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds, peak, kind, digest = out.split()
        return float(seconds), int(peak) / array_bytes, kind, digest

    first, second = measure(), measure()
    for label, (seconds, peak, kind, _) in (("first", first), ("next", second)):
        print(f"{label} open: {seconds:.2f} s, peak {peak:.2f} of the float64 array, {kind}")
    assert first[1] < 1  # the whole process, interpreter included
    assert second[2] == "memmap"
    assert second[1] < 0.8  # half of it is the mapped float32, which the kernel may drop
    assert second[0] < first[0]
    assert first[3] == second[3]


def test_reading_never_holds_the_float64_array_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("mlis.data.io.mat5.CHUNK_BYTES", 1 << 16)
    features, _ = tiny_benchmark()
    size = 4_000
    features["features"] = np.asfortranarray(np.random.default_rng(0).random((size, 120)))
    write_mat(tmp_path / "big.mat", features)
    tracemalloc.start()
    _read_features(tmp_path / "big.mat")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.7 * size * 120 * 8
