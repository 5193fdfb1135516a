"""The embedded dataset: rendered accented Latin letters, some of them unseen.

Classes are the accented Latin letters in all twelve DejaVu text faces bundled with matplotlib. A
letter is described by its Unicode name: LATIN SMALL LETTER U WITH CARON is (small, U, caron).
Unseen letters are new combinations of seen parts: their base letter in that case and each of their
diacritics occur in seen letters. Features are histograms of oriented gradients
(:mod:`mlis.data.letters.hog`); nothing is downloaded or pretrained.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlis.data.dataset import GZSLDataset, Provenance
from mlis.data.letters.alphabet import (
    Letter,
    common_letters,
    covered_letters,
    describe,
    text_faces,
    unseen_letters,
)
from mlis.data.letters.hog import hog
from mlis.data.splits import HELD_OUT_FRACTION, Split, hold_out

_KEPT_FOR_TEST = 4  # seen letters that must contain each part of an unseen letter
_KEPT_FOR_VALIDATION = 2  # the same, without the validation-unseen letters


@dataclass(frozen=True)
class Rendering:
    """Settings of the images, in pixels of a `size` x `size` image."""

    per_face: int = 2  # images of a letter in each face
    size: int = 48
    font_size: int = 30
    shift: float = 1.0  # standard deviation of the shift along each axis
    rotation: float = 4.0  # standard deviation of the rotation, degrees
    noise: float = 10.0  # standard deviation of noise on the grey levels 0 to 255
    cells: int = 6  # HOG cells along each side


@dataclass(frozen=True, eq=False)
class LetterData:
    """The letters as a dataset, with the images of its features.

    Attributes:
        dataset: features (N, Dx), descriptors (C, Da) 0/1, split and validation split.
        images: (N, size, size) uint8, white on black, one per feature row.
        letters: C letters, in class order.
        parts: Da column names of the descriptors.
    """

    dataset: GZSLDataset
    images: np.ndarray
    letters: tuple[Letter, ...]
    parts: tuple[str, ...]


def load_letters(
    *,
    seed: int = 0,
    unseen_fraction: float = 0.2,
    rendering: Rendering | None = None,
    letters: Sequence[Letter] | None = None,
) -> LetterData:
    """Render the letters and split them into seen and unseen; deterministic for a given seed.

    Args:
        seed: of the choice of unseen letters, the distortions and the split of images.
        unseen_fraction: of the letters; the same fraction of the seen letters is unseen in the
            validation split.
        rendering: settings of the images.
        letters: classes; default: :func:`common_letters` of :func:`covered_letters`.

    Raises:
        DataError: `unseen_fraction` is more than the letters that consist of seen parts.
    """
    rendering = rendering or Rendering()
    chosen = tuple(common_letters(covered_letters()) if letters is None else letters)
    choice, distortion, rows = np.random.default_rng(seed).spawn(3)
    unseen = unseen_letters(chosen, unseen_fraction, choice, kept=_KEPT_FOR_TEST)
    images = render(chosen, rendering, distortion)
    labels = np.repeat(np.arange(len(chosen)), rendering.per_face * len(text_faces()))
    descriptors, parts = describe(chosen)
    dataset = GZSLDataset(
        features=hog(images, cells=rendering.cells),
        labels=labels,
        descriptors=descriptors,
        class_names=tuple(letter.name for letter in chosen),
        split=_split(chosen, labels, unseen, unseen_fraction, rows),
        provenance=Provenance(
            name="letters",
            features=f"HOG, {rendering.cells} x {rendering.cells} cells",
            descriptors="parts of the Unicode names",
            files={face.name: _sha256(face) for face in text_faces()},
            notes=(f"rendered; unseen letters and split of images drawn with seed {seed}",),
        ),
    )
    return LetterData(dataset, images, chosen, parts)


def render(letters: Sequence[Letter], rendering: Rendering, rng: np.random.Generator) -> np.ndarray:
    """Draw each letter `per_face` times in each face, shifted, rotated and with noise.

    Returns:
        (len(letters) * 12 * per_face, size, size) uint8, white on black: all images of the
        first letter, face by face, then those of the second.
    """
    fonts = [
        ImageFont.truetype(str(face), rendering.font_size, layout_engine=ImageFont.Layout.BASIC)
        for face in text_faces()
    ]
    glyphs = [_glyph(x.character, font, rendering.size) for x in letters for font in fonts]
    images = np.empty((len(glyphs), rendering.per_face, rendering.size, rendering.size), np.uint8)
    for glyph, copies in zip(glyphs, images, strict=True):
        angles = rng.normal(0, rendering.rotation, rendering.per_face)
        shifts = rng.normal(0, rendering.shift, (rendering.per_face, 2))
        for copy, angle, shift in zip(copies, angles, shifts, strict=True):
            moved = glyph.rotate(
                float(angle), Image.Resampling.BILINEAR, translate=tuple(shift.tolist())
            )
            copy[:] = moved
        noise = rng.normal(0, rendering.noise, copies.shape)
        copies[:] = np.clip(np.rint(copies + noise), 0, 255)
    return images.reshape(-1, rendering.size, rendering.size)


def _glyph(character: str, font: ImageFont.FreeTypeFont, size: int) -> Image.Image:
    """The character on a baseline two thirds down, centred by its advance."""
    glyph = Image.new("L", (size, size))
    where = (size / 2, round(size * 0.71))
    ImageDraw.Draw(glyph).text(where, character, font=font, fill=255, anchor="ms")
    return glyph


def _split(
    letters: Sequence[Letter],
    labels: np.ndarray,
    unseen: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
) -> Split:
    """Hold out images of each seen letter for testing, and again for validation."""
    is_unseen = np.isin(labels, unseen)
    trainval, test_seen = hold_out(np.flatnonzero(~is_unseen), labels, HELD_OUT_FRACTION, rng)
    seen = np.setdiff1d(np.arange(len(letters)), unseen)
    left = [letters[c] for c in seen]
    held = seen[unseen_letters(left, fraction, rng, kept=_KEPT_FOR_VALIDATION)]
    is_held = np.isin(labels[trainval], held)
    train, val_seen = hold_out(trainval[~is_held], labels, HELD_OUT_FRACTION, rng)
    return Split(
        trainval=trainval,
        test_seen=test_seen,
        test_unseen=np.flatnonzero(is_unseen),
        train=train,
        val_seen=val_seen,
        val_unseen=trainval[is_held],
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
