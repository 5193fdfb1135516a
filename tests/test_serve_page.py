"""The page in a real browser: a picture, a new class, errors shown kindly, nothing from elsewhere.

The server is a process of its own that writes down every address that it connects to.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_cases import QUICK, environment
from mlis.cli import main

PATIENCE = 300_000  # milliseconds; on a busy machine a page may take one of its minutes
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 180, 40),
    "blue": (20, 40, 210),
    "yellow": (220, 210, 40),
    "grey": (110, 110, 110),
}
TABLE = """name,split,text,red,green,blue
red,seen,a red square,0.8,0.1,0.1
green,seen,a green square,0.1,0.7,0.2
blue,seen,a blue square,0.1,0.2,0.8
yellow,seen,a yellow square,0.9,0.8,0.2
grey,unseen,a grey square,0.4,0.42,0.45
"""
WATCHED = """
import sys

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        place = arguments[1] if event == "socket.connect" else arguments[0]
        with open(sys.argv[1], "a") as log:
            print(event, place, file=log)

sys.addaudithook(note)
from mlis.cli import main
sys.exit(main(sys.argv[2:]))
"""
ARGUMENTS = (
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("page"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / "photos" / name).mkdir(parents=True)
        for i in range(9):
            noise = rng.normal(colour, 25, (60, 80, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / "photos" / name / f"{i}.png")
    (root / "classes.csv").write_text(TABLE)
    (root / "notes.jpg").write_text("this is a letter and no picture")
    return root


@pytest.fixture(scope="module")
def model(pictures) -> Path:
    """Trained from pictures and attributes, few steps; it knows its image model."""
    data, run = pictures / "data", pictures / "run"
    build = [
        "data",
        "build",
        "--images",
        pictures / "photos",
        "--classes",
        pictures / "classes.csv",
    ]
    build += ["--attributes", "red", "green", "blue", "-o", data]
    build += ["--backbone", "efficientnet-lite0", "--precision", "float32"]
    assert main([str(each) for each in build]) == 0
    fit = ["fit", str(data), "-o", str(run), *QUICK, "--classes-per-batch", "3"]
    assert main(fit) == 0
    return run / "seed-0" / "ml+is+sfr" / "model"


@contextlib.contextmanager
def served(model: Path, folder: Path, *flags: str) -> Iterator[tuple[str, Path]]:
    """Address of the page, and the file with the server's own connections."""
    log = folder / "connections.txt"
    command = [sys.executable, "-c", WATCHED, str(log), "serve", str(model), "--port", "0"]
    process = subprocess.Popen(
        [*command, *flags], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        text = ""
        while "API:" not in text:
            line = process.stdout.readline()
            assert line, "the server ended"
            text += line
        address = re.findall(r"http://\S+/page/", text)[0]
        with urllib.request.urlopen(address, timeout=PATIENCE / 1000) as answer:
            assert "default-src 'self'" in answer.headers["content-security-policy"]
        yield address, log
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium to look at the page with")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield found
        found.close()


class Visit:
    """One visitor's tab; knows what it asked for and what the browser complained of."""

    def __init__(self, browser, address: str, *, dark=False, width=1200):
        scheme = "dark" if dark else "light"
        view = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=view, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.requested: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address, timeout=PATIENCE)
        self.page.get_by_text("What is in the picture?").wait_for()

    def drop(self, path: Path) -> None:
        self.page.set_input_files("#picture input[type=file]", path)

    def names(self) -> list[str]:
        self.page.locator(".best li").first.wait_for()
        return self.page.locator(".best .name").all_inner_texts()

    def shot(self, name: str) -> None:
        """A picture of the page, where someone asked for them."""
        if folder := os.environ.get("MLIS_SCREENSHOTS"):
            self.page.wait_for_timeout(700)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def describe(self, name: str, attributes: str) -> None:
        self.page.locator("#class-name").locator("input, textarea").fill(name)
        self.page.locator("#class-attributes textarea").fill(attributes)
        self.page.locator("#add-class").click()


