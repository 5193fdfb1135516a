"""Whether described classes and the folders of images have the same names."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from mlis.data.labels import plain, shorten

_LONGEST = 60  # characters of a name that are compared


@dataclass(frozen=True)
class Unmatched:
    """A name on one side that is not on the other, letter for letter.

    Attributes:
        name: of a class.
        side: "images" where it has images and no description, "words" the other way round.
        near: the name on the other side that it may be meant for; empty if none is near.
    """

    name: str
    side: str
    near: str


def unmatched(of_images: Sequence[str], of_words: Sequence[str]) -> list[Unmatched]:
    """What has no partner, names with images first.

    A name that is near is looked for among those that have no partner either.

    >>> unmatched(["daisy", "Rose"], ["rose", "daisy", "tulip"])[0]
    Unmatched(name='Rose', side='images', near='rose')
    """
    images, words = set(of_images), set(of_words)
    alone_images, alone_words = sorted(images - words), sorted(words - images)
    return [
        *(Unmatched(name, "images", _near(name, alone_words)) for name in alone_images),
        *(Unmatched(name, "words", _near(name, alone_images)) for name in alone_words),
    ]


def _near(name: str, others: Sequence[str]) -> str:
    forms = {plain(other[:_LONGEST]): other for other in others}
    close = difflib.get_close_matches(plain(name[:_LONGEST]), forms, n=1, cutoff=0.7)
    return forms[close[0]] if close else ""


def without_description(found: Sequence[Unmatched]) -> str:
    """One line that names the classes with images and no description; empty if there are none."""
    lost = [each for each in found if each.side == "images"]
    if not lost:
        return ""
    near = [f"{each.name!r} may be {each.near!r}" for each in lost if each.near]
    hint = f" ({'; '.join(near[:6])}{'; …' if len(near) > 6 else ''})" if near else ""
    names = shorten([each.name for each in lost])
    return f"{len(lost)} classes have images and no description: {names}{hint}"
