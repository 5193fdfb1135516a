"""What a folder holds already stays; files that belong together are replaced together."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli_cases import GAN, QUICK, environment, one_line_error, refused, save_small, small_dataset
from experiment_cases import row
from mlis.cli import main
from mlis.data.io.feature_folder import ImageFeatures
from mlis.data.out_of_core.safetensors_file import write_arrays
from mlis.errors import DataError
from mlis.experiments.store import Store
from mlis.features.images.shards import Store as Shards
from mlis.io.checkpoint import load_exemplars, load_model, save_model
from mlis.io.hub import save_pretrained
from mlis.storage.atomic import cache_folder
from mlis.storage.locks import LOCK, lock_folder

OTHERS = (".env.tmp", "sub/.my-tmp-file", "seed-0/.notes.tmp", "seed-0/.a.b-1.deadbeef.tmp")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_small(tmp_path_factory.mktemp("folders") / "data")


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- files of others ------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["d", "."])
def test_a_run_leaves_the_files_that_are_there(data, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    for name in OTHERS:
        path = Path(output) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (Path(output) / "e/.tmpdir").mkdir(parents=True)
    (Path(output) / "seed-0/.tmpdir.tmp").mkdir()
    before = tree(tmp_path)
    assert main(["fit", str(data), "-o", output, *QUICK]) == 0
    assert before <= tree(tmp_path)


def test_the_cache_keeps_what_it_did_not_write(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MLIS_CACHE", str(tmp_path / "cache"))
    gan = [flag for flag in GAN if flag != "--no-reuse"]
    assert main(["fit", str(data), "-o", str(tmp_path / "one"), *gan]) == 0
    (folder,) = (cache_folder() / "generators").iterdir()
    (folder / ".my-tmp-file").write_text("x")
    (folder / ".tmpdir").mkdir()
    assert main(["fit", str(data), "-o", str(tmp_path / "two"), *gan]) == 0
    assert {".my-tmp-file", ".tmpdir"} <= tree(folder)


def test_shards_of_others_stay(tmp_path):
    write_arrays(tmp_path / "weights.safetensors", {"features": np.ones((2, 2), np.float32)})
    (tmp_path / "0123456789abcdef.json").write_text('{"mine": 1}')
    (tmp_path / "fedcba9876543210.safetensors").write_bytes(b"mine")
    before = tree(tmp_path)
    nothing = ImageFeatures(np.zeros((0, 2), np.float32), (), (), None, ())
    Shards.open(tmp_path, "kind").remove_unused(nothing)
    assert tree(tmp_path) == before


def test_a_results_file_of_others_is_not_cut(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("my notes, without a newline")
    with pytest.raises(DataError, match=r"results\.jsonl.*my notes"):
        Store(path).append(row())
    assert path.read_text() == "my notes, without a newline"


# --- locks ----------------------------------------------------------------------------------------


def test_a_lock_that_is_a_link_is_refused_and_its_target_kept(data, tmp_path, capsys):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(victim)
    assert main(["fit", str(data), "-o", str(tmp_path / "run"), *QUICK]) == 1
    said = one_line_error(capsys.readouterr().err)
    assert LOCK in said
    assert "Remove it" in said
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", [".lock", LOCK])
@pytest.mark.parametrize("content", [b"mine", b""])
def test_a_file_of_the_locks_name_keeps_its_content(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with lock_folder(tmp_path), pytest.raises(BlockingIOError):
        lock_folder(tmp_path)
    assert content == b"" or (tmp_path / name).read_bytes() == content


# --- files that belong together -------------------------------------------------------------------

KILLED_SAVES = """
import itertools, json, os, shutil, sys
from pathlib import Path

import torch

from killed_saves import CASES

torch.set_num_threads(1)  # a fork after threads ran may hang
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


def killed(save, folder, moment):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    count = itertools.count()

    def hook(event, arguments):
        if event in EVENTS and str(folder) in str(arguments[0]) and next(count) == moment:
            os._exit(9)

    sys.addaudithook(hook)
    save(folder)
    os._exit(0)


for name, (make, load) in CASES.items():
    before = Path(sys.argv[1]) / name / "before"
    make(0)(before)
    (before / "NOTES.md").write_text("mine")
    old = load(before)
    make(1)(before.with_name("after"))
    new = load(before.with_name("after"))
    assert old != new
    found = []
    for moment in itertools.count():
        folder = before.with_name(f"at-{moment}")
        shutil.copytree(before, folder)
        if not killed(make(1), folder, moment):
            break
        found.append(load(folder) == new)
        assert found[-1] or load(folder) == old, (name, moment)
        make(0)(folder)
        assert load(folder) == old, (name, moment)
        assert (folder / "NOTES.md").read_text() == "mine", (name, moment)
        assert sorted(os.listdir(folder)) == sorted(os.listdir(before)), (name, moment)
        shutil.rmtree(folder)
    print(json.dumps([name, found]))
