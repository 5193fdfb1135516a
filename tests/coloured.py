"""Photographs of one colour, a fake image model that sees it, and a recognizer of both."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.features.backbones.base import BackboneSpec
from mlis.features.build import build
from mlis.features.descriptors.class_descriptions import read_descriptions
from mlis.features.descriptors.describe import describe
from mlis.features.images.extract import extract
from mlis.features.images.files import find_images
from mlis.incremental import ExemplarBuffer
from mlis.methods.mlis import MLIS
from mlis.model.recognizer import Recognizer

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (20, 40, 230),
    "pink": (240, 150, 160),
    "yellow": (230, 220, 30),
    "orange": (240, 130, 30),
}
UNSEEN = {"cyan": (30, 220, 220)}
LATER = {"magenta": (220, 30, 220)}
CONFIG = Config.from_dict(
    {
        "precision": "float32",
        "generation": {"generator": "ridge"},
        "refinement": {
            "steps": 20,
            "hidden": 16,
            "classes_per_batch": 4,
            "samples_per_class": 3,
        },
        "classification": {"synthetic_per_unseen": 20, "calibration": 1.0},
    }
)


class Colours:
    """A backbone whose features are the mean colours of the quarters of an image."""

    batch, enough, precision, on_cpu = 3, None, "float32", True

    def __init__(self, weights: str = "one", name: str = "colours"):
        self.identity = BackboneSpec(name, weights, "resize", "none", 12)

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((2, 2), Image.Resampling.BOX))

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(inputs).reshape(len(inputs), -1).astype(np.float32)


def picture(colour: tuple[int, int, int], seed: int = 0) -> Image.Image:
    """A noisy picture of one colour."""
    noise = np.random.default_rng(seed).normal(colour, 25, (20, 30, 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def write_pictures(root: Path, colours: Mapping[str, tuple[int, int, int]], count: int) -> None:
    for name, colour in colours.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(colour, i).save(root / name / f"{i}.png")


def write_table(path: Path, colours: Mapping[str, tuple[int, int, int]]) -> Path:
    """Colours as attributes of classes."""
    lines = [f"{name},{r},{g},{b}" for name, (r, g, b) in colours.items()]
    path.write_text("\n".join(["name,red,green,blue", *lines]) + "\n", encoding="utf-8")
    return path


def coloured_dataset(folder: Path) -> GZSLDataset:
    """A dataset of pictures and a table, made as `mlis data build` makes it."""
    write_pictures(folder / "pictures", COLOURS, 12)
    write_pictures(folder / "pictures", UNSEEN, 4)
    text = write_table(folder / "classes.csv", COLOURS | UNSEEN).read_text(encoding="utf-8")
    head, *rows = text.splitlines()
    rows = [f"{row},{'unseen' if row.split(',')[0] in UNSEEN else 'seen'}" for row in rows]
    (folder / "classes.csv").write_text("\n".join([f"{head},split", *rows]) + "\n")
    found = extract(find_images(folder / "pictures"), Colours(), folder / "features").images
    return build(found, describe(read_descriptions(folder / "classes.csv"), None), name="coloured")


def coloured_model(folder: Path) -> tuple[Recognizer, ExemplarBuffer | None]:
    """Recognises the seen colours and cyan."""
    trained = MLIS(CONFIG).choose(coloured_dataset(folder), seed=0, device="cpu")
    return trained.recognizer, trained.exemplars
