"""The page's own HTML: predictions, classes and messages. Everything that came in is escaped."""

from collections.abc import Sequence

from mlis.escape import html as escape
from mlis.serving.engine import Answer, Catalogue

SHOWN_CLASSES = 500


def header(known: Catalogue) -> str:
    """What the page is, and of how many classes."""
    unseen = int((~known.seen).sum())
    text = f"The model tells {len(known.names):,} classes apart."
    if unseen:
        text = (
            f"The model tells {len(known.names):,} classes apart; {unseen:,} of them had no "
            "picture in training, only a description."
        )
    return _wrap(f"<h1>What is in the picture?</h1><p>{text}</p>")


def waiting() -> str:
    """Before the first picture."""
    return _wrap('<div class="empty"><p>The likeliest classes appear here.</p></div>')


def best(answer: Answer, k: int) -> str:
    """The k likeliest classes."""
    known = answer.catalogue
    lines = []
    for index, chance in answer.best(k):
        name = known.names[index]
        kind = "seen" if known.seen[index] else "unseen"
        percent = f"{100 * chance:.1f}"
        lines.append(
            f'<li class="{kind}"><div class="line"><span class="name">{escape(name)}</span>'
            f'{_tags(known, index)}<span class="score">{percent}&#8239;%</span></div>'
            f'<div class="bar"><i style="width:{percent}%"></i></div>{_said(known, name)}</li>'
        )
    return _wrap(f'<ol class="best">{"".join(lines)}</ol>')


def classes(known: Catalogue) -> str:
    """All classes, those added last first."""
    order = sorted(range(len(known.names)), key=lambda i: known.names[i] not in known.added)
    lines = [
        f'<li><div class="line"><span class="name">{escape(known.names[i])}</span>'
        f"{_tags(known, i)}</div>{_said(known, known.names[i])}</li>"
        for i in order[:SHOWN_CLASSES]
    ]
    if len(order) > SHOWN_CLASSES:
        lines.append(f"<li>… and {len(order) - SHOWN_CLASSES:,} more</li>")
    return _wrap(f'<ul class="known">{"".join(lines)}</ul>')


def good(title: str, text: str) -> str:
    """Something went well."""
    return _note("good", title, text)


def wrong(title: str, text: str) -> str:
    """Something did not, and what to do."""
    return _note("wrong", title, text)


def _note(kind: str, title: str, text: str) -> str:
    role = "alert" if kind == "wrong" else "status"
    return _wrap(
        f'<div class="note {kind}" role="{role}"><b>{escape(title)}</b>{escape(text)}</div>'
    )


def _tags(known: Catalogue, index: int) -> str:
    tags: Sequence[tuple[str, str]] = ()
    if known.names[index] in known.added:
        tags = [("added", "added here")]
    elif not known.seen[index]:
        tags = [("unseen", "never seen")]
    return "".join(f'<span class="tag {kind}">{text}</span>' for kind, text in tags)


def _said(known: Catalogue, name: str) -> str:
    said = known.descriptions.get(name)
    return f'<p class="said">{escape(said)}</p>' if said else ""


def _wrap(inner: str) -> str:
    return f'<div class="mlis">{inner}</div>'
