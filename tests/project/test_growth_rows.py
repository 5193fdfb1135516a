"""The benchmark of memory against rows, made small; and that memory does not grow with the file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "growth_rows.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


def grow(tmp_path: Path, *options: str) -> tuple[list[dict], str]:
    output = tmp_path / "growth.json"
    command = [sys.executable, str(SCRIPT), *options, "--folder", str(tmp_path), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(output.read_text())["rows"], done.stdout


@pytest.mark.slow
def test_a_small_growth_runs_and_leaves_nothing(tmp_path):
    small = ["--features", "16", "--classes", "12", "--hidden", "8", "--steps", "1"]
    rows, text = grow(tmp_path, "--rows", "300", "--generators", "wgan-gp, warm", *small)
    assert [(row["rows"], row["fit"]) for row in rows] == [(300, "wgan-gp, warm")]
    assert "|       300 | wgan-gp, warm |" in text
    (row,) = rows
    assert 0 < row["MiB_start"] <= row["MiB_load"] <= row["MiB_fit"] <= row["MiB_test"]
    assert row["s_load"] > 0
    assert 0 <= row["H"] <= 100
    assert [path.name for path in tmp_path.iterdir()] == ["growth.json"]


@pytest.mark.slow
def test_memory_of_a_fit_does_not_grow_with_the_file(tmp_path):
    """Five times the rows, 156 MiB more in the file: less than a quarter of that in memory.

    The smaller one fills every buffer already; labels, row numbers, sampling orders and scores of
    the test take some hundred bytes a row.
    """
    small = ["--features", "512", "--classes", "20", "--hidden", "32", "--steps", "2"]
    for generator in ("ridge", "wgan-gp"):
        rows, _ = grow(tmp_path, "--rows", "20000,100000", "--generators", generator, *small)
        few, many = (row["MiB_test"] for row in rows)
        assert many - few < 39
