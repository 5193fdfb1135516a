"""A run killed with SIGKILL and resumed ends with the bytes of one that was never disturbed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_cases import QUICK, one_line_error, save_small, start
from mlis.cli import main
from mlis.storage.atomic import CHECK

PLACE = "seed-0/ml+is+sfr"
SETTINGS = (
    *(*QUICK, "--generator", "wgan-gp", "--generation-hidden", "16", "--noise", "4"),
    *("--batch-size", "16", "--critic-steps", "1", "--generation-steps", "200"),
    *("--refinement-steps", "200", "--calibration", "validation"),
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")


def steps_logged(path: Path) -> int:
    """The last step that a stage has reported."""
    try:
        return json.loads(path.read_text().splitlines()[-1])["step"]
    except (FileNotFoundError, IndexError, ValueError):  # not begun, or a line half written
        return 0


def kill_when(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    """SIGKILL as soon as `reached`; a run that ends before is a test that shows nothing."""
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def finish(*arguments: str | Path) -> None:
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()


def without_times(value):
    """The results without what each process did, and without the checksum, which covers it."""
    if isinstance(value, dict):
        times = ("seconds", "generator_reused", CHECK)
        return {key: without_times(item) for key, item in value.items() if key not in times}
    return value


REHEARSAL_GENERATION = "seed-0/validation/generation.jsonl"
REHEARSAL_REFINEMENT = f"{PLACE}/validation/refinement.jsonl"
GENERATION = "seed-0/generation.jsonl"
REFINEMENT = f"{PLACE}/refinement.jsonl"


LOGS = [REHEARSAL_GENERATION, REHEARSAL_REFINEMENT, GENERATION, GENERATION, REFINEMENT]


@pytest.mark.slow
def test_killed_and_resumed_is_as_never_killed(tmp_path):
    data = save_small(tmp_path / "data")
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    finish("fit", data, "-o", calm, *SETTINGS, "--no-reuse")
    assert (calm / "seed-0/generation.safetensors").exists()

    command = ["fit", data, "-o", rough, *SETTINGS]
    for name in LOGS:
        process = start(*command, "--snapshot-every", "0", **options)
        log, before = rough / name, steps_logged(rough / name)
        kill_when(process, lambda log=log, before=before: before + 60 <= steps_logged(log) < 200)
        assert not (rough / PLACE / "result.json").exists()
        command = ["fit", "--resume", rough]
    finish(*command)

    saved = Path(PLACE) / "model/model.safetensors"
    assert (rough / saved).read_bytes() == (calm / saved).read_bytes()
    one, two = (json.loads((run / "results.json").read_text()) for run in (rough, calm))
    assert without_times(one) == without_times(two)
    assert list(rough.rglob("*.tmp")) == []
    for name in LOGS:  # each step is logged once, whatever was done twice
        steps = [json.loads(line)["step"] for line in (rough / name).read_text().splitlines()]
        assert steps == list(range(20, 201, 20))


def test_a_second_process_is_kept_out(tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    data, run = save_small(tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    with (run / ".mlis.lock").open("w") as handle:  # as another process would
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert main(["fit", str(data), "-o", str(run), *SETTINGS]) == 2
    assert "is in use by another process" in one_line_error(capsys.readouterr().err)
    assert not list(run.rglob("*.jsonl"))
