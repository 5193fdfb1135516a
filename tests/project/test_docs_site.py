"""The site is built without a warning, asks no other server; generated pages are current."""

import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import docs_hooks  # noqa: E402
import licences  # noqa: E402
import settings_page  # noqa: E402


class Requests(HTMLParser):
    """What a browser loads by itself for a page: not links that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [values[name] or "" for name in ("src", "srcset", "data") if name in values]
        if tag == "link" and values.get("rel") != "canonical":
            self.found.append(values.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "-q"]
    done = subprocess.run(
        [*command, "-d", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site: Path):
    pages = {
        path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")
    }
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert len(pages) > 10
    assert pages <= built


def test_no_page_asks_another_server(site: Path):
    outside = re.compile(r"^(?:https?:)?//")
    for page in site.rglob("*.html"):
        parser = Requests()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found, page
        assert not [url for url in parser.found if outside.match(url)], page
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"url\(([^)]*)\)|@import\s+([^;]+)", sheet.read_text(encoding="utf-8"))
        assert not [url for pair in urls for url in pair if outside.match(url.strip("\"' "))], sheet


def test_the_reference_is_made_of_docstrings(site: Path):
    text = (site / "reference" / "training.html").read_text(encoding="utf-8")
    assert 'id="mlis.pipeline.fit"' in text
    assert "Raises" in text
    assert not re.search(r":(?:func|class|meth|mod):", text)


def test_sections_of_the_readme_are_on_their_pages(site: Path):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert "from README.md" not in text
    assert "Implicit Semantics" in text
    assert "Oxford Flowers" in text
    with pytest.raises(ValueError, match="not enough values"):
        docs_hooks.section("# mlis\n\n## Install\n", "Nothing of this name")


def test_the_settings_page_is_current():
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), (
        "docs/settings.md is not what src/mlis/config.py says: run `make pages`"
    )


def test_every_runtime_dependency_has_its_licence():
    text = licences.PAGE.read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\S+) \| (.+) \|$", text, re.M))
    base, extras = licences.project()
    wanted = licences.closure([*base, *(line for lines in extras.values() for line in lines)])
    assert {"torch", "numpy", "transformers", "tqdm"} <= wanted
    assert wanted <= listed.keys(), f"{wanted - listed.keys()} not listed: run `make pages`"
    assert "UNKNOWN" not in listed.values()
    assert "torchvision" not in wanted  # it has no CPU build everywhere


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["cff-version"] == "1.2.0"
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["message"]
    assert cited["title"]
    assert cited["authors"]
    assert cited["preferred-citation"]["title"].startswith("Refining Visual Representation")
