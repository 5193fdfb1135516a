"""`mlis tune`: choose on validation classes, stop and go on, never look at a test row."""

import csv
import json
import re
import signal
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from cli_cases import last_json, one_line_error, printed, refused, small_dataset, start
from mlis.cli import main
from mlis.config import Config
from mlis.data.io.folder import save_dataset
from mlis.storage.locks import lock_folder
from simulated import noise_for_test_rows

pytest.importorskip("optuna")

import optuna

from mlis.experiments.tuning.report import winner

FIXED = (
    *("--generator", "ridge", "--precision", "float32", "--device", "cpu"),
    *("--refinement-steps", "12", "--refinement-hidden", "16", "--samples-per-class", "3"),
    *("--classification-synthetic-per-unseen", "10", "--class-splits", "3"),
)
SPACE = """
[generation]
ridge_lambda = [0.01, 0.1, 1.0]
[refinement]
margin = { low = 0.1, high = 0.4, step = 0.1 }
gamma = { low = 8, high = 80, log = true }
learning_rate = { low = 1e-4, high = 1e-2, log = true }
classes_per_batch = [3, 5]
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "space.toml"
    path.write_text(SPACE)
    return path


def command(data: Path, out: Path, space: Path, *flags: object) -> list[str]:
    return ["tune", *map(str, (data, "-o", out, "--space", space, *FIXED, "--json", *flags))]


def arguments(data: Path) -> str:
    return json.dumps({"name_or_path": str(data)})


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def tried(out: Path) -> list[dict[str, str]]:
    """Trials without what a clock or an interruption says."""
    found = [line for line in lines(out) if line["state"] not in ("stopped", "running")]
    return [{k: v for k, v in one.items() if k not in ("trial", "seconds_without_generator")}
            for one in found]  # fmt: skip


@pytest.fixture(scope="module")
def calm(small_folder, space, tmp_path_factory) -> Path:
    """A search of eight trials that nothing disturbed."""
    out = tmp_path_factory.mktemp("calm") / "out"
    assert main(command(small_folder, out, space, "--trials", 8)) == 0
    return out


# --- what it finds ------------------------------------------------------------------------------


def test_trials_preset_and_table(calm, small_folder, space, tmp_path, capsys):
    found = last_json(printed(capsys, *command(small_folder, calm, space, "--trials", 8)))
    assert sum(found["trials"].values()) == 8
    assert found["protocol"] == "H@val"
    rows = lines(calm)
    assert [row["role"] for row in rows] == ["preset", "", "", "", "", "", "", ""]
    assert rows[0]["refinement.classes_per_batch"] == "64"  # as it is, though no draw gives that
    complete = [row for row in rows if row["state"] == "complete"]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert len({row["refinement.gamma"] for row in rows}) == 8
    for row in complete:
        splits = [float(row[f"H_validation_split_{i}"]) for i in (1, 2, 3)]
        assert float(row["H_validation"]) == pytest.approx(np.mean(splits))
    best = max(float(row["H_validation"]) for row in complete)
    assert found["best"]["H"] == pytest.approx(best)

    text = (calm / "preset.toml").read_text(encoding="utf-8")
    settings = Config.from_dict(tomllib.loads(text))
    expected = Config.from_dict(found["best"]["settings"])
    calibrated = {"classification": {"calibration": "validation"}}
    assert settings == expected.replace(calibrated)
    for said in (small_dataset().sha256, "3 class splits", "seeds 0", "H@val", "torch"):
        assert said in text
    assert re.search(r"trial 0 \(preset\): complete, H \d+\.\d\d ± ", text)
    flags = ("--settings", calm / "preset.toml", "--dry-run")
    assert "gamma" in printed(capsys, "fit", small_folder, "-o", tmp_path / "run", *flags)


def test_the_winner_is_the_fastest_that_is_close_enough():
    def one(number: int, H: float, seconds: float, state: str = "complete"):
        trial = optuna.create_trial(
            value=H,
            state=optuna.trial.TrialState[state.upper()],
            user_attrs={"splits": [{"H": H, "seconds": seconds}]},
        )
        trial.number = number
        return trial

    trials = [one(0, 60.0, 9.0), one(1, 60.4, 8.0), one(2, 60.2, 2.0), one(3, 70.0, 1.0, "pruned")]
    assert [winner(trials, within).number for within in (0.0, 0.3, 5.0)] == [1, 2, 2]  # pyright: ignore
    assert winner(trials[3:], 1.0) is None


# --- no test row --------------------------------------------------------------------------------


def test_test_rows_may_be_noise(small_folder, space, tmp_path, monkeypatch):
    """The same trials and the same preset, bit for bit, except the hash of the whole data."""
    monkeypatch.setattr("mlis.experiments.tuning.search.perf_counter", lambda: 0.0)
    noise = noise_for_test_rows(small_dataset())
    assert noise.sha256 != small_dataset().sha256
    save_dataset(noise, tmp_path / "noise")
    outs = [tmp_path / "out-plain", tmp_path / "out-noise"]
    for data, out in zip((small_folder, tmp_path / "noise"), outs, strict=True):
        assert main(command(data, out, space, "--trials", 6)) == 0
    assert (
        outs[0].joinpath("trials.csv").read_bytes() == outs[1].joinpath("trials.csv").read_bytes()
    )
    presets = [(out / "preset.toml").read_text(encoding="utf-8").splitlines() for out in outs]
    differ = [pair for pair in zip(*presets, strict=True) if pair[0] != pair[1]]
    assert all(re.match(r"#   mlis tune |# data SHA-256 |# 20\d\d-", line) for line, _ in differ)
    assert any(line.startswith("# data SHA-256") for line, _ in differ)


# --- stopped, and gone on -----------------------------------------------------------------------


def test_more_trials_continue_and_nothing_is_measured_twice(calm, small_folder, space, tmp_path):
    out = tmp_path / "out"
    assert main(command(small_folder, out, space, "--trials", 3)) == 0
    before = lines(out)
    assert main(command(small_folder, out, space, "--trials", 8)) == 0
    assert tried(out) == tried(calm)
    assert lines(out)[:3] == before


@pytest.mark.slow
def test_a_killed_search_continues(calm, small_folder, space, tmp_path):
    """Killed in the middle of a trial: that trial is stopped, tried again, and all goes on."""
    out = tmp_path / "out"
    process = start(*command(small_folder, out, space, "--trials", 8))
    deadline = time.monotonic() + 600
    try:
        while process.poll() is None:  # until trial 2 has measured a class split
            journal = out / "study.jsonl"
            text = journal.read_text() if journal.exists() else ""
            if re.search(r'"trial_id":2,"user_attr":{"splits"', text):
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (out / "study.jsonl.lock").touch()  # as a process that was killed while writing leaves it
    with (out / "study.jsonl").open("a") as handle:
        handle.write('{"op_code":6,"cut sh')
    assert main(command(small_folder, out, space, "--trials", 8)) == 0
    assert tried(out) == tried(calm)


def test_an_interrupted_search_says_how_to_go_on(
    small_folder, space, tmp_path, monkeypatch, capsys
):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlis.experiments.tuning.search.fit", interrupt)
    assert main(command(small_folder, tmp_path / "out", space, "--trials", 2)) == 130
    assert "continue with the same command" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(command(small_folder, tmp_path / "out", space, "--trials", 2)) == 0
    assert [line["state"] for line in lines(tmp_path / "out")] == ["stopped", *["complete"] * 2]


def test_time_that_is_over_leaves_the_rest(small_folder, space, tmp_path, capsys):
    flags = ("--trials", 4, "--timeout", 0)
    said = printed(capsys, *command(small_folder, tmp_path / "out", space, *flags))
    assert "0 trials, 4 left" in said
    assert not (tmp_path / "out" / "preset.toml").exists()
    assert last_json(said)["best"] is None


@pytest.mark.slow
def test_several_processes_give_a_search_too(small_folder, space, tmp_path, capsys):
    flags = ("--trials", 3, "--jobs", 2)
    found = last_json(printed(capsys, *command(small_folder, tmp_path / "out", space, *flags)))
    assert sum(found["trials"].values()) == 3
    assert lines(tmp_path / "out")[0]["role"] == "preset"
    assert (tmp_path / "out" / "preset.toml").exists()


# --- what cannot be -----------------------------------------------------------------------------


def test_a_trial_that_diverges_is_a_failed_one(small_folder, tmp_path, capsys):
    space = tmp_path / "space.toml"
    space.write_text("[refinement]\nlearning_rate = [1e30]\nmargin = [0.3]\n")
    flags = ("--trials", 2)
    found = last_json(printed(capsys, *command(small_folder, tmp_path / "out", space, *flags)))
    assert found["trials"] == {"complete": 1, "failed": 1}
    assert "diverged" in lines(tmp_path / "out")[1]["problem"]
    out = tmp_path / "wrong"
    given = ("--refinement-learning-rate", "1e30")
    assert main(command(small_folder, out, space, *given)) == 2
    assert "diverged" in one_line_error(capsys.readouterr().err)  # nothing to compare with


def test_wrong_use_is_one_line(calm, small_folder, space, tmp_path, capsys):
    out = tmp_path / "out"
    again = command(small_folder, calm, space, "--trials", 8)
    assert "another seeds" in refused(capsys, *again, "--seeds", "0,1")
    with lock_folder(calm):
        assert "is in use by another process" in refused(capsys, *again)
    other = command(small_folder, out, space)
    assert "unknown preset" in refused(capsys, *other, "--preset", "nonsense")
    (tmp_path / "file").touch()
    assert "is a file" in refused(capsys, *command(small_folder, tmp_path / "file", space))
    for flags in (("--trials", "0"), ("--timeout", "x"), ("--seeds", "1,1"), ("--within", "-1")):
        assert "expected" in refused(capsys, *other, *flags)
    assert not out.exists()


@pytest.mark.parametrize("content", ["[]\n", "some text", '{"op_code": 99, "worker_id": "x"}\n'])
def test_a_damaged_study_is_refused_and_left_alone(small_folder, space, tmp_path, capsys, content):
    (tmp_path / "study.jsonl").write_text(content)
    assert "study.jsonl is not" in refused(capsys, *command(small_folder, tmp_path, space))
    assert (tmp_path / "study.jsonl").read_text() == content


def test_a_search_of_an_earlier_format_is_refused(calm, small_folder, space, tmp_path, capsys):
    text = (calm / "study.jsonl").read_text().replace('"format":2', '"format":1')
    (tmp_path / "study.jsonl").write_text(text)
    said = refused(capsys, *command(small_folder, tmp_path, space))
    assert "study.jsonl holds a search with another format" in said


def test_without_optuna_the_extra_is_named(small_folder, space, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("search", "space"):
        monkeypatch.delitem(sys.modules, f"mlis.experiments.tuning.{name}")
    said = refused(capsys, *command(small_folder, tmp_path / "out", space))
    assert "pip install 'mlis[tune]'" in said


def test_a_dry_run_reads_no_data(space, tmp_path, capsys):
    said = printed(capsys, *command(tmp_path / "gone", tmp_path / "out", space, "--dry-run"))
    found = last_json(said)
    assert found["space"]["refinement.gamma"] == "8 to 80, logarithmic"
    assert (found["trainings_a_trial"], found["first"]) == (3, ["preset"])
    assert not (tmp_path / "out").exists()
    found = last_json(printed(capsys, "tune", "letters", "-o", tmp_path, "--dry-run", "--json"))
    assert found["first"] == ["preset", "defaults"]
