"""Saves of several files, for test_folders.py: CASES are how to save, and what is then loaded.

`make(version)` saves one of two versions to a folder; `load` returns what tells them apart.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cli_cases import NAMES, small_dataset
from mlis.data.io.feature_folder import ImageFeatures, read_feature_folder, write_feature_folder
from mlis.data.io.folder import load_folder, save_dataset
from mlis.features.descriptors.describe import (
    FORMAT,
    VERSION,
    Descriptors,
    read_descriptors,
    write_descriptors,
)
from mlis.io.checkpoint import load_exemplars, load_model
from mlis.io.hub import save_pretrained
from mlis.storage.folders import replaced_together
from pairs import Pair, trained_pair
from simulated import small, tiny

Save = Callable[[Path], Any]

torch.set_num_threads(1)
MODEL = trained_pair(tiny().for_training(), small(), seed=0)


def renamed(version: int) -> Pair:
    return MODEL.rename({MODEL.class_names[0]: f"version {version}"})


def model(version: int) -> Save:
    return renamed(version).save


def pretrained(version: int) -> Save:
    found = renamed(version)
    kept = None if version else found.exemplars
    return lambda folder: save_pretrained(found.recognizer, folder, kept)


def load_pretrained(folder: Path) -> tuple[str, ...]:
    found = load_model(folder)
    name = found.class_names[0]
    assert load_exemplars(folder) is None or name == "version 0"
    assert name in (folder / "README.md").read_text()
    return found.class_names


def dataset(version: int) -> Save:
    return partial(save_dataset, small_dataset(seed=version))


def features(version: int) -> Save:
    rows = np.full((3, 2), version, np.float32)
    paths = tuple(f"{version}-{i}.png" for i in range(3))
    images = ImageFeatures(rows, paths, ("a", "b", "c"), None, paths, {"name": "x"}, "/photos")

    def save(folder: Path) -> None:
        with replaced_together(folder) as new:
            write_feature_folder(images, new)

    return save


def descriptors(version: int) -> Save:
    vectors = small_dataset(seed=version).descriptors
    record = {"format": FORMAT, "version": VERSION, "kind": "numbers", "attributes": []}
    record |= {"notes": [f"version {version}"], "source": {"name": "x"}}
    made = Descriptors(NAMES, vectors, None, record)
    return lambda folder: write_descriptors(made, folder)


def load_descriptors(folder: Path) -> list:
    found = read_descriptors(folder)
    version = int(found.notes[0].split()[1])
    assert np.array_equal(found.vectors, small_dataset(seed=version).descriptors)
    return [version]


CASES = {
    "model": (model, lambda folder: load_model(folder).class_names),
    "pretrained": (pretrained, load_pretrained),
    "dataset": (dataset, lambda folder: load_folder(folder).sha256),
    "features": (features, lambda folder: read_feature_folder(folder).paths),
    "descriptors": (descriptors, load_descriptors),
}
