"""A page of HTML, read back: its tags, its words, the rows of its tables."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects what the tests ask about, and complains of tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []  # of all tables, the text of each cell
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)
            if {"th", "td"} & set(self.open):
                self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def check_self_contained(text: str, scripts: int = 0) -> None:
    """Nothing is fetched, only its own scripts run; for phones, the dark and screen readers too."""
    page = Reader(text)
    assert page.all("script") == [{}] * scripts  # no `src`
    assert not page.all("link", "iframe", "object")
    asked = [a[name] for _, a in page.tags for name in ("src", "href", "xlink:href") if name in a]
    assert all((url or "").startswith(("data:image/", "#")) for url in asked)
    assert "@import" not in text
    assert "url(http" not in text
    assert all(attributes.get("alt") for attributes in page.all("img"))
    drawings = [tag for tag, _ in page.tags if tag in ("svg", "title")]
    assert drawings == ["title", *["svg", "title"] * (len(drawings) // 2)]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for a in page.all("a")} <= set(ids)
    names = [tag for tag, _ in page.tags]
    assert [names.count(tag) for tag in ("main", "header", "h1")] == [1, 1, 1]
    assert names.count("caption") == names.count("table")
    assert all(a.get("scope") in ("col", "row", "rowgroup") for a in page.all("th"))
    for words in ('lang="en"', "width=device-width", "prefers-color-scheme: dark", "@media print"):
        assert words in text
