"""Does a text say anything that can be seen: colours, patterns, textures, shapes, sizes, parts.

English only. A word counts if it, or what is left without a common ending, is listed. Words that
are as common elsewhere (back, hard, light, numbers) are not.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_LISTED = """
amber azure beige black blue bluish bronze brown chestnut copper cream crimson cyan golden gold
gray green grey indigo ivory khaki lavender lemon lilac magenta maroon mauve navy ochre olive
orange peach pink purple red rose rosy ruby russet rust salmon sandy scarlet silver silvery tan
tawny teal turquoise vermilion violet white yellow pale dark bright vivid dull colour
color tinge tint

banded barred blotch bordered chequered checkered dappled dotted dot edged fleck freckle line
lined marbled marking mask mottled patch pattern plain ring ringed scale scaly speckle spot
spotted streak stripe striped tinged tip tipped vein veined

bare bristle bristly bumpy coarse crumpled downy feather feathery fleshy fluffy furry fuzzy
glossy hairy hairless leathery matt metallic papery polished prickly rough ruffled scaled
shaggy shiny silken silky slimy smooth soft sparkling spiky spine spiny stiff thorny transparent
translucent velvet velvety waxy wet wiry woolly woody wrinkled

angular arched arrow ball beaked bell bent blunt bowl boxy branched brush bulbous bushy button
circle circular climbing cluster clustered cone conical cross crescent cup curled curly curved
cylinder cylindrical dense diamond disc disk divided dome domed drooping droopy egg elongated
flat forked fringed funnel globe hanging heart helmet hexagonal hollow hooked hood hooded
horizontal hump humped inflated jagged layered lobe lobed loop lance nodding notched oblong oval
overlapping plume pointed pointy pouch rectangular ridged round rounded scalloped serrated
shallow shape shaped sharp slender slit spherical spike spiral square star straight streamlined
sword swollen tapered tapering torch triangle triangular trumpet tube tubular tuft twisted
upright urn vertical wavy wedge zigzag

big broad bulky chubby compact deep enormous fine giant gigantic heavy huge large long low
massive medium miniature narrow plump short slim small squat stocky stout tall thick thin tiny
wide double triple row pair

antenna antler arm armour beak belly bill blade body bone bract bud bulb
calyx cap cheek chest chin claw coat collar corolla crest crown dorsal ear eye eyebrow eyelash
face fang feeler fin finger fist flank flipper floret foot foliage forehead frond fur hand
handle hair head heel hoof hooves horn jaw knee leaf leaves leafless leg lid limb lip mane mouth
muzzle neck nose nostril paw petal plate pod rays rim roof root rump sepal shell shoulder sheath
skin snout spur stalk stamen stem stigma stinger tail talon teeth tendril throat tongue tooth
trunk tusk udder wall webbed wheel whisker window wing wingspan wool door engine barrel
screen sleeve zip chimney column arch tower

metal wooden stone glass brick plastic concrete leather ceramic
"""
LEAST = 2
"""Different visual words below which a description says little."""
_WORDS = frozenset(_LISTED.split())
_ENDINGS = ("s", "es", "ed", "ish", "y", "er", "est", "like", "less")


def visual_words(text: str) -> list[str]:
    """The words of a text that say something visible, in order.

    >>> visual_words("A bluish, star-shaped flower with five petals")
    ['bluish', 'star', 'shaped', 'petals']
    >>> visual_words("A popular plant, first described by Linnaeus in 1753")
    []
    """
    return [word for word in re.findall(r"[a-z]+", text.casefold()) if _is_visual(word)]


def _is_visual(word: str) -> bool:
    if word in _WORDS:
        return True
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 3:
            continue
        doubled = stem[-1] == stem[-2]  # furry, spotted
        dropped = len(stem) > 3  # spiky, larger
        if (
            stem in _WORDS
            or (doubled and stem[:-1] in _WORDS)
            or (dropped and stem + "e" in _WORDS)
        ):
            return True
    return False


def says_little(sentences: Sequence[str]) -> bool:
    """Whether the sentences have fewer than `LEAST` different visual words together."""
    return len({word for text in sentences for word in visual_words(text)}) < LEAST


def known_texts(sources: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Sentences by class name, where `Provenance.sources` or a model's metadata keep them."""
    return (sources.get("descriptors") or {}).get("texts") or {}
