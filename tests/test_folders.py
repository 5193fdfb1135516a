"""What a folder holds already stays; files that belong together are replaced together."""

import os
from pathlib import Path

import numpy as np
import pytest

from cli_cases import QUICK, one_line_error, save_small
from mlis.cli import main
from mlis.data.feature_folder import ImageFeatures
from mlis.data.mapped import write_arrays
from mlis.errors import DataError
from mlis.experiments.store import Store
from mlis.features.shards import Store as Shards
from mlis.files import cache_folder
from mlis.locks import LOCK, lock_folder
from test_experiments_store import row
from test_faults import GAN

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
    Shards.open(tmp_path, "kind").forget_others(nothing)
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
@pytest.mark.parametrize("content", [b"mine", b"", b"\xff\x00" * 50, b"x" * 100_000])
def test_a_file_of_the_locks_name_keeps_its_content(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with lock_folder(tmp_path), pytest.raises(BlockingIOError):
        lock_folder(tmp_path)
    assert content == b"" or (tmp_path / name).read_bytes() == content


def test_the_target_of_a_hard_link_keeps_its_content(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    os.link(tmp_path / "victim", tmp_path / "run" / LOCK)
    lock_folder(tmp_path / "run").close()
    assert (tmp_path / "victim").read_text() == "precious"
