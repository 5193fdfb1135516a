"""The page in a real browser: a picture, a new class, errors shown kindly, nothing from elsewhere.

The server is a process of its own that writes down every address that it connects to.
"""

import contextlib
import csv
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
from mlis.serving.descriptions import Describer
from mlis.serving.engine import Engine
from page_cases import Reader
from serve_cases import (
    MeanColours,
    client,
    colour_recognizer,
    feature_recognizer,
    growing_engine,
)

PATIENCE = 120_000  # milliseconds; machines may be busy
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
        address = re.findall(r"http://\S+/$", text, re.M)[0]
        with urllib.request.urlopen(address, timeout=PATIENCE / 1000) as answer:
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        yield address, log
    finally:
        process.terminate()
        process.communicate(timeout=600)


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
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.goto(address, timeout=PATIENCE)
        self.page.get_by_text("classes apart").wait_for()

    def drop(self, *paths: Path) -> None:
        self.page.set_input_files("#picture input[type=file]", paths)

    def names(self) -> list[str]:
        self.page.locator(".best li").first.wait_for()
        return self.page.locator(".card").first.locator(".best .name").all_inner_texts()

    def describe(self, name: str, attributes: str) -> None:
        self.page.locator("#class-name").fill(name)
        self.page.locator("#class-attributes").fill(attributes)
        self.page.locator("#add-class").click()

    def answer(self, text: str | None = None) -> None:
        """What the next dialogue is told."""
        self.page.once("dialog", lambda dialog: dialog.accept(text))


def test_the_page_is_plain_files_of_this_server():
    attributes = ('<b>"stripes"', "height")
    describer = Describer(2, {}, None, ("attributes", "vector"), attributes)
    engine = Engine(colour_recognizer(), MeanColours(), describer)
    with client(engine, page=True) as asker:
        answers = {path: asker.get(path) for path in ("/", "/page.css", "/page.js")}
        for answer in answers.values():
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert not re.search(r"https?:|innerHTML|insertAdjacent|document.write", answer.text)
        html = Reader(answers["/"].text)
        assert [script["src"] for script in html.all("script")] == ["page.js"]
        names = {name for _, given in html.tags for name in given}
        assert not [name for name in names if name.startswith("on") or name == "style"]
        assert '<b>"stripes"' in html.text
        assert "&lt;b&gt;" in answers["/"].text
        assert "class-photos" not in [tag.get("id") for tag in html.all("input")]  # no exemplars
    with client(growing_engine(), page=True) as asker:
        assert "class-photos" in [tag.get("id") for tag in Reader(asker.get("/").text).all("input")]
    with client(engine, page=True, allow_changes=False) as asker:
        assert not Reader(asker.get("/").text).all("form")
    with client(Engine(feature_recognizer()), page=True) as asker:
        page = Reader(asker.get("/").text)
        assert "takes features, not pictures" in page.text
        assert "picture" not in [tag.get("id") for tag in page.all("label")]
    with client(engine) as asker:
        assert asker.get("/page.js").status_code == 404


