"""What the text of a flag may be: numbers, names and lists of them; else a line that says so.

Each function is a `type` of :meth:`argparse.ArgumentParser.add_argument`, or makes one.
"""

from argparse import ArgumentTypeError
from collections.abc import Callable


def at_least(low: int) -> Callable[[str], int]:
    """Whole numbers from `low` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise ArgumentTypeError(f"expected a whole number ≥ {low}, but got {text!r}")
        return int(text)

    return parse


def not_negative(text: str) -> float:
    """A number ≥ 0, perhaps `inf`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ArgumentTypeError(f"expected a number ≥ 0, but got {text!r}")
    return value


def finite(text: str) -> float:
    """A number ≥ 0 that is not infinite."""
    value = not_negative(text)
    if value == float("inf"):
        raise ArgumentTypeError(f"expected a number ≥ 0, but got {text!r}")
    return value


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, as they are given.

    >>> whole_numbers("0, 1,7")
    (0, 1, 7)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ArgumentTypeError(f"expected whole numbers such as 0,1,2, but got {text!r}")
    return tuple(int(part) for part in parts)


def different(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, none given twice."""
    numbers = whole_numbers(text)
    if len(set(numbers)) < len(numbers):
        raise ArgumentTypeError(f"expected whole numbers such as 0,1,2, but got {text!r}")
    return numbers


def ranges(text: str) -> tuple[int, ...]:
    """Whole numbers and ranges of them, each number once.

    >>> ranges("0-2,7")
    (0, 1, 2, 7)
    """
    numbers: list[int] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        high = high or low
        if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
            raise ArgumentTypeError(f"expected seeds such as 0-4 or 0,2, got {text!r}")
        numbers += range(int(low), int(high) + 1)
    return tuple(dict.fromkeys(numbers))


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(found):
        raise ArgumentTypeError(f"expected names such as FLO,CUB, but got {text!r}")
    return found