@pytest.mark.slow
def test_a_visitor_tries_a_picture_adds_a_class_and_tries_again(browser, model, pictures, tmp_path):
    flags = ("--descriptions", str(pictures / "classes.csv"))
    with served(model, tmp_path, *flags) as (address, log):
        visit = Visit(browser, address)
        visit.shot("1-begin")
        assert "5 classes apart; 1 of them had no picture" in visit.page.content()
        visit.drop(pictures / "photos" / "red" / "0.png")
        names = visit.names()
        assert names[0] == "red"
        assert sorted(names) == sorted(COLOURS)
        assert visit.page.locator(".best .tag.unseen").count() == 1
        assert visit.page.get_by_text("a red square").first.is_visible()
        visit.shot("2-result")

        visit.describe("brick", "red: 0.75\ngreen: 0.15\nblue: 0.1")
        visit.page.locator(".note.good").wait_for()
        assert "brick is a class now" in visit.page.content()
        visit.page.locator(".best .name", has_text="brick").wait_for()  # tried again at once
        assert visit.page.locator(".best .tag.added").count() == 1
        assert "6 classes apart" in visit.page.content()
        visit.page.get_by_text("All classes").click()
        visit.page.locator(".known li").first.wait_for()
        assert visit.page.locator(".known li").count() == 6
        visit.shot("3-added")

        visit.describe("brick", "red: 0.75")
        visit.page.locator(".note.wrong").wait_for()
        assert "There is a class 'brick' already" in visit.page.content()
        visit.shot("4-refused")

        visit.page.locator("#picture").get_by_role(
            "button", name=re.compile("clear|remove", re.I)
        ).click()
        visit.page.get_by_text("The likeliest classes appear here.").wait_for()
        visit.drop(pictures / "notes.jpg")
        visit.page.get_by_text("notes.jpg cannot be read as a picture").wait_for()
        assert "Not an image" in visit.page.content()
        visit.shot("5-no-picture")

        phone = Visit(browser, address, dark=True, width=390)
        phone.drop(pictures / "photos" / "red" / "1.png")
        assert "brick" in phone.names()  # the class is there for every visitor
        phone.shot("6-phone-dark")
        wide = phone.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390  # nothing to scroll sideways
        dark = Visit(browser, address, dark=True)
        dark.drop(pictures / "photos" / "blue" / "1.png")
        dark.names()
        dark.shot("7-dark")

        home = address.removesuffix("page/")
        for each in (visit, phone, dark):
            assert len(each.requested) > 10
            ours = (home, "data:", "blob:")
            assert [url for url in each.requested if not url.startswith(ours)] == []
            assert each.errors == []
        connections = log.read_text().splitlines() if log.exists() else []
        foreign = [line for line in connections if not re.search("127.0.0.1|localhost", line)]
        assert foreign == []


@pytest.mark.slow
def test_the_page_without_changes_has_no_form(browser, model, tmp_path):
    with served(model, tmp_path, "--no-allow-changes") as (address, _):
        visit = Visit(browser, address)
        visit.page.locator("#picture").wait_for(timeout=60_000)  # then the page is drawn
        assert visit.page.locator("#add-class").count() == 0


def test_no_address_and_no_file_of_the_server_is_read_for_a_visitor(model, pictures, tmp_path):
    """Gradio's own protocol, spoken by hand: files named by address, by path, and as uploaded."""
    given = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
    picture = pictures / "photos" / "red" / "0.png"
    with served(model, tmp_path) as (address, log):
        asked = {
            "address": {**given, "path": "http://192.0.2.1/a.png"},
            "url": {**given, "path": "a.png", "url": "http://192.0.2.1/a.png"},
            "file": {**given, "path": str(picture)},
            "bare": {"path": str(picture)},
            "other": {"path": 7},
        }
        answers = {name: gradio_event(address, data) for name, data in asked.items()}
        uploaded = {"path": upload(address, picture), "orig_name": "a.png"}
        assert 'class=\\"best\\"' in gradio_event(address, {**given, **uploaded})
        assert [name for name, text in answers.items() if 'class=\\"best\\"' in text] == []
        assert "192.0.2.1" not in (log.read_text() if log.exists() else "")


def upload(address: str, picture: Path) -> str:
    """Where the server keeps a file that it was sent as the page sends it."""
    import httpx

    with picture.open("rb") as file:
        answer = httpx.post(f"{address}gradio_api/upload", files={"files": file}, timeout=PATIENCE)
    return answer.json()[0]


def gradio_event(address: str, data: object) -> str:
    """What the page's first event with one input, the recognition, answers."""
    with urllib.request.urlopen(f"{address}config", timeout=PATIENCE / 1000) as answer:
        config = json.load(answer)
    (event,) = [each["id"] for each in config["dependencies"] if len(each["inputs"]) == 1]
    body = {"data": [data], "fn_index": event, "session_hash": "byhand"}
    request = urllib.request.Request(
        f"{address}gradio_api/queue/join",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE / 1000):
        pass
    stream = f"{address}gradio_api/queue/data?session_hash=byhand"
    with urllib.request.urlopen(stream, timeout=PATIENCE / 1000) as events:
        return events.read().decode()
