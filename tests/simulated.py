"""Simulated data whose answer is known, and the small settings that tests train with.

A class's mean feature is a linear map of its descriptor, shifted to be non-negative; images add
noise and nuisance features that no descriptor explains. What an unseen class looks like is thus
fixed by its descriptor, and by nothing else.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from mlis.config import Config
from mlis.data.dataset import GZSLDataset


def linear_world(
    seed: int = 0,
    *,
    classes: int = 24,
    unseen: int = 6,
    attributes: int = 8,
    signal: int = 24,
    nuisance: int = 8,
    per_class: int = 20,
    noise: float = 0.06,
) -> GZSLDataset:
    """Features (N, signal + nuisance) ≥ 0 whose class means are linear in the descriptors."""
    rng = np.random.default_rng([seed, 77])
    descriptors = rng.normal(size=(classes, attributes))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    look = rng.normal(size=(attributes, signal)) * 0.3
    labels = np.repeat(np.arange(classes), per_class)
    features = 1 + descriptors[labels] @ look + noise * rng.normal(size=(len(labels), signal))
    features = np.concatenate([features, rng.random((len(labels), nuisance))], axis=1)
    return dataset(features, labels, descriptors, range(classes - unseen, classes), seed)


def regions_world(
    seed: int = 0, *, regions: int = 4, classes: int = 24, unseen: int = 6, noise: float = 0.1
) -> GZSLDataset:
    """Features (N, R · 24) ≥ 0: each attribute of a class is to be seen in one region, any one."""
    rng = np.random.default_rng([seed, 79])
    descriptors = (rng.random((classes, 8)) < 0.5) + 0.05 * rng.random((classes, 8))
    look = rng.normal(size=(8, 24)) * 0.4
    labels = np.repeat(np.arange(classes), 20)
    features = 1 + noise * rng.normal(size=(len(labels), regions, 24))
    for attribute, pattern in enumerate(look):
        place = rng.integers(0, regions, len(labels))
        features[np.arange(len(labels)), place] += descriptors[labels, attribute, None] * pattern
    data = dataset(
        features.reshape(len(labels), -1),
        labels,
        descriptors,
        range(classes - unseen, classes),
        seed,
    )
    return of_regions(data, regions)


def of_regions(data: GZSLDataset, regions: int) -> GZSLDataset:
    """The same data, whose rows are said to be of so many regions."""
    sources = {**data.provenance.sources, "backbone": {"name": "simulated", "regions": regions}}
    return replace(data, provenance=replace(data.provenance, sources=sources))


def hidden_direction_world(seed: int = 0, *, per_class: int = 24) -> GZSLDataset:
    """Seen classes are told apart by loud features; the unseen ones only by a quiet one.

    The loud features repeat a code of the seen class without noise. The quiet ones vary *within*
    the seen classes almost as much as between them, so that a metric loss on h alone gains by
    throwing them away; but they are what the unseen classes differ in.
    """
    rng = np.random.default_rng([seed, 78])
    seen, unseen, quiet = 16, 8, 6
    code = np.eye(4)
    loud = np.concatenate([code[np.arange(seen) % 4], code[np.arange(unseen) % 2]])
    patterns = rng.permutation(2**quiet)[: seen + unseen]
    bits = (patterns[:, None] >> np.arange(quiet)) % 2
    descriptors = np.concatenate([loud, bits], axis=1)
    labels = np.repeat(np.arange(seen + unseen), per_class)
    n = len(labels)
    features = np.concatenate(
        [
            np.repeat(loud[labels], 6, axis=1) + 0.02 * rng.random((n, 24)),
            0.4 + 0.3 * bits[labels] + 0.08 * rng.normal(size=(n, quiet)),
        ],
        axis=1,
    )
    return dataset(features, labels, descriptors, range(seen, seen + unseen), seed)


def dataset(features, labels, descriptors, unseen, seed: int) -> GZSLDataset:
    return GZSLDataset.from_arrays(
        np.maximum(features, 0).astype(np.float32),
        labels,
        descriptors.astype(np.float32),
        unseen_classes=list(unseen),
        seed=seed,
        test_fraction=0.3,
        name="simulated",
    )


SMALL: dict[str, dict[str, Any]] = {
    "preprocessing": {"feature_transform": "none"},
    "generation": {
        "ridge_kernel": "linear",
        "ridge_lambda": 0.1,
        "ridge_neighbours": 5,
        "generator_init": "cold",
        "steps": 5,
        "batch_size": 16,
        "hidden": 12,
        "noise": 4,
        "learning_rate": 1e-3,
        "critic_steps": 2,
    },
    "refinement": {
        "margin": 0.25,
        "gamma": 80.0,
        "semantic_scale": 1.0,
        "cross_entropy_weight": 1.0,
        "steps": 6,
        "classes_per_batch": 5,
        "samples_per_class": 3,
        "hidden": 10,
        "learning_rate": 1e-3,
    },
    "classification": {
        "synthetic_per_unseen": 5,
        "weight_decay": 1e-5,
        "tolerance": 0.01,  # most of the time of a tiny training is spent in stage 2
        "calibration": 0.0,
    },
}


def small(precision: str = "float32", **sections: Any) -> Config:
    """Tiny settings, with changes: small(generation={"generator": "ridge"})."""
    return Config(precision=precision).replace(SMALL).replace(sections)


def tiny(seed: int = 0) -> GZSLDataset:
    """A data set that trains in milliseconds: 9 classes, 3 unseen, Dx 9, Da 4."""
    return linear_world(seed, classes=9, unseen=3, attributes=4, signal=6, nuisance=3, per_class=8)


def noise_for_test_rows(data: GZSLDataset) -> GZSLDataset:
    """The same data with other features and labels in all test rows."""
    rng = np.random.default_rng(0)
    features, labels = data.features.copy(), data.labels.copy()
    for rows in (data.split.test_seen, data.split.test_unseen):
        features[rows] = rng.random((len(rows), features.shape[1])) * 100
        labels[rows] = rng.permutation(labels[rows])
    return replace(data, features=features, labels=labels)
