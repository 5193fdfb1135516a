"""Matching, comparing, suggesting and formatting class names and labels.

The rule for all formats: labels are class names. Only if none of them is a name, nor a name that
spells the same number differently ("001" and 1), integers are class indices counted from 0.
Ambiguous labels raise an error, or a warning states how they were read.
"""

import difflib
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)

_LONGEST = 60  # characters of a name that are compared or printed
_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(\.0*)?")
_DIGITS = re.compile(r"[0-9]+")
_FIX_START = "Give names instead of numbers, or declare the class of row 0 as unseen."


def match_labels(
    labels: Sequence[Any] | np.ndarray,
    class_names: Sequence[str],
    what: str,
    *,
    rows: bool = True,
    unseen: Collection[int] = (),
    remedy: str = _FIX_START,
) -> np.ndarray:
    """(N,) int64 class indices of N labels.

    Args:
        labels: class names; if none of them is a name, class indices. Text and numbers are
            equivalent: 1, 1.0 and "1".
        class_names: C unique names.
        what: first part of every message, such as the file.
        rows: whether labels may be class indices.
        unseen: indices of classes that are known to be unseen.
        remedy: last part of the message if indices may be counted from 0 or from 1.

    Raises:
        DataError: names the first unknown label and its row; or no label is 0, so that indices
            may be counted from 0 or from 1.
    """
    distinct, first, inverse = _distinct(_vector(labels, what))
    indices, by_row = _match(distinct, first, class_names, what, rows)
    if by_row and 0 not in indices and 0 not in unseen:
        raise DataError(
            f"{what}: labels from {indices.min()} to {indices.max()} are ambiguous: they may "
            f"count the {len(class_names)} classes from 0 or from 1. {remedy}"
        )
    return indices[inverse]


def class_indices(
    classes: Iterable[int | str] | np.ndarray, class_names: Sequence[str], what: str
) -> np.ndarray:
    """Sorted unique indices of classes, matched like labels; may be empty."""
    distinct, first, _ = _distinct(_vector(list(classes), what))
    return np.unique(_match(distinct, first, class_names, what, True)[0])


def label_text(label: Any) -> str:
    """A label as text in Unicode's composed form; integral floats without a decimal point."""
    if isinstance(label, float | np.floating) and float(label).is_integer():
        label = int(label)
    return normal(str(label))


def _vector(labels: Sequence[Any] | np.ndarray, what: str) -> np.ndarray:
    """Labels as a 1-d array of text, numbers or objects."""
    try:
        values = np.asarray(labels)
    except ValueError as error:
        raise DataError(f"{what}: expected a 1-d array, one label per row: {error}") from error
    if values.ndim == 2 and 1 in values.shape:
        values = values.ravel()
    if values.ndim != 1:
        raise DataError(
            f"{what}: expected a 1-d array, one label per row, got shape {values.shape}."
        )
    if values.dtype.kind not in "OUSTiuf":
        raise DataError(f"{what}: expected class names or class indices, got {values.dtype}.")
    if values.dtype.kind == "f":
        bad = np.flatnonzero(values != np.floor(values))  # true for NaN
        if bad.size:
            raise DataError(f"{what}: row {bad[0]}: expected an integer, got {values[bad[0]]}.")
    return values


def _distinct(values: np.ndarray) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """The D distinct labels, the first row of each (D,), and the index of each row's (N,)."""
    if values.dtype.kind != "O":
        found, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        return found.tolist(), first, inverse
    number: dict[tuple[type, Any], int] = {}
    keys = [(type(value), value) for value in values.tolist()]
    inverse = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
    first = np.unique(inverse, return_index=True)[1]
    return [value for _, value in number], first, inverse


def _match(
    distinct: list[Any], first: np.ndarray, class_names: Sequence[str], what: str, rows: bool
) -> tuple[np.ndarray, bool]:
    """The (D,) class indices of distinct labels, and whether the labels are class indices."""
    texts = [_text(label) for label in distinct]
    class_names = [label_text(name) for name in class_names]
    place = {name: i for i, name in enumerate(class_names)}
    numbers = [_whole(text) for text in texts]
    named = {_whole(name) for name in place} - {None}
    pairs = list(zip(texts, numbers, strict=True))
    is_row = rows and all(n is not None and n not in named and t not in place for t, n in pairs)
    if is_row:
        return _checked_rows(numbers, distinct, first, len(class_names), what), bool(distinct)
    for at in np.argsort(first, kind="stable").tolist():
        if texts[at] not in place:
            raise _unknown(what, int(first[at]), distinct[at], numbers[at], class_names)
    indices = [place[text] for text in texts]
    if rows and all(n is not None and 0 <= n < len(place) for n in numbers):
        _warn_of_rows(what, numbers, indices, class_names)
    return np.array(indices, dtype=np.int64), False


