"""The page's words: its form is read, what came in is shown as text, its errors are sentences."""

import asyncio

import pytest

from mlis.errors import DataError
from mlis.serving import markup
from mlis.serving.blocks import added_class, recognised
from mlis.serving.engine import Engine
from mlis.serving.forms import Form
from mlis.serving.metrics import Metrics
from mlis.serving.service import Service
from mlis.serving.settings import Limits
from mlis.serving.words import Describer, Words
from serve_cases import MeanColours, colour_engine, colour_recognizer, png

BOTH = Describer(9, {}, None, ("sentences", "attributes", "vector"), ("stripes", "height: cm"))


@pytest.fixture
def service():
    recognizer = colour_recognizer()
    engine = Engine(recognizer, MeanColours(), Describer.of(recognizer))
    made = Service(engine, Limits(max_wait=0.0), Metrics())
    yield made
    made.close()


def test_the_form_asks_for_what_the_model_understands():
    form = Form.of(BOTH)
    assert form is not None
    assert [field.kind for field in form.fields] == ["sentences", "attributes"]
    assert form.fields[1].start == "stripes: \nheight: cm: "
    only = Form.of(Describer(3))
    assert only is not None
    assert [field.kind for field in only.fields] == ["vector"]
    assert "3 numbers" in only.fields[0].help
    assert Form.of(None) is None


def test_a_filled_form_is_read():
    form = Form.of(BOTH)
    assert form is not None
    values = ("striped.\n\n  Runs fast. ", "stripes: yes\nheight: cm: 140\n")
    assert form.read("  plains   zebra ", values) == (
        "plains zebra",
        Words(("striped.", "Runs fast."), {"stripes": "yes", "height: cm": "140"}),
    )
    untouched = form.read("zebra", ("striped", form.fields[1].start))[1]
    assert untouched == Words(("striped",))
    vector = Form.of(Describer(3))
    assert vector is not None
    assert vector.read("a", ("[1, 2.5;-3e-1]",))[1].vector == (1.0, 2.5, -0.3)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("", ("text", ""), "Give it a name"),
        (None, (None, None), "Give it a name"),
        ("x" * 201, ("text", ""), "Give it a name of 1 to 200"),
        ("a\u200bb\u0000", ("text", ""), "Give it a name"),
        ("zebra", (" \n", "stripes: \n"), "description or attributes is empty"),
        ("zebra", ("", "stripes yes"), "expected `name: value` in each line"),
        ("zebra", ("\n".join("ab" * 60), ""), "At most 100 sentences"),
        ("zebra", ("x" * 5001, ""), "At most 100 sentences of 5,000"),
    ],
)
def test_what_is_missing_in_a_form_is_said(name, values, said):
    form = Form.of(BOTH)
    assert form is not None
    with pytest.raises(DataError, match=said):
        form.read(name, values)


def test_what_came_in_is_shown_as_text():
    bad = "<script>alert(1)</script>\"'&"
    engine = colour_engine()
    known = engine.catalogue
    hostile = type(known)((bad, *known.names[1:]), known.seen, frozenset(), {bad: bad})
    answer = engine.answer([])  # no query, no answer
    assert answer == []
    shown = [
        markup.classes(hostile),
        markup.good(bad, bad),
        markup.wrong(bad, bad),
    ]
    for text in shown:
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_a_long_list_is_cut():
    known = colour_engine().catalogue
    names = tuple(f"kind {i}" for i in range(1200))
    many = type(known)(names, known.seen.repeat(200), frozenset({"kind 1199"}))
    text = markup.classes(many)
    assert text.count("<li>") == markup.SHOWN_CLASSES + 1
    assert "… and 700 more" in text
    assert text.index("kind 1199") < text.index("kind 0<")  # those added come first


def test_a_picture_is_recognised_from_the_uploads_alone(service, tmp_path):
    uploads, other = tmp_path / "uploads", tmp_path / "other.png"
    uploads.mkdir()
    for path in (uploads / "a.png", other):
        path.write_bytes(png("red"))
    (uploads / "b.jpg").write_text("a letter")
    (uploads / "link.png").symlink_to(other)

    def ask(data) -> tuple[str, bool]:
        return asyncio.run(recognised(service, data, uploads.resolve()))

    text, shown = ask({"path": str(uploads / "a.png")})
    assert shown
    assert text.count('class="name"') == 5
    text, shown = ask({"path": str(uploads / "b.jpg"), "orig_name": "<b>.jpg"})
    assert not shown
    assert "&lt;b&gt;.jpg cannot be read as a picture" in text
    assert "Not an image" in text
    for path in (other, uploads / ".." / "other.png", uploads / "link.png", "/etc/passwd", "a\0b"):
        text, shown = ask({"path": str(path)})
        assert "not there any more" in text
    for nothing in (None, {}, {"path": ""}, "text", 7):
        assert "appear here" in ask(nothing)[0]


def test_a_class_is_added_by_the_form(service):
    form = Form.of(service.engine.describer)
    assert form is not None

    def add(name, vector) -> tuple[str, bool]:
        return asyncio.run(added_class(service, form, name, [vector]))

    assert add("cyan", "0.1 0.8 0.8")[1]
    assert service.catalogue.names[-1] == "cyan"
    text, added = add("cyan", "0.1 0.8 0.8")
    assert not added
    assert "There is a class &#x27;cyan&#x27; already" in text
    assert "could not convert" in add("teal", "much green")[0]
