"""Names of classes and columns: how they are compared, suggested and shown."""

import difflib
import logging
import re
import unicodedata
from collections.abc import Sequence

logger: logging.Logger = logging.getLogger(__name__)

_LONGEST = 60  # characters of a name that are looked at or shown


def normal(name: str) -> str:
    """A name in Unicode's composed form: macOS spells é as e and an accent in file names."""
    return unicodedata.normalize("NFC", name.strip())


def warn_of_similar(names: Sequence[str], what: str) -> None:
    """Log a warning where names differ in upper case, spaces, hyphens or underscores alone."""
    first: dict[str, str] = {}
    for name in names:
        form = re.sub(r"[\s_-]+", " ", name.casefold()).strip()
        other = first.setdefault(form, name)
        if other != name and len(form) > 1:  # the classes may be letters
            logger.warning(
                "%s: %r and %r are two classes: if one is meant, write it alike", what, other, name
            )


def suggestion(name: str, class_names: Sequence[str]) -> str:
    """` Did you mean …?` for a name that nearly fits (case, underscores, a typing error)."""
    by_form = {plain(known): known for known in class_names}
    close = difflib.get_close_matches(plain(name[:_LONGEST]), by_form, n=1, cutoff=0.7)
    return f" Did you mean {by_form[close[0]]!r}?" if close else ""


def shorten(names: Sequence[str]) -> str:
    """The first few of many names, for a message; whatever bytes they are, it stays one line."""
    shown = [
        name if name.isprintable() and len(name) <= _LONGEST else ascii(name[:_LONGEST])
        for name in names[:12]
    ]
    return (", ".join(shown) + (", …" if len(names) > 12 else "")) or "none"


def plain(name: str) -> str:
    """A name without case, punctuation and white space."""
    return "".join(c for c in normal(name).casefold() if c.isalnum())
