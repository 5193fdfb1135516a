"""Small pieces of HTML. Every text that comes from outside goes through :func:`escape`."""

from collections.abc import Iterable, Sequence

from mlis.escape import html as escape

__all__ = ["cells", "escape", "figure", "group", "missing", "scrolling", "section", "table"]


def section(anchor: str, title: str, body: str, *, level: int = 2) -> str:
    """A part of the page under a heading that links lead to; no part without a body."""
    if not body:
        return ""
    heading = f'<h{level} id="{anchor}">{escape(title)}</h{level}>'
    return f'<section aria-labelledby="{anchor}">\n{heading}\n{body}\n</section>'


def figure(drawing: str, caption: str, style: str = "") -> str:
    """A drawing on a card; `caption` is HTML."""
    look = f' class="{style}"' if style else ""
    words = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure{look}><div class="panel">{drawing}</div>{words}</figure>'


def table(caption: str, header: Sequence[str], bodies: Iterable[str]) -> str:
    """A table that scrolls on its own; `bodies` are `<tbody>` elements."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    inner = (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"{''.join(bodies)}</table>"
    )
    return scrolling(caption, inner)


def scrolling(label: str, inner: str) -> str:
    """What may be wider than a phone; reached and moved with the keyboard too."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{inner}</div>'
    )


def cells(first: str, others: Sequence[str], style: str = "") -> str:
    """A row; `first` is HTML of its heading, the others are texts."""
    look = f' class="{style}"' if style else ""
    rest = "".join(f"<td>{_spread(cell)}</td>" for cell in others)
    return f'<tr{look}><th scope="row">{first}</th>{rest}</tr>'


def _spread(cell: str) -> str:
    """A text; a deviation may go under its mean where there is little room."""
    mean, sign, deviation = escape(cell).partition(" ± ")
    return f"{mean}<span>{sign}{deviation}</span>" if sign and "/" not in cell else escape(cell)


def group(title: str, width: int) -> str:
    """A row that says what the rows under it are of."""
    heading = f'<th scope="rowgroup" colspan="{width}">{escape(title)}</th>'
    return f'<tr class="of">{heading}</tr>'


def missing(*what: str) -> str:
    """Says on the page what is not there, and why."""
    said = [escape(one) for one in what if one]
    return f'<p class="missing">{"; ".join(said)}.</p>' if said else ""
