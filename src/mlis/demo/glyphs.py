"""Letters as vector outlines, so that the page shows them alike on every machine."""

from collections.abc import Sequence
from html import escape

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from mlis.data.letters.alphabet import Letter, text_faces

SIZE = 400  # units per em
BOX = (-240, -460, 480, 600)  # x, y, width, height of every symbol; the baseline is at y = 0
_COMMANDS = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}


def symbols(letters: Sequence[Letter]) -> str:
    """SVG definitions `#g0`, `#g1`, … of the letters in DejaVu Sans, in the text's colour."""
    face = FontProperties(fname=next(p for p in text_faces() if p.stem == "DejaVuSans"))
    box = " ".join(map(str, BOX))
    defs = [
        f'<symbol id="g{i}" viewBox="{box}"><path d="{_path(x.character, face)}"/></symbol>'
        for i, x in enumerate(letters)
    ]
    return f'<svg width="0" height="0" class="defs" aria-hidden="true">{"".join(defs)}</svg>'


def glyph(index: int, letter: Letter, extra: str = "") -> str:
    """One letter, inline; read aloud by its description."""
    label = escape(describe(letter))
    return (
        f'<svg class="g {extra}" role="img" aria-label="{label}"><title>{label}</title>'
        f'<use href="#g{index}"/></svg>'
    )


def describe(letter: Letter) -> str:
    """In words, as the recognizer is told: "small u with caron"."""
    base = letter.base if letter.case == "capital" else letter.base.lower()
    return f"{letter.case} {base} with {' and '.join(letter.marks)}"


def _path(character: str, face: FontProperties) -> str:
    outline = TextPath((0, 0), character, size=SIZE, prop=face)
    codes = np.asarray(outline.codes)
    vertices = np.asarray(outline.vertices) * (1, -1)
    drawn = vertices[codes != Outline.CLOSEPOLY, 0]
    vertices[:, 0] -= (drawn.min() + drawn.max()) / 2
    parts: list[str] = []
    previous = None
    for (x, y), code in zip(np.rint(vertices).astype(int).tolist(), codes, strict=True):
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
        elif code == previous and code in (Outline.CURVE3, Outline.CURVE4):
            parts.append(f" {x} {y}")  # the rest of the same curve, or the next one
        else:
            parts.append(f"{_COMMANDS[code]}{x} {y}")
        previous = code
    return "".join(parts)
