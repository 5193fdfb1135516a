"""Made-up training data in the shapes of the benchmarks. Only sizes matter here, not values."""

from dataclasses import dataclass

import torch

from mlis import presets
from mlis.compute.precision import Precision
from mlis.config import Config, resolve
from mlis.model.preprocessing import TrainingTensors


@dataclass(frozen=True)
class Shape:
    """Sizes of a benchmark with 2048-d features (Table 1 of the paper; descriptor sizes)."""

    seen: int
    unseen: int
    rows: int
    descriptor: int
    features: int = 2048


SHAPES = {
    "CUB": Shape(150, 50, 7057, 1024),
    "AWA2": Shape(40, 10, 23527, 85),
    "SUN": Shape(645, 72, 10320, 102),
    "FLO": Shape(82, 20, 5631, 1024),
    "aPY": Shape(20, 12, 5932, 64),
    "tiny": Shape(6, 2, 48, 5, 12),  # to see in a second that a benchmark runs
}

TINY = {
    "generation": {"hidden": 16, "noise": 4, "batch_size": 8, "generator_init": "cold"},
    "refinement": {"hidden": 10, "classes_per_batch": 4, "samples_per_class": 3},
    "classification": {"synthetic_per_unseen": 12},
}


def settings(name: str, **changes: object) -> Config:
    """The preset at the paper's sizes: hidden 4096, 5 critic steps, circle + IS + SFR."""
    if name == "tiny":
        return resolve(TINY, changes)
    paper = {"generation": {"hidden": 4096, "generator_init": "cold"}}
    return resolve(presets.load(name), paper, changes)


def tensors(shape: Shape, precision: Precision, seed: int = 0) -> TrainingTensors:
    """Random non-negative features and unit descriptors of that shape."""
    rng = torch.Generator().manual_seed(seed)
    classes = shape.seen + shape.unseen
    y = torch.cat(
        (
            torch.arange(shape.seen).repeat(2),
            torch.randint(shape.seen, (shape.rows,), generator=rng),
        )
    )[: shape.rows]
    x = torch.rand((shape.rows, shape.features), generator=rng)
    descriptors = torch.rand((classes, shape.descriptor), generator=rng)
    return TrainingTensors(
        x=precision.tensor(x),
        y=y.to(precision.device),
        descriptors=precision.tensor(torch.nn.functional.normalize(descriptors, dim=1)),
        seen=torch.arange(shape.seen, device=precision.device),
        unseen=torch.arange(shape.seen, classes, device=precision.device),
    )
