"""Drawings as text: escaped, described, with axes; colours are classes of `style.css`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlis.escape import html as escape

MARKS = {  # paths around the origin, so that colour is not the only sign
    "disc": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "square": "m-3.5-3.5h7v7h-7z",
    "diamond": "m0-5l4.5 5l-4.5 5l-4.5-5z",
    "triangle": "m0-4.5l4.5 8h-9z",
    "plus": "m-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "down": "m0 4.5l4.5-8h-9z",
    "cross": "m-4-2l2-2l2 2l2-2l2 2l-2 2l2 2l-2 2l-2-2l-2 2l-2-2l2-2z",
    "bar": "m-5-1.8h10v3.6h-10z",
}


def drawing(width: float, height: float, label: str, body: str, extra: str = "") -> str:
    """An `<svg>` that says what it shows; `body` is SVG, `label` plain text."""
    words = escape(label)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{words}"{extra}>'
        f"<title>{words}</title>{body}</svg>"
    )


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """One line of text, escaped."""
    look = f' class="{style}"' if style else ""
    side = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{look}{side}>{escape(words)}</text>'


def mark(points: Sequence[tuple[float, float]], kind: str, style: str) -> str:
    """The same mark at several places, one path."""
    path = "".join(f"M{x:.1f} {y:.1f}{MARKS[kind]}" for x, y in points)
    return f'<path class="{style}" d="{path}"/>'


def line(points: Sequence[tuple[float, float]], style: str) -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{path}"/>'


def band(
    low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]], style: str
) -> str:
    """The surface between two lines with the same x."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*low, *reversed(high)))
    return f'<polygon class="{style}" points="{path}"/>'


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`.

    >>> ticks(3.0, 61.0)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(one * power for one in (1, 2, 5, 10) if span / (one * power) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Axes:
    """A field to draw in, with its scales.

    Attributes:
        xs, ys: ticks; the field goes from the first to the last.
        x_labels: words at `xs`.
        width, height: of the drawing, units of which a phone shows about 350.
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    x_labels: tuple[str, ...]
    width: float = 360
    height: float = 250
    left: float = 44
    right: float = 14
    top: float = 30
    bottom: float = 44

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies."""
        across = self.width - self.left - self.right
        down = self.height - self.top - self.bottom
        low, high = min(self.ys), max(self.ys)
        return (
            self.left + across * (x - self.xs[0]) / ((self.xs[-1] - self.xs[0]) or 1),
            self.top + down * (high - y) / ((high - low) or 1),
        )

    def grid(self, x_title: str, y_title: str) -> str:
        """Lines, numbers and titles."""
        parts = []
        for y in self.ys:
            (x1, at), (x2, _) = self.at(self.xs[0], y), self.at(self.xs[-1], y)
            parts.append(line([(x1, at), (x2, at)], "axis"))
            parts.append(text(x1 - 6, at + 4, f"{y:,g}", anchor="end"))
        bottom = self.at(self.xs[0], min(self.ys))[1]
        for x, words in zip(self.xs, self.x_labels, strict=True):
            parts.append(text(self.at(x, 0)[0], bottom + 17, words, anchor="middle"))
        middle = (self.left + self.width - self.right) / 2
        parts.append(text(middle, self.height - 6, x_title, anchor="middle"))
        parts.append(text(2, 12, y_title, "name"))
        return "".join(parts)
