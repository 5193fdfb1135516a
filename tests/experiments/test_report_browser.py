"""The page in a real browser: nothing is fetched, nothing complains, nothing overflows a phone."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from experiment_cases import saved
from mlis.cli import main
from mlis.experiments.report.material import no_data
from mlis.experiments.report.write import write_report
from mlis.experiments.store import TEST_BEST
from report_cases import stored, variants
from simulated import tiny

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every table and figure, two protocols, and names without a space to break at."""
    folder = tmp_path_factory.mktemp("report")
    rows = [one for seed in range(2) for one in variants(seed=seed, name="FLO")]
    rows += variants(name="FLO", protocol=TEST_BEST)
    rows += variants(name="CUB", classes=("x" * 300, "kind_" * 40, "a"), notes=("stand-in: x",))
    return write_report(stored(folder / "results", rows), folder / "r.html", no_data).page


@pytest.fixture(scope="module", params=["report", "evaluation"])
def any_page(request, page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's page, or that of one model."""
    if request.param == "report":
        return page_file
    folder = tmp_path_factory.mktemp("evaluation")
    names = ("x" * 300, "kind_" * 40, "a & b", *(f"kind {i}" for i in range(6)))
    data = saved(folder / "data", replace(tiny(), class_names=names))
    run, page = folder / "run", folder / "page.html"
    assert main(["fit", str(data), "-o", str(run), "--method", "gaussian"]) == 0
    assert main(["evaluate", str(run), "--html", str(page)]) == 0
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as running:
        flags = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
        started = running.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_stands_alone_and_fits(browser, any_page, width, scheme):
    requests, complaints = [], []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(any_page.as_uri())
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    inks = page.evaluate(
        "[...document.querySelectorAll('.panel text')].map(t => getComputedStyle(t).fill)"
    )
    page.close()
    assert len(set(inks)) == 1
    assert ("rgb(238, 234, 228)" in inks) == (scheme == "dark")
    assert [url for url in requests if not url.startswith("data:")] == [any_page.as_uri()]
    assert complaints == []
    assert wide[0] <= wide[1] == width
    assert (ground == "rgb(20, 20, 20)") == (scheme == "dark")


def test_words_stay_inside_their_drawings(browser, any_page):
    """Of every drawing: no text that sticks out of it or lies over another one."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(any_page.as_uri())
    faults = page.evaluate("""() => {
      const found = [];
      for (const svg of document.querySelectorAll('figure svg')) {
        const box = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
        for (const [t, a] of texts) {
          if (a.left < box.left - 1 || a.right > box.right + 1 || a.bottom > box.bottom + 1)
            found.push('outside: ' + t.textContent);
          for (const [u, b] of texts) {
            if (t !== u && a.left < b.right - 2 && b.left < a.right - 2 &&
                a.top < b.bottom - 4 && b.top < a.bottom - 4)
              found.push(t.textContent + ' over ' + u.textContent);
          }
        }
      }
      return found;
    }""")
    page.close()
    assert faults == []


def test_paper_is_white_and_tables_are_whole(browser, page_file):
    page = browser.new_page(viewport={"width": 720, "height": 800}, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(page_file.as_uri())
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    flow = page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX")
    nav = page.evaluate("getComputedStyle(document.querySelector('nav')).display")
    printed = page.pdf(format="A4")
    page.close()
    assert (ground, flow, nav) == ("rgb(255, 255, 255)", "visible", "none")
    assert printed.startswith(b"%PDF")


LINES = """() => [...document.querySelectorAll('[data-sortable] tbody')].map(group =>
  group.hidden ? [] : [...group.rows].filter(row => !row.hidden && row.className !== 'of')
    .map(row => [row.cells[0].firstChild.textContent, row.cells[3].textContent]))"""


def test_table_2_sorts_and_filters(browser, page_file):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(page_file.as_uri())
    written = page.evaluate(LINES)
    published = max(written, key=len)
    assert len(published) > 10
    button = page.get_by_role("button", name="H", exact=True)
    button.click()
    by_h = max(page.evaluate(LINES), key=len)
    values = [float(H) for _, H in by_h]
    assert values == sorted(values, reverse=True)
    assert sorted(by_h) == sorted(published)
    assert page.locator("[data-sortable] th[aria-sort=descending]").inner_text() == "H"
    button.focus()
    page.keyboard.press("Enter")
    values = [float(H) for _, H in max(page.evaluate(LINES), key=len)]
    assert values == sorted(values)
    page.get_by_role("button", name="U", exact=True).click()  # where only H is known: last
    first, last = (max(page.evaluate(LINES), key=len)[i][0] for i in (0, -1))
    assert (first, last) == ("SDGZSL (fine-tuned)", "ZeroDiff")
    page.get_by_role("searchbox").fill("vaegan")
    shown = [name for group in page.evaluate(LINES) for name, _ in group]
    assert sorted(set(shown)) == ["TF-VAEGAN", "f-VAEGAN-D2"]
    assert page.locator("output").inner_text() == f"{len(shown)} lines"
    page.get_by_role("searchbox").fill("")
    assert sum(map(len, page.evaluate(LINES))) == sum(map(len, written))
    page.close()


def test_table_2_sorts_and_filters_by_what_a_line_was_given(browser, page_file):
    """Dataset, descriptors and split are of each line, measured or published."""
    cells = """() => [...document.querySelectorAll('[data-sortable] tbody')].map(group =>
      [...group.rows].filter(row => !row.hidden && row.className !== 'of')
        .map(row => [...row.cells].map(cell => cell.textContent)))"""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(page_file.as_uri())
    names = page.locator("[data-sortable] thead th").all_inner_texts()
    assert names[4:] == ["dataset", "size", "features", "descriptors", "split"]
    for index, name in enumerate(names[4:], start=4):
        page.get_by_role("button", name=name, exact=True).click()
        for group in page.evaluate(cells):
            texts = [line[index].lower() for line in group]
            known = [text for text in texts if text != "–"]
            assert texts == sorted(known) + ["–"] * (len(texts) - len(known))
    page.get_by_role("searchbox").fill("CUB 312-d v2")
    measured, published = page.evaluate(cells)
    assert (measured, [line[4] for line in published]) == ([], ["CUB"])
    assert published[0][0].startswith("GCM-CF")
    page.get_by_role("searchbox").fill("flo made.mat h@val")
    measured, published = page.evaluate(cells)
    assert (len(measured), published) == (1, [])
    assert measured[0][4].startswith("FLO")
    page.close()


def test_without_scripts_table_2_is_whole(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("[data-sortable] button, [data-sortable] input").count() == 0
    assert page.get_by_text("TF-VAEGAN").first.is_visible()
    context.close()