"""


def test_a_save_that_is_killed_at_any_moment_leaves_the_old_files_or_the_new(tmp_path):
    command = [sys.executable, "-c", KILLED_SAVES, str(tmp_path)]
    here = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment() | {"PYTHONPATH": here}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = dict(map(json.loads, done.stdout.splitlines()))
    assert rows.keys() == {"model", "pretrained", "dataset", "features", "descriptors"}
    for name, found in rows.items():
        assert found[0] is False, name
        assert found[-1] is True, name
        assert found == sorted(found), name  # once saved, it stays so


@pytest.fixture(scope="module")
def model(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("model") / "run"
    assert main(["fit", str(data), "-o", str(run), *QUICK]) == 0
    return run / "seed-0/ml+is+sfr/model"


def test_a_name_that_is_not_unicode_is_refused_before_anything_is_replaced(model, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = ("rename-classes", folder, "kind 1", "a\udcff", "-o", folder, "--force")
    assert "a\\udcff" in refused(capsys, *command)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    data = small_dataset()
    with pytest.raises(DataError, match=r"class_names: name 0.*x\\udcff"):
        dataclasses.replace(data, class_names=("x\udcff", *data.class_names[1:]))


def test_old_files_of_a_model_go_and_others_of_their_name_stay(model, tmp_path):
    recognizer = load_model(model)
    folder = shutil.copytree(model, tmp_path / "model")
    old = {"config.json": "model.json", "exemplars.safetensors": "growth.safetensors"}
    for new, name in old.items():  # as mlis 0.1.0 named them
        (folder / new).rename(folder / name)
    save_pretrained(recognizer, folder)
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "model.safetensors")
    }
    (folder / "model.json").write_text('{"format": "tfjs"}')
    (folder / "growth.safetensors").write_text("mine")
    save_pretrained(recognizer, folder)
    assert (folder / "growth.safetensors").read_text() == "mine"
    save_model(recognizer, folder, load_exemplars(model))
    assert (folder / "model.json").read_text() == '{"format": "tfjs"}'
    assert (folder / "growth.safetensors").read_text() == "mine"
    assert load_exemplars(folder) is not None


# --- places that cannot be written ----------------------------------------------------------------


def test_no_folder_can_be_made_there(data, model, tmp_path, capsys):
    for command in (
        ("fit", data, *QUICK),
        ("data", "convert", data),
        ("rename-classes", model, "kind 1", "one"),
        ("demo",),
    ):
        for place in ("/proc/zz", data / "dataset.json" / "below"):
            said = refused(capsys, *command, "-o", place)
            assert str(place) in said
            assert "Choose another folder" in said
    assert main(["export", str(model), "-o", "/proc/zz.onnx"]) == 1
    said = one_line_error(capsys.readouterr().err)
    assert "/proc/zz.onnx: " in said
    assert ".tmp" not in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_in_the_place_of_a_models_file(model, tmp_path, capsys, name):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / name).unlink()
    (folder / name).mkdir()
    assert str(folder / name) in refused(capsys, "classes", folder)
    before = tree(folder)
    command = ["rename-classes", str(model), "kind 1", "one", "-o", str(folder), "--force"]
    assert main(command) == 1
    said = one_line_error(capsys.readouterr().err)
    assert str(folder / name) in said
    assert "Rename it" in said
    assert tree(folder) == before


@pytest.mark.parametrize("name", ["run.json", "results.json", "seed-0/ml+is+sfr/result.json"])
def test_a_folder_in_the_place_of_a_runs_file(data, tmp_path, capsys, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    said = refused(capsys, "fit", data, "-o", tmp_path / "run", *QUICK)
    assert Path(name).name in said
    assert str(tmp_path / "run") in said


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks(data, tmp_path, monkeypatch, capsys, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert main(["fit", str(data), "-o", str(tmp_path / "run"), *QUICK]) == 1
    said = one_line_error(capsys.readouterr().err)
    assert os.strerror(code) in said
    assert str(tmp_path / "run") in said
    assert "local disk" in said


def test_folders_whose_names_are_not_unicode(data, tmp_path, capsys):
    assert main(["fit", str(data), "-o", str(tmp_path / "o\udcff"), *QUICK]) == 0
    odd = shutil.copytree(data, tmp_path / "d\udcff")
    capsys.readouterr()
    assert "d\\udcff" in refused(capsys, "fit", odd, "-o", tmp_path / "run", *QUICK)
