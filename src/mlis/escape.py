"""Escapes text from files for where it is shown: names of classes, paths, datasets.

Files keep names as they are; whatever shows one to a person passes it through one of these.
"""

import html as _html
import json
import re
from collections.abc import Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MARKDOWN = re.compile(r"([\\`*\[\]|#~!]|(?<!\w)_|_(?!\w))")  # a_b is plain text


def terminal(text: str) -> str:
    r"""On one line, with escapes for what does not print: control codes, directions of writing.

    >>> print(terminal("a\nb \x1b[2J"))
    a\nb \x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula (OWASP, CSV injection); all else stays.

    >>> csv_cell("=1+1"), csv_cell("-1.5"), csv_cell(-1.5), csv_cell("blue jay")
    ("'=1+1", '-1.5', -1.5, 'blue jay')
    """
    if not isinstance(value, str):
        return value
    if value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def markdown(text: str) -> str:
    r"""Inline Markdown that shows the text as it is; HTML in it too.

    >>> print(markdown("*a_b* _c_ <img src=x>"))
    \*a_b\* \_c\_ &lt;img src=x&gt;
    """
    return _html.escape(_MARKDOWN.sub(r"\\\1", terminal(text)), quote=False)


def html(text: str) -> str:
    """HTML and SVG text or attribute; control characters, which XML does not allow, are escaped.

    >>> html('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return "\n".join(terminal(line) for line in _html.escape(text).split("\n"))


def html_table(title: str, rows: Sequence[Sequence[object]]) -> str:
    """A small table for a notebook: a title, and rows of cells as escaped text.

    >>> html_table("a<b", [["rows", 3]])
    '<table><caption>a&lt;b</caption><tr><td>rows</td><td>3</td></tr></table>'
    """
    body = "".join(
        f"<tr>{''.join(f'<td>{html(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><caption>{html(title)}</caption>{body}</table>"


def json_line(values: Any) -> str:
    r"""Strict JSON on one line, readable, with \u escapes for what does not print.

    >>> print(json_line({"class": "é\x9b"}))
    {"class": "é\u009b"}
    """
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
