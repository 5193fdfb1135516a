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

from cli_cases import one_line_error, refused, start
from mlis.cli import main
from serve_cases import feature_pair
from simulated import tiny

PATIENCE = 240  # seconds; on a busy machine an import may take one of its minutes


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "model"
    feature_pair().save(folder)
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
    """Connections that send nothing do not keep others out."""
    flags = ("--no-page", "--rate", "1", "--max-connections", "8")
    with server(model, *flags) as (process, address, lines), contextlib.ExitStack() as stack:
        assert lines[0] == "ready: 9 classes, features; Ctrl-C stops\n"
        assert address.startswith("http://127.0.0.1:")
        port = int(address.rpartition(":")[2])
        begun = (b"GET /health HTT", b"POST /predict/features HTTP/1.1\r\nHost: localhost\r\n")
        for begin in begun * 20:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(OSError):  # the first ones have given way already
                connection.sendall(begin)
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
        assert (out, err) == ("", f"loading {model}\n")


@pytest.mark.slow
def test_what_was_begun_is_answered_before_the_end(model):
    """Also: an address that others reach is warned of."""
    flags = ("--no-page", "--max-wait", "1000", "--host", "0.0.0.0")
    with server(model, *flags) as (process, address, _):
        address = f"http://127.0.0.1:{address.rpartition(':')[2]}"
        assert get(f"{address}/health")["changes"] is False
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


@pytest.mark.slow
def test_the_end_does_not_wait_for_what_is_queued(model):
    """Classes are added one group at a time; those that wait, and slow senders, are let go."""
    with server(model, "--no-page", "--max-wait", "0") as (process, address, _):
        port = int(address.rpartition(":")[2])
        answers = []

        def add(i: int) -> None:
            vector = (feature_pair().descriptors[0] + 0.1 * i).tolist()
            try:
                answers.append(
                    post(f"{address}/classes", {"name": f"new {i}", "vector": vector})[0]
                )
            except OSError:  # it came after the end
                answers.append(0)

        adding = [threading.Thread(target=add, args=(i,)) for i in range(24)]
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST /classes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n")
            slow.sendall(b"Content-Type: application/json\r\n\r\n{")
            for thread in adding:
                thread.start()
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            for thread in adding:
                thread.join(PATIENCE)
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert "Traceback" not in err
        assert set(answers) <= {201, 503, 0}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--max-files", "0"), "limits.max_files must be between 1 and 10000, but got 0"),
        (("--host", "no.such.name.invalid"), "--host no.such.name.invalid: no such address"),
        (("--port", "70000"), "--port must be between 0 and 65535, got 70000"),
        (("--device", "abacus"), "expected auto or a device of this machine"),
        (("--descriptions", "absent.csv"), "absent.csv"),
        (("--host", "0.0.0.0", "--allow-changes"), "expected --hostname and --token-file"),
        (("--token-file", "absent.txt"), "--token-file absent.txt: cannot be read"),
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
