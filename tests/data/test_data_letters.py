"""The embedded letters and their image descriptor."""

import math

import numpy as np
import pytest

from mlis.data.letters.alphabet import (
    Letter,
    common_letters,
    covered_letters,
    text_faces,
)
from mlis.data.letters.dataset import LetterData, Rendering, load_letters, render
from mlis.data.letters.hog import hog
from mlis.errors import DataError

SMALL = Rendering(per_face=2, size=32, font_size=20, cells=4)


@pytest.fixture(scope="module")
def covered() -> tuple[Letter, ...]:
    return covered_letters()


@pytest.fixture(scope="module")
def few(covered: tuple[Letter, ...]) -> tuple[Letter, ...]:
    return common_letters([x for x in covered if x.case == "small" and x.base in "AEOU"])


@pytest.fixture(scope="module")
def data(few: tuple[Letter, ...]) -> LetterData:
    return load_letters(seed=0, rendering=SMALL, letters=few)


# --- the descriptor of images -----------------------------------------------------------------


def hog_by_loops(image: np.ndarray, cells: int, orientations: int) -> np.ndarray:
    """Every pixel votes, one at a time, in Python floats."""
    size = len(image)
    width = size / cells
    histograms = np.zeros((cells, cells, orientations))
    for row in range(size):
        for column in range(size):
            gx = gy = 0.0
            if 0 < column < size - 1:
                gx = (int(image[row, column + 1]) - int(image[row, column - 1])) / 255
            if 0 < row < size - 1:
                gy = (int(image[row + 1, column]) - int(image[row - 1, column])) / 255
            angle = math.degrees(math.atan2(gy, gx)) % 180
            for i in range(cells):
                for j in range(cells):
                    down = max(0.0, 1 - abs(row + 0.5 - (i + 0.5) * width) / width)
                    right = max(0.0, 1 - abs(column + 0.5 - (j + 0.5) * width) / width)
                    if down * right == 0:
                        continue
                    for o in range(orientations):
                        turn = abs(angle - (o + 0.5) * 180 / orientations)
                        turn = min(turn, 180 - turn) / (180 / orientations)
                        vote = max(0.0, 1 - turn) * math.hypot(gx, gy)
                        histograms[i, j, o] += down * right * vote
    blocks = []
    for i in range(cells - 1):
        for j in range(cells - 1):
            block = histograms[i : i + 2, j : j + 2].ravel()
            block = block / math.sqrt(sum(v * v for v in block) + 16)
            blocks.append(np.minimum(block, 0.2) / 0.2)
    return np.concatenate(blocks)


def test_hog_agrees_with_explicit_loops():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 16, 16)).astype(np.uint8)
    bar = np.zeros((1, 16, 16), np.uint8)
    bar[0, 3:12, 5:8] = 255
    images = np.concatenate([noise, bar])
    for cells, orientations in ((4, 9), (3, 5)):
        expected = [hog_by_loops(image, cells, orientations) for image in images]
        actual = hog(images, cells=cells, orientations=orientations)
        np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_hog_is_non_negative_bounded_and_zero_on_an_empty_image():
    images = np.random.default_rng(0).integers(0, 256, (70, 24, 24)).astype(np.uint8)
    images[0] = 128
    features = hog(images, cells=3)
    assert features.dtype == np.float32
    assert features.min() >= 0
    assert features.max() <= 1
    assert not features[0].any()
    assert (features[1:].max(axis=1) > 0).all()


@pytest.mark.parametrize("images", [np.zeros((2, 8, 9), np.uint8), np.zeros((2, 8, 8))])
def test_hog_refuses_what_is_not_square_8_bit(images: np.ndarray):
    with pytest.raises(DataError, match=r"\(N, size, size\) uint8"):
        hog(images)


# --- the letters --------------------------------------------------------------------------------


def test_every_face_has_a_glyph_for_every_letter(covered: tuple[Letter, ...]):
    """Asked of the fonts by another way than the one the letters were found by."""
    ttlib = pytest.importorskip("fontTools.ttLib")
    assert len(text_faces()) == 12
    codes = {ord(letter.character) for letter in covered}
    for face in text_faces():
        with ttlib.TTFont(face) as font:
            assert codes <= font.getBestCmap().keys(), face.name


def test_rendering_repeats_with_its_seed_and_has_the_asked_distortions(few: tuple[Letter, ...]):
    letters = few[:2]
    one = render(letters, SMALL, np.random.default_rng(5))
    assert one.shape == (2 * 12 * 2, 32, 32)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, render(letters, SMALL, np.random.default_rng(5)))
    assert (one != render(letters, SMALL, np.random.default_rng(6))).any()

    still = Rendering(per_face=2, size=32, font_size=20, shift=0, rotation=0, noise=0)
    plain = render(letters, still, np.random.default_rng(0)).reshape(2, 12, 2, 32, 32)
    np.testing.assert_array_equal(plain[:, :, 0], plain[:, :, 1])
    assert (plain[0, 0, 0] != plain[0, 1, 0]).any(), "faces differ"
    assert (plain[0, 0, 0] != plain[1, 0, 0]).any(), "letters differ"


def test_no_letter_is_cut_off_by_the_rim(covered: tuple[Letter, ...]):
    rendering = Rendering(per_face=1, shift=0, rotation=0, noise=0)
    images = render(common_letters(covered), rendering, np.random.default_rng(0))
    rim = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert not rim.any()


# --- the dataset --------------------------------------------------------------------------------


def test_unseen_letters_are_new_combinations_of_seen_parts(data: LetterData):
    seen = {i for c in data.dataset.seen_classes for i in data.letters[c].ingredients}
    assert len(data.dataset.unseen_classes) == round(0.2 * len(data.letters))
    for c in data.dataset.unseen_classes:
        assert set(data.letters[c].ingredients) <= seen


def test_validation_letters_are_new_combinations_too(data: LetterData):
    training, test = data.dataset.for_validation()
    names = {x.name: x for x in data.letters}
    letters = [names[name] for name in training.class_names]
    seen = {i for x, s in zip(letters, training.seen_mask, strict=True) if s for i in x.ingredients}
    held = [x for x, s in zip(letters, training.seen_mask, strict=True) if not s]
    assert len(held) == round(0.2 * len(data.dataset.seen_classes))
    assert all(set(x.ingredients) <= seen for x in held)
    assert not {x.name for x in held} & {names[n].name for n in _unseen_names(data)}
    assert set(np.unique(test.labels)) == set(range(len(letters)))


def test_the_seed_decides_everything(data: LetterData, few: tuple[Letter, ...]):
    again = load_letters(seed=0, rendering=SMALL, letters=few)
    other = load_letters(seed=1, rendering=SMALL, letters=few)
    assert again.dataset.sha256 == data.dataset.sha256
    assert other.dataset.sha256 != data.dataset.sha256
    assert _unseen_names(other) != _unseen_names(data)


def _unseen_names(data: LetterData) -> set[str]:
    return {data.dataset.class_names[c] for c in data.dataset.unseen_classes}
