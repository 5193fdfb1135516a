"""`mlis serve` as a process: what it prints, what it refuses, and how it ends."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_cases import environment, one_line_error, refused, start
from mlis.cli import main
from mlis.io.checkpoint import save_model
from serve_cases import feature_recognizer
from simulated import tiny

PATIENCE = 240  # seconds; on a busy machine an import may take one of its minutes


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "model"
    save_model(feature_recognizer(), folder)
    return folder


@contextlib.contextmanager
def server(model: Path, *flags: str) -> Iterator[tuple[subprocess.Popen, str, list[str]]]:
    """The process, its address, and what it printed; killed if it has not ended."""
    command = ("serve", model, "--port", "0", *flags)
    process = start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = []
        while not lines or not lines[-1].startswith("API:"):
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            lines.append(line)
        yield process, re.findall(r"http://\S+:\d+", lines[-1])[0], lines
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return json.load(answer)


def post(url: str, body: object) -> tuple[int, dict]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_server_answers_limits_and_ends_when_told(model):
    with server(model, "--no-page", "--rate", "1") as (process, address, lines):
        assert lines[0] == f"{model}: 9 classes, by features; Ctrl-C stops\n"
        assert address.startswith("http://127.0.0.1:")
        assert get(f"{address}/health")["changes"] is True
        rows = tiny().features[:2].tolist()
        status, body = post(f"{address}/predict/features", {"rows": rows})
        assert status == 200
        assert len(body["results"]) == 2
        statuses = {post(f"{address}/predict/features", {"rows": rows})[0] for _ in range(4)}
        assert statuses == {200, 429}
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert (out, err) == ("", "")


def test_what_was_begun_is_answered_before_the_end(model):
    with server(model, "--no-page", "--max-wait", "1000") as (process, address, _):
        get(f"{address}/health")
        answers = []
        rows = tiny().features[:1].tolist()
        asking = threading.Thread(
            target=lambda: answers.append(post(f"{address}/predict/features", {"rows": rows}))
        )
        asking.start()
        time.sleep(0.3)  # it waits for others to share its batch
        process.send_signal(signal.SIGINT)
        asking.join(PATIENCE)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert [status for status, _ in answers] == [200]


def test_an_address_that_others_reach_is_warned_of(model):
    with server(model, "--no-page", "--host", "0.0.0.0") as (process, address, _):
        port = address.rpartition(":")[2]
        assert get(f"http://127.0.0.1:{port}/health")["changes"] is False
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
        assert "0.0.0.0 is reached from other machines, and there is no password" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--max-files", "0"), "limits.max_files must be between 1 and 10000, but got 0"),
        (("--timeout", "nan"), "limits.timeout must be"),
        (("--host", "no.such.name.invalid"), "--host no.such.name.invalid: no such address"),
        (("--port", "70000"), "--port must be between 0 and 65535, but got 70000"),
        (("--device", "abacus"), "device must be auto, cpu or cuda"),
        (("--descriptions", "absent.csv"), "absent.csv"),
    ],
)
def test_wrong_use_is_one_line(model, flags, said, capsys):
    assert said in refused(capsys, "serve", model, "--no-page", *flags)


def test_a_port_that_is_taken_is_one_line(model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refused(capsys, "serve", model, "--no-page", "--port", port)
    assert f"cannot listen at 127.0.0.1, port {port}" in error
    assert "--port" in error


def test_packages_that_are_not_installed_are_named(model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "mlis.serving.run", raising=False)
    assert main(["serve", str(model)]) == 2
    assert "pip install 'mlis[serve]'" in one_line_error(capsys.readouterr().err)


def test_help_loads_no_server():
    code = (
        "import sys; from mlis.cli import main; main(['serve', '--help']); "
        "print(sorted({'fastapi', 'gradio', 'uvicorn', 'pydantic', 'torch', 'numpy'} "
        "& set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--max-upload MIB" in done.stdout