@pytest.mark.slow
def test_a_visitor_tries_pictures_adds_a_class_and_tries_again(browser, model, pictures, tmp_path):
    flags = ("--descriptions", str(pictures / "classes.csv"))
    with served(model, tmp_path, *flags) as (address, log):
        visit = Visit(browser, address)
        assert "5 classes apart; 1 of them had no picture" in visit.page.content()
        visit.drop(pictures / "photos" / "red" / "0.png")
        names = visit.names()
        assert names[0] == "red"
        assert sorted(names) == sorted(COLOURS)
        assert visit.page.locator(".best .tag.unseen").count() == 1
        assert visit.page.get_by_text("a red square").first.is_visible()
        (because, resembles) = visit.page.locator(".card > div > div > .said").all_inner_texts()
        assert because.startswith(f"red against {names[1]}: similarity to the description of red ")
        assert resembles.startswith("Most similar photographs of the training: 3 of red")

        visit.describe("brick", "red: 0.75\ngreen: 0.15\nblue: 0.1")
        visit.page.locator(".note.good").wait_for()
        assert "brick is a class now" in visit.page.content()
        assert visit.page.locator(".note.warning").count() == 0
        visit.page.locator(".best .name", has_text="brick").wait_for()  # tried again at once
        assert visit.page.locator(".best .tag.added").count() == 1
        assert "6 classes apart" in visit.page.content()
        visit.page.locator("#all summary").click()
        assert visit.page.locator(".known li").count() == 6
        visit.page.locator("#filter").fill("BRI")
        assert visit.page.locator(".known .name").all_inner_texts() == ["brick"]

        visit.describe("brick", "red: 0.75")
        visit.page.locator(".note.wrong").wait_for()
        assert "A class 'brick' exists already" in visit.page.content()
        visit.describe("teal", "red 0.75")
        visit.page.get_by_text('expected "name: value" in each line').wait_for()
        photos = sorted((pictures / "photos" / "grey").glob("*.png"))[:3]
        for name, said in (("grey", "grey has learnt"), ("lead", "lead is a class now")):
            visit.page.locator("#class-photos").set_input_files(photos)
            visit.describe(name, "")
            visit.page.get_by_text(said).wait_for()
        visit.answer()
        visit.page.locator("#filter").fill("lead")
        visit.page.locator(".known li", has_text="lead").get_by_text("Remove").click()
        visit.page.get_by_text("6 classes apart").wait_for()

        visit.page.locator("#clear").click()
        visit.page.get_by_text("The likeliest classes appear here.").wait_for()
        visit.drop(pictures / "notes.jpg", pictures / "photos" / "blue" / "0.png")
        visit.page.get_by_text("notes.jpg cannot be read as a picture").wait_for()
        assert "Not an image" in visit.page.content()
        visit.page.locator(".best li").first.wait_for()
        visit.page.locator("#top-k").select_option("3")
        visit.page.locator(".best li").nth(3).wait_for(state="detached")
        with visit.page.expect_download() as download:
            visit.page.locator("#csv").click()
        with download.value.path().open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["file"], row["rank"]) for row in rows] == [
            ("0.png", str(i)) for i in (1, 2, 3)
        ]
        shown = visit.page.locator(".best .name").all_inner_texts()
        assert [row["class"] for row in rows] == shown
        assert {row["seen"] for row in rows} <= {"yes", "no"}

        phone = Visit(browser, address, dark=True, width=390)
        phone.drop(pictures / "photos" / "red" / "1.png")
        assert "brick" in phone.names()  # the class is there for every visitor
        wide = phone.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390  # nothing to scroll sideways
        dark = Visit(browser, address, dark=True)
        dark.drop(pictures / "photos" / "blue" / "1.png")
        dark.names()

        for each in (visit, phone, dark):
            assert len(each.requested) > 4
            ours = (address, "data:", "blob:")
            assert [url for url in each.requested if not url.startswith(ours)] == []
            expected = "status of 409"  # the browser notes the refused class
            assert [error for error in each.errors if expected not in error] == []
        connections = log.read_text().splitlines() if log.exists() else []
        foreign = [line for line in connections if not re.search("127.0.0.1|localhost", line)]
        assert foreign == []


@pytest.mark.slow
def test_names_are_shown_as_text_and_changes_need_the_token(browser, model, tmp_path):
    token = tmp_path / "token"
    token.write_text("a-token-of-enough-letters")
    hostile = "<img src=x onerror=\"document.title='owned'\">"
    with served(model, tmp_path, "--token-file", str(token)) as (address, _):
        visit = Visit(browser, address)
        visit.page.locator("#all summary").click()
        visit.page.locator("#token").fill("another-token-of-letters")
        visit.answer(hostile)
        visit.page.locator(".known li", has_text="red").get_by_text("Rename").click()
        visit.page.get_by_text("The class was not renamed").wait_for()
        visit.page.locator("#token").fill("a-token-of-enough-letters")
        visit.answer(hostile)
        visit.page.locator(".known li", has_text="red").get_by_text("Rename").click()
        visit.page.locator(".note.good").wait_for()
        visit.page.locator(".known .name", has_text=hostile).wait_for()
        assert visit.page.locator(".known img, .note img").count() == 0
        assert visit.page.title() == "mlis"
        visit.answer()
        visit.page.locator(".known li", has_text="onerror").get_by_text("Remove").click()
        visit.page.get_by_text("4 classes apart").wait_for()
        assert visit.page.locator(".known li").count() == 4
        inline = (
            "document.body.append(Object.assign(document.createElement('script'), {text: '1'}))"
        )
        visit.page.evaluate(inline)
        assert any("Content Security Policy" in error for error in visit.errors)
