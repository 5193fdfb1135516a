"""Extraction: shards, what a kill leaves, what a grown or changed folder costs, bad files."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import odd_images
from fake_backbones import SIDE, Colours, check, names, write_images
from mlis.data.io.feature_folder import is_feature_folder, read_feature_folder
from mlis.data.io.feature_rows import read_features
from mlis.errors import DataError
from mlis.features import decode
from mlis.features.images.extract import extract_folder
from mlis.features.images.files import find_images, shown
from mlis.features.images.shards import FOLDER, compute_shard


def test_rows_are_those_of_the_images(tmp_path):
    images, output, backbone = tmp_path / "in", tmp_path / "out", Colours()
    write_images(images, names(20))
    result = extract_folder(find_images(images), backbone, output, shard_images=6)
    assert (result.computed, backbone.images, result.bad) == (20, 20, ())
    check(images, output, names(20))
    assert len(list((output / FOLDER).glob("*.json"))) == 4
    assert (output / "bad.csv").read_text() == "path,reason\n"
    assert read_features(output).shape == (20, 48)


def test_a_grown_changed_and_moved_folder_costs_what_is_new(tmp_path):
    images, output = tmp_path / "in", tmp_path / "out"
    write_images(images, names(12))
    extract_folder(find_images(images), Colours(), output, shard_images=5)
    write_images(images, ["c/new.png"], 500)  # one is new
    write_images(images, ["a/000.png"], 600)  # one has another content
    os.utime(images / "b/001.png")  # one was touched
    (images / "a/002.png").rename(images / "b/moved.png")
    (images / "a/004.png").unlink()
    backbone = Colours()
    result = extract_folder(find_images(images), backbone, output, shard_images=5)
    assert backbone.images == result.computed == 2
    paths = {*names(12), "c/new.png", "b/moved.png"} - {"a/002.png", "a/004.png"}
    check(images, output, sorted(paths))
    backbone = Colours()
    assert extract_folder(find_images(images), backbone, output).computed == backbone.images == 0
    check(images, output, sorted(paths))


def test_settled_files_are_not_even_read_again(tmp_path, monkeypatch):
    images, output = tmp_path / "in", tmp_path / "out"
    write_images(images, names(4))
    later = time.time_ns() + 10**10
    monkeypatch.setattr("mlis.features.images.extract.time.time_ns", lambda: later)
    extract_folder(find_images(images), Colours(), output)
    read = []
    monkeypatch.setattr("mlis.features.images.embed.read_file", lambda path, now: read.append(path))
    extract_folder(find_images(images), Colours(), output)
    assert not read


def test_a_damaged_shard_is_computed_again(tmp_path):
    images, output = tmp_path / "in", tmp_path / "out"
    write_images(images, names(10))
    extract_folder(find_images(images), Colours(), output, shard_images=5)
    shard = sorted((output / FOLDER).glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    sorted((output / FOLDER).glob("*.json"))[1].write_text("{")
    assert extract_folder(find_images(images), Colours(), output).computed == 10
    check(images, output, names(10))


def test_odd_files_give_their_own_rows_or_a_reason(tmp_path):
    images, output = tmp_path / "in", tmp_path / "out"
    fine, reasons = odd_images.write_all(images / "class")
    assert len(fine) + len(reasons) > 40
    result = extract_folder(find_images(images), Colours(), output, shard_images=10)
    named = [path.removeprefix("class/") for path in result.images.paths]
    assert named == sorted(map(shown, fine))
    said = {bad.path.removeprefix("class/"): bad.reason for bad in result.bad}
    assert said.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in said[name], name
    assert len((output / "bad.csv").read_text().splitlines()) == 1 + len(reasons)
    for path, row in zip(result.images.paths, result.images.features, strict=True):
        grid = row.reshape(SIDE, SIDE, 3)  # red above, blue below; greys light above, dark below
        assert grid[0, :, 0].mean() > grid[-1, :, 0].mean() + 80, path


def test_features_that_are_not_finite_are_no_rows(tmp_path):
    class Broken(Colours):
        def __call__(self, inputs):
            rows = super().__call__(inputs)
            rows[rows[:, 0] == 3] = np.nan
            return rows

    write_images(tmp_path / "in", names(6))
    result = extract_folder(find_images(tmp_path / "in"), Broken(), tmp_path / "out")
    assert [(bad.path, bad.reason) for bad in result.bad] == [
        ("b/003.png", "its features are not finite")
    ]
    assert len(result.images.features) == 5


def test_features_of_another_model_are_refused_then_replaced(tmp_path):
    images, output = tmp_path / "in", tmp_path / "out"
    write_images(images, names(4))
    found = find_images(images)
    extract_folder(found, Colours(), output)
    with pytest.raises(DataError, match=r"got those of colours.*--force"):
        extract_folder(found, Colours("two"), output)
    result = extract_folder(found, Colours("two"), output, replace=True)
    assert result.computed == 4
    assert read_feature_folder(output).backbone["weights"] == "two"
    assert len(list((output / FOLDER).glob("*.json"))) == 1


@pytest.mark.parametrize("on_cpu", [True, False])
def test_batches_side_by_side_give_what_they_give_in_turn(tmp_path, monkeypatch, on_cpu):
    class Slow(Colours):
        """Its first batches end last; it counts who computes at the same time."""

        def __call__(self, inputs):
            with lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            time.sleep(0.05 / (1 + self.images))
            try:
                return super().__call__(inputs)
            finally:
                with lock:
                    self.inside -= 1

    lock, backbone = threading.Lock(), Slow()
    backbone.inside = backbone.most = 0
    backbone.on_cpu = on_cpu
    write_images(tmp_path, names(30))
    write_images(tmp_path, ["a/again.png"], 29)  # what 029 holds
    (tmp_path / "a" / "bad.png").write_bytes(b"")
    found = find_images(tmp_path).images
    expected, _ = compute_shard(found, Colours())
    told = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    shard, bad = compute_shard(found, backbone, done=told.append)
    assert backbone.most > 1 if on_cpu else backbone.most == 1
    assert shard.rows == expected.rows
    assert shard.files == expected.files
    assert [each.path for each in bad] == ["a/bad.png"]
    assert (backbone.images, sum(told)) == (30, 32)
    np.testing.assert_array_equal(shard.features, expected.features)


def test_a_model_that_fails_ends_the_run_with_its_own_error(tmp_path):
    class Failing(Colours):
        def __call__(self, inputs):
            raise RuntimeError("no memory left on the device")

    write_images(tmp_path / "in", names(9))
    with pytest.raises(RuntimeError, match="no memory left"):
        extract_folder(find_images(tmp_path / "in"), Failing(), tmp_path / "out")
    assert not is_feature_folder(tmp_path / "out")


@pytest.mark.parametrize("file", ["features.safetensors", "images.csv", "features.json"])
def test_a_damaged_folder_is_refused(tmp_path, file):
    write_images(tmp_path / "in", names(4))
    extract_folder(find_images(tmp_path / "in"), Colours(), tmp_path / "out")
    path = tmp_path / "out" / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged|cannot be read"):
        read_feature_folder(tmp_path / "out")


class Killed(BaseException):
    """Ends a run where it stands."""


def test_a_run_may_end_at_any_file_and_nothing_is_lost_or_repeated(tmp_path, monkeypatch):
    images, output, whole = tmp_path / "in", tmp_path / "out", tmp_path / "whole"
    write_images(images, names(20))
    extract_folder(find_images(images), Colours(), whole, shard_images=6)
    replace, left = Path.replace, 0

    def dying(self, target):
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # batches side by side
    # Files younger than two seconds are hashed again by every run: here they count as old.
    monkeypatch.setattr(decode, "is_settled", lambda info, now_ns: True)
    shards = 0
    for attempt in range(60):  # a run ends at its first file, the next at its second, …
        backbone, left = Colours(), 1 + attempt % 12
        before = len(list((output / FOLDER).glob("*.json")))
        try:
            extract_folder(find_images(images), backbone, output, shard_images=6)
        except Killed:
            finished = len(list((output / FOLDER).glob("*.json"))) - before
            shards += finished
            # at most the shard that was being written, and the three batches behind it
            assert backbone.images <= 6 * finished + 6 + 3 * backbone.batch
            assert not is_feature_folder(output) or read_feature_folder(output)
            continue
        break
    else:
        raise AssertionError("no run of sixty came to its end")
    assert shards >= 3  # most of the four were finished by runs that ended early
    monkeypatch.undo()
    result = extract_folder(find_images(images), Colours(), output, shard_images=6)
    assert result.computed == 0
    check(images, output, names(20))
    assert (output / "images.csv").read_bytes() == (whole / "images.csv").read_bytes()
    tensors = "features.safetensors"
    assert (output / tensors).read_bytes() == (whole / tensors).read_bytes()
