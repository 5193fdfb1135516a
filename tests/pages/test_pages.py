"""What all pages share: templates, colours that can be read, maps always the same."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from jinja2 import UndefinedError

import mlis.pages
from mlis.experiments.report import charts
from mlis.pages import colours, render
from mlis.pages.projection import project, same_class_nearest

DARK = re.compile(r"prefers-color-scheme: dark\) \{\n  :root \{(.*?)\n  \}", re.S)
PRINT = re.compile(r"@media print \{\n  :root \{(.*?)\n  \}", re.S)

# colours that carry words, with what is behind them
WORDS = [
    *((name, ground) for name in ("ink", "soft") for ground in ("paper", "card")),
    *(("ink", ground) for ground in ("unseen-soft", "seen-soft")),
    *(("soft", ground) for ground in ("unseen-soft", "seen-soft")),
    *((name, ground) for name in ("unseen", "right", "wrong") for ground in ("paper", "card")),
    *((f"c{i}", ground) for i in range(8) for ground in ("paper", "card")),
]
# colours of marks, lines and bars that no text repeats
SHAPES = [("seen", "card"), ("seen", "paper"), ("unseen", "line")]


STYLE = (Path(mlis.pages.__file__).parent / "style.css").read_text(encoding="utf-8")


def block(rule: re.Pattern[str]) -> dict[str, str]:
    (found,) = rule.findall(STYLE)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", found))


def schemes() -> dict[str, dict[str, str]]:
    light = colours()
    return {"light": light, "dark": light | block(DARK), "print": light | block(PRINT)}


def luminance(colour: str) -> float:
    """Of WCAG 2.1: relative luminance of an sRGB colour."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_words_and_shapes_can_be_told_from_what_is_behind_them(scheme):
    found = schemes()[scheme]
    assert {name for pair in (*WORDS, *SHAPES) for name in pair} <= found.keys()
    weak = {pair: contrast(found[pair[0]], found[pair[1]]) for pair in WORDS}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}
    weak = {pair: contrast(found[pair[0]], found[pair[1]]) for pair in SHAPES}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 3} == {}


def test_the_style_asks_for_nothing_and_uses_known_colours():
    assert not re.search(r"url\(|@import|https?:", STYLE)
    assert STYLE.count("{") == STYLE.count("}")
    assert set(re.findall(r"var\(--([\w-]+)\)", STYLE)) <= schemes()["light"].keys()


def test_templates_escape_what_they_show_and_refuse_what_is_missing():
    with pytest.raises(UndefinedError):
        render("demo/page.html")
    assert "<main>" in render("pages/base.html")


def test_maps_are_always_the_same_and_put_classes_together():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 12)
    features = np.eye(3)[labels] + 0.05 * rng.random((36, 3))
    one = project(features)
    np.testing.assert_array_equal(one, project(features))
    assert one.shape == (36, 2)
    assert one.min() == 0
    assert one.max() == 1
    distances = np.linalg.norm(one[:, None] - one[None], axis=2)
    same = labels[:, None] == labels[None]
    assert distances[same].mean() < 0.5 * distances[~same].mean()
    assert same_class_nearest(features, labels).all()


def test_charts_take_any_name(tmp_path):
    """Mathematics of matplotlib, markup, other scripts and control characters are plain text."""
    raw = ("$x^{$", "貓", "<b> & c", "a\x00b\nc", "_hidden", "w" * 200, "a]]>b", "ü")
    names = tuple(map(charts.shown, raw))
    places = {which: np.random.default_rng(0).random((40, 2)) for which in ("raw", "refined")}
    found = charts.Map(places, np.arange(40) % 10, tuple(range(8)), names)
    title = '"<a>" $y_{$'
    path = charts.save(charts.map_sheet(found, title, {}), title, tmp_path / "map.svg")
    words = "".join(ElementTree.parse(path).getroot().itertext())
    assert all(name in words for name in (*names, title))
    drawn = str(charts.map_panel(found, "raw", title))
    assert "&lt;a&gt;" in drawn
    assert drawn == str(charts.map_panel(found, "raw", title))
