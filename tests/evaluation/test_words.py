"""Measures in plain words, and the tables of notebooks, whose names come from files."""

import dataclasses
from html.parser import HTMLParser

import numpy as np

from mlis.data.dataset import Provenance
from mlis.evaluation import evaluate, in_words
from mlis.evaluation.words import MEANING
from mlis.methods.registry import build_method
from simulated import tiny

BAD = "<script>alert(1)</script>"


class Page(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += f"{data}|"


def check(shown: str) -> str:
    """The text of a page, which consists of a table alone."""
    page = Page(shown)
    assert page.tags <= {"table", "caption", "tr", "td"}
    return page.text


def test_undefined_measures_are_left_out():
    assert in_words(None, None, None) == ""
    assert "(U)" not in in_words(None, 80.0, None)
    assert "80 %" in in_words(None, 80.0, None)
    assert in_words(40.0, 80.0, 53.3).endswith("53 (H)")


def test_an_evaluation_is_a_table_in_words():
    scores = np.array([[9, 1, 2], [4, 6, 5], [3, 1, 8], [8, 0, 6]], dtype=np.float32)
    seen = np.array([True, True, False])
    result = evaluate(scores, np.array([0, 1, 2, 2]), seen, [BAD, "b", "c"])
    text = check(result._repr_html_())
    for name in ("U", "S", "H", "T1", "AUSUC", "overall"):
        assert f"{MEANING[name]}|{name}|{getattr(result, name):.1f}|" in text
    assert f"{MEANING['best H']}|best H|{result.best_H:.1f}|" in text
    nothing = evaluate(scores[:2], np.array([0, 1]), seen, [BAD, "b", "c"])
    text = check(nothing._repr_html_())
    assert "|U|–|" in text
    assert nothing.notes[0] in text


def test_a_dataset_and_a_recognizer_are_tables_with_escaped_names():
    data = tiny()
    names = (*data.class_names[:-1], BAD)
    assert not data.seen_mask[-1]
    data = dataclasses.replace(data, class_names=names, provenance=Provenance(BAD, notes=(BAD,)))
    text = check(data._repr_html_())
    assert text.count(BAD) == 3
    assert f"{len(data.seen_classes)} with training images (seen)" in text
    chosen = build_method("gaussian").choose(data, device="cpu")
    text = check(chosen.recognizer._repr_html_())
    assert BAD in text
    assert "on validation classes|U " in text
    chosen.recognizer.metadata = dataclasses.replace(chosen.recognizer.metadata, tradeoff=None)
    assert "on validation classes" not in check(chosen.recognizer._repr_html_())
