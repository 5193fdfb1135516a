"""Every Python block of README and docs runs; every command line in them is one that exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlis.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, python block {number}", "exec"), namespace)


def test_the_readme_shows_twenty_lines_that_do_what_it_says(capsys: pytest.CaptureFixture[str]):
    block = blocks(README, "python")[0]
    assert len(block.splitlines()) <= 20
    said = re.search(r"^It prints `(.*)`\.$", README.read_text(encoding="utf-8"), re.M)
    assert said is not None
    exec(compile(block, README.name, "exec"), {})
    assert capsys.readouterr().out == said[1] + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path):
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["mlis"]:
                build_parser().parse_args(words[1:])
            elif words[:1] == ["make"]:
                makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
                targets = [word for word in words[1:] if "=" not in word]
                assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets), line


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
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
