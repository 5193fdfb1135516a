"""The accented Latin letters in matplotlib's fonts, and their parts.

The parts are given by the Unicode name: LATIN SMALL LETTER U WITH CARON is (small, U, caron).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font

from mlis.errors import DataError

_NAME = re.compile(r"LATIN (SMALL|CAPITAL) LETTER ([A-Z]) WITH ([A-Z -]+)")


@dataclass(frozen=True)
class Letter:
    """One class: a character and the parts in its Unicode name.

    >>> Letter("ǔ", "small", "U", ("caron",)).name
    'LATIN SMALL LETTER U WITH CARON'
    """

    character: str
    case: str
    base: str
    marks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The character's Unicode name, unique among characters."""
        return unicodedata.name(self.character)

    @property
    def parts(self) -> tuple[str, ...]:
        """Case, base letter and diacritics: the columns of the descriptor."""
        return (self.case, self.base, *self.marks)

    @property
    def ingredients(self) -> tuple[str, ...]:
        """What seen letters must contain: the base letter in this case, and each diacritic."""
        return (f"{self.case} {self.base}", *self.marks)

    @property
    def described_base(self) -> str:
        """The base letter, such as "small u"."""
        return f"{self.case} {self.base if self.case == 'capital' else self.base.lower()}"

    @property
    def description(self) -> str:
        """The letter, such as "small u with caron"."""
        return f"{self.described_base} with {' and '.join(self.marks)}"


def text_faces() -> tuple[Path, ...]:
    """Font files of the twelve DejaVu text faces bundled with matplotlib, in name order."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = tuple(p for p in sorted(folder.glob("DejaVu*.ttf")) if "Display" not in p.name)
    if len(faces) != 12:
        raise DataError(
            f"{folder}: expected the 12 DejaVu text faces, got {len(faces)}. Reinstall matplotlib "
            "with its font files."
        )
    return faces


def covered_letters() -> tuple[Letter, ...]:
    """All accented Latin letters in all text faces, in code point order.

    Accented letters have a Unicode name LATIN (SMALL|CAPITAL) LETTER (A-Z) WITH diacritics. Of
    letters with the same parts in another order, and thus equal descriptors, only the first is
    included.
    """
    covered = set.intersection(*(set(FT2Font(str(face)).get_charmap()) for face in text_faces()))
    letters: dict[frozenset[str], Letter] = {}
    for code in sorted(covered):
        match = _NAME.fullmatch(unicodedata.name(chr(code), ""))
        if match:
            marks = tuple(match[3].lower().split(" and "))
            letter = Letter(chr(code), match[1].lower(), match[2], marks)
            letters.setdefault(frozenset(letter.parts), letter)
    return tuple(letters.values())


def common_letters(letters: Sequence[Letter], at_least: int = 5) -> tuple[Letter, ...]:
    """Drop letters until every remaining ingredient occurs in `at_least` of them."""
    left = tuple(letters)
    while True:
        counts = _counts(left)
        kept = tuple(x for x in left if all(counts[i] >= at_least for i in x.ingredients))
        if len(kept) == len(left):
            return kept
        left = kept


def describe(letters: Sequence[Letter]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Binary descriptors (C, Da) float32 of the parts, and the names of the parts."""
    cases = sorted({x.case for x in letters})
    bases = sorted({x.base for x in letters})
    marks = sorted({mark for x in letters for mark in x.marks})
    parts = (*cases, *bases, *marks)
    rows = [[part in letter.parts for part in parts] for letter in letters]
    return np.array(rows, dtype=np.float32), parts


def unseen_letters(
    letters: Sequence[Letter], fraction: float, rng: np.random.Generator, *, kept: int
) -> np.ndarray:
    """Draw `fraction` of the letters such that the others contain all their ingredients.

    Returns:
        Sorted int64 indices. Each ingredient of a drawn letter occurs in at least `kept` others.

    Raises:
        DataError: there are not enough such letters.
    """
    wanted = round(fraction * len(letters))
    counts = _counts(letters)
    drawn: list[int] = []
    for index in rng.permutation(len(letters)):
        ingredients = letters[index].ingredients
        if len(drawn) < wanted and all(counts[i] > kept for i in ingredients):
            counts.subtract(ingredients)
            drawn.append(int(index))
    if len(drawn) < wanted or not wanted:
        raise DataError(
            f"unseen_fraction {fraction}: expected {wanted} of {len(letters)} letters with parts "
            f"in {kept} seen letters, got {len(drawn)}. Use a smaller fraction or more letters."
        )
    return np.sort(np.array(drawn, dtype=np.int64))


def _counts(letters: Sequence[Letter]) -> Counter[str]:
    return Counter(ingredient for letter in letters for ingredient in letter.ingredients)