def _text(label: Any) -> str:
    if isinstance(label, bytes):
        return normal(label.decode("utf-8", "replace"))
    known = isinstance(label, str | int | float | np.number) and not isinstance(label, bool)
    return label_text(label) if known else ""


def _whole(text: str) -> int | None:
    found = _WHOLE.fullmatch(text)
    return int(found[1]) if found else None


def _checked_rows(
    numbers: Sequence[Any], labels: list[Any], first: np.ndarray, count: int, what: str
) -> np.ndarray:
    values = np.array(numbers, dtype=np.int64)
    bad = np.flatnonzero((values < 0) | (values >= count))
    if bad.size:
        at = int(bad[first[bad].argmin()])
        hint = " Labels may be counted from 1: subtract 1." if values.max() == count else ""
        raise DataError(
            f"{what}: row {first[at]}: expected a label from 0 to {count - 1}, as there are "
            f"{count} classes (descriptors), got {labels[at]}.{hint}"
        )
    return values


def _unknown(
    what: str, row: int, label: Any, number: int | None, class_names: Sequence[str]
) -> DataError:
    """For a label that is not a class name, with the closest name."""
    same = [name for name in class_names if number is not None and _whole(name) == number]
    hint = f" Did you mean {same[0]!r}?" if same else suggestion(_text(label), class_names)
    return DataError(
        f"{what}: row {row}: expected one of {len(class_names)} class names, got {label!r}.{hint} "
        "Use the name of a class that has a descriptor."
    )


def _warn_of_rows(
    what: str, numbers: Sequence[Any], indices: Sequence[int], class_names: Sequence[str]
) -> None:
    """Log how numeric labels were read if as class indices they would be other classes."""
    for number, index in zip(numbers, indices, strict=True):
        if number != index:
            logger.warning(
                "%s: labels are read as class names: %s is class %r, not the class with index "
                "%s, %r",
                *(what, number, class_names[index], number, class_names[number]),
            )
            return


def normal(name: str) -> str:
    """A stripped name in Unicode's composed form; file names on macOS are decomposed."""
    return unicodedata.normalize("NFC", name.strip())


def warn_of_similar(names: Sequence[str], what: str) -> None:
    """Log a warning for names that differ only in case, spaces, hyphens or underscores."""
    first: dict[str, str] = {}
    for name in names:
        form = re.sub(r"[\s_-]+", " ", name.casefold()).strip()
        other = first.setdefault(form, name)
        if other != name and len(form) > 1:  # classes may be letters
            logger.warning(
                "%s: %r and %r are different classes; if they are meant to be one, spell them "
                "alike",
                *(what, other, name),
            )


def suggestion(name: str, class_names: Sequence[str]) -> str:
    """` Did you mean …?` with the closest name."""
    close = closest(name, class_names)
    return f" Did you mean {close!r}?" if close else ""


def closest(name: str, names: Sequence[str]) -> str:
    """The most similar name (case, underscores, typing errors); empty if none is close."""
    by_form = {plain(known[:_LONGEST]): known for known in names}
    close = difflib.get_close_matches(plain(name[:_LONGEST]), by_form, n=1, cutoff=0.7)
    return by_form[close[0]] if close else ""


def almost(name: str, names: Sequence[str]) -> str:
    """The name that this one is likely a misspelling of; empty if there is none.

    One letter too many, missing or other, or two neighbours exchanged, in names of at least four
    letters and the same digits.
    """
    own = plain(name)
    for other in names:
        known = plain(other)
        letters = min(len(_DIGITS.sub("", each)) for each in (own, known))
        same_digits = _DIGITS.findall(own) == _DIGITS.findall(known)
        if letters > 3 and same_digits and _is_one_edit(own, known):
            return other
    return ""


def _is_one_edit(a: str, b: str) -> bool:
    """Whether the Damerau-Levenshtein distance is 1."""
    i = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    exchanged = a[i : i + 2] == b[i : i + 2][::-1] and a[i + 2 :] == b[i + 2 :]
    one_longer = a[i:] == b[i + 1 :] or a[i + 1 :] == b[i:]
    return a != b and (exchanged or one_longer or a[i + 1 :] == b[i + 1 :])


def shorten(names: Sequence[str]) -> str:
    """The first few names, for a message of one line."""
    shown = [
        name if name.isprintable() and len(name) <= _LONGEST else ascii(name[:_LONGEST])
        for name in names[:12]
    ]
    return (", ".join(shown) + (", …" if len(names) > 12 else "")) or "none"


def plain(name: str) -> str:
    """A name without case, punctuation and white space."""
    return "".join(c for c in normal(name).casefold() if c.isalnum())
