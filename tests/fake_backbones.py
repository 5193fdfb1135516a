"""Backbones without a network: features that a test can compute by itself."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from mlis.data.io.feature_folder import read_feature_folder
from mlis.features.backbones.base import BackboneSpec
from mlis.features.descriptors.text_model import TextModel

SIDE = 4


class Colours:
    """A backbone whose features are the colours of an image made 4 × 4; it counts its images."""

    batch, enough, precision, on_cpu = 3, None, "float32", True

    def __init__(self, weights: str = "one"):
        self.identity = BackboneSpec("colours", weights, "resize", "none", SIDE * SIDE * 3)
        self.images = 0

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        self.images += len(inputs)
        return np.stack(inputs).reshape(len(inputs), -1).astype(np.float32)


def write_images(folder: Path, names: Sequence[str], first: int = 0) -> None:
    """Plain images, each of another colour."""
    for i, name in enumerate(names, first):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (i % 256, i // 256, 90)).save(folder / name)


def names(count: int) -> list[str]:
    return [f"{'ab'[i % 2]}/{i:03d}.png" for i in range(count)]


def colours(folder: Path, path: str) -> np.ndarray:
    """The features that the fake backbone must give."""
    return Colours()([Colours().prepare(Image.open(folder / path).convert("RGB"))])[0]


def check(images: Path, output: Path, expected: Sequence[str]) -> None:
    """The folder of features holds these images, each in its own row."""
    table = read_feature_folder(output)
    assert table.paths == tuple(sorted(expected))
    assert table.classes == tuple(path.split("/")[0] for path in table.paths)
    for path, row in zip(table.paths, table.features, strict=True):
        np.testing.assert_array_equal(row, colours(images, path))


class Letters:
    """A text model whose vectors count letters; the longest sentence it reads has 20."""

    longest = 20

    def encode(self, sentences):
        counts = [[text.count(letter) for letter in "abcdefgh"] for text in sentences]
        rows = np.array(counts, dtype=np.float32) + 0.1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    cut = TextModel.cut
    describe = TextModel.describe

    def __init__(self):
        self.identity = BackboneSpec("letters", "w", "p", "count", 8)
        self._model = SimpleNamespace(tokenizer=lambda texts: {"input_ids": texts})
