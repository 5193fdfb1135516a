"""One HTML file: no script, no network, light and dark, desktop, phone and paper."""

import functools
from importlib import resources

from mlis.escape import html as escape

_DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{before}<main>
{body}
</main>
{after}</body>
</html>
"""


def document(title: str, style: str, body: str, *, before: str = "", after: str = "") -> str:
    """The whole page as one string.

    Args:
        title: plain text.
        style: CSS on top of the shared `style.css`.
        body: HTML of `<main>`.
        before: HTML between `<body>` and `<main>`.
        after: HTML after `<main>`.
    """
    style = style_of("mlis.pages") + style
    return _DOCUMENT.format(title=escape(title), style=style, body=body, before=before, after=after)


@functools.cache
def style_of(package: str) -> str:
    """The `style.css` of a package."""
    return resources.files(package).joinpath("style.css").read_text(encoding="utf-8")
