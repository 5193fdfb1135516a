"""The command line as a whole: quick help, exit codes, one error line, broken pipes, logging."""

import logging
import os
import re
import subprocess
import sys

import pytest

from cli_cases import (
    QUICK,
    environment,
    one_line_error,
    printed,
    refused,
    save_small,
    start,
)
from mlis.cli import fit, main
from mlis.errors import DivergenceError, MlisError


def test_nothing_heavy_is_imported_without_need():
    commands = (
        "--help",
        "--version",
        "fit --help",
        "predict --help",
        "serve --help",
        "report --help",
    )
    commands += ("fit FLO --gamma 16 --dry-run", "fit --nonsense")
    code = (
        "import sys; from mlis.cli import main\n"
        "for line in sys.argv[1:]: main(line.split())\n"
        "heavy = {'torch', 'numpy', 'scipy', 'h5py', 'sklearn', 'matplotlib', 'tqdm', 'fastapi'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *commands]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_every_command_has_help(capsys):
    commands = re.findall(r"^    ([a-z-]+)(?: |$)", printed(capsys, "--help"), re.MULTILINE)
    assert {"fit", "evaluate", "predict", "data", "demo", "rename-classes"} <= set(commands)
    for command in commands:
        assert f"usage: mlis {command}" in printed(capsys, command, "--help")


@pytest.mark.parametrize(
    "command",
    ["fit letters", "demo", "data convert letters", "features text DATA", "reproduce table1"],
)
def test_output_must_be_a_folder_that_can_be_written(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for output, said in (("file", "is a file"), ("file/below", "cannot be written")):
        assert said in refused(capsys, *command.split(), "-o", tmp_path / output)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND (see `mlis --help`)"),
        (["train"], "invalid choice: 'train'"),
        (["fit", "FLO", "--stepz", "3"], "unrecognized arguments: --stepz"),
        (["fit"], "no run folder: name one with -o RUN"),
        (["fit", "FLO", "-o", "run"], "give the folder that contains FLO/"),
        (["fit", "FLO", "--data-root", "absent", "-o", "run"], "absent: no such folder"),
        (["fit", "--resume", "absent"], "absent is not a run folder"),
        (["data", "info", "absent"], "absent: expected a dataset folder or one of"),
        (["evaluate", "absent"], "no saved model: absent is not there"),
        (["demo", "--seed", "-1"], "--seed: expected a whole number ≥ 0"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in one_line_error(captured.err)
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def raising(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MlisError("a\nmessage of\n  lines"), 2, "a message of lines"),
        (DivergenceError("generation diverged"), 2, "generation diverged"),
        (PermissionError(13, "Permission denied", "somewhere"), 1, "Permission denied"),
    ],
)
def test_expected_errors_are_one_line(error, code, said, capsys, monkeypatch):
    monkeypatch.setattr(fit, "run", raising(error))
    assert main(["fit", "FLO"]) == code
    assert said in one_line_error(capsys.readouterr().err)


def test_interruption_is_code_130(capsys, monkeypatch):
    monkeypatch.setattr(fit, "run", raising(KeyboardInterrupt()))
    assert main(["fit", "FLO"]) == 130
    assert capsys.readouterr().err == "\nmlis: interrupted\n"


def test_a_bug_is_code_1_with_its_traceback(capsys, monkeypatch):
    monkeypatch.setattr(fit, "run", raising(ZeroDivisionError("by zero")))
    assert main(["fit", "FLO"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("mlis: error: ZeroDivisionError")


def test_a_reader_that_leaves_early_gets_no_complaint(small_folder):
    read, write = os.pipe()
    os.close(read)
    process = start("data", "info", small_folder, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    _, err = process.communicate(timeout=600)
    assert err == ""
    assert process.returncode in (0, 1)


def test_a_terminal_without_a_letter_shows_a_question_mark(tmp_path):
    folder = save_small(tmp_path / "data", name="données ≥")
    command = [sys.executable, "-m", "mlis", "data", "info", str(folder)]
    plain = environment() | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=plain, check=True)
    assert done.stdout.startswith(b"donn?es ?")
    assert done.stderr == b""


def test_verbose_says_more_and_leaves_logging_as_it_was(tmp_path, capsys):
    folder = save_small(tmp_path / "data")
    logger = logging.getLogger("mlis")
    before = (logger.level, list(logger.handlers))
    for flags, spoken in ((["-v"], True), ([], False)):
        run = tmp_path / f"run{spoken}"
        assert main(["fit", str(folder), "-o", str(run), *QUICK, *flags]) == 0
        assert ("mlis: info: classifier:" in capsys.readouterr().err) is spoken
    assert (logger.level, list(logger.handlers)) == before
