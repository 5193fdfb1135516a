"""Docstrings as the site's Markdown wants them: doctests in fences, roles as plain code."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(?=`)(`)~?")
DOCTEST = re.compile(r"(?m)^>>> .*(?:\n(?!\s*$).*)*(?:\n\n>>> .*(?:\n(?!\s*$).*)*)*")


class Docstrings(griffe.Extension):
    """Rewrites each docstring once, before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute that was loaded."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Fence doctests, which Markdown would take for quotations; take Sphinx's roles off.

    >>> print(as_markdown("As :func:`~mlis.fit`.\\n\\n>>> 1 + 1\\n2").replace("`" * 3, "---"))
    As `mlis.fit`.
    <BLANKLINE>
    ---pycon
    >>> 1 + 1
    2
    ---
    """
    return DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", ROLE.sub(r"\1", text))
