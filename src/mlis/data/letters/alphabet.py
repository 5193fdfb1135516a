"""The accented Latin letters that matplotlib's fonts cover, and what they are made of.

A letter's Unicode name is its description: LATIN SMALL LETTER U WITH CARON is (small, U, caron).
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
    """One class: a character and the parts that its Unicode name lists.

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
        """The parts that a description is made of: case, base letter, diacritics."""
        return (self.case, self.base, *self.marks)

    @property
    def ingredients(self) -> tuple[str, ...]:
        """What seen letters must show: the base letter in this case, and each diacritic."""
        return (f"{self.case} {self.base}", *self.marks)

    @property
    def described_base(self) -> str:
        """The base letter in words, such as "small u"."""
        return f"{self.case} {self.base if self.case == 'capital' else self.base.lower()}"

    @property
    def description(self) -> str:
        """The letter in words, such as "small u with caron"."""
        return f"{self.described_base} with {' and '.join(self.marks)}"


def text_faces() -> tuple[Path, ...]:
    """Font files of the twelve DejaVu text faces bundled with matplotlib, in name order."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = tuple(p for p in sorted(folder.glob("DejaVu*.ttf")) if "Display" not in p.name)
    if len(faces) != 12:
        raise DataError(
            f"expected the 12 DejaVu text faces in {folder}, but found {len(faces)}: "
            "reinstall matplotlib with its font files"
        )
    return faces


def covered_letters() -> tuple[Letter, ...]:
    """Every accented Latin letter that all text faces cover, in code point order.

    Accented: its Unicode name is LATIN (SMALL|CAPITAL) LETTER (A-Z) WITH diacritics. Of letters
    whose names list the same parts in another order only the first is taken: their descriptors
    would be equal.
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
    """Drop letters until every ingredient that is left occurs in `at_least` of them."""
    left = tuple(letters)
    while True:
        counts = _counts(left)
        kept = tuple(x for x in left if all(counts[i] >= at_least for i in x.ingredients))
        if len(kept) == len(left):
            return kept
        left = kept


def describe(letters: Sequence[Letter]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Descriptors (C, Da) float32, 1 where a letter has the part, and the parts' names."""
    cases = sorted({x.case for x in letters})
    bases = sorted({x.base for x in letters})
    marks = sorted({mark for x in letters for mark in x.marks})
    parts = (*cases, *bases, *marks)
    rows = [[part in letter.parts for part in parts] for letter in letters]
    return np.array(rows, dtype=np.float32), parts


def unseen_letters(
    letters: Sequence[Letter], fraction: float, rng: np.random.Generator, *, kept: int
) -> np.ndarray:
    """Draw `fraction` of the letters such that what is left shows all their ingredients.

    Returns:
        Sorted int64 indices. Each ingredient of a drawn letter is left in `kept` others.

    Raises:
        DataError: there are not that many such letters.
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
            f"unseen_fraction {fraction} of {len(letters)} letters is {wanted}, but "
            f"{len(drawn)} can be composed of parts that {kept} seen letters show: "
            "take another fraction or more letters"
        )
    return np.sort(np.array(drawn, dtype=np.int64))


def _counts(letters: Sequence[Letter]) -> Counter[str]:
    return Counter(ingredient for letter in letters for ingredient in letter.ingredients)
