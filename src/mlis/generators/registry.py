"""All generators by name. A new one is a file beside this one, a line here, and a test.

Its name also belongs into the choices of the setting `generation.generator`.
"""

from collections.abc import Callable

from mlis.compute.precision import Arithmetic
from mlis.config import Generation
from mlis.generators.base import FeatureGenerator
from mlis.generators.ridge import fit_ridge
from mlis.generators.wgan_gp.trainer import fit_wgan_gp
from mlis.model.preprocessing import TrainingTensors
from mlis.training.loop import Monitor

GeneratorFit = Callable[[TrainingTensors, Generation, Arithmetic, int, Monitor], FeatureGenerator]
"""Fits a generator to a training split: data, settings, device and precision, seed, monitor."""

GENERATORS: dict[str, GeneratorFit] = {
    "wgan-gp": fit_wgan_gp,
    "ridge": lambda data, settings, *_: fit_ridge(data, settings),  # closed form
}


def fit_generator(
    data: TrainingTensors,
    settings: Generation,
    arithmetic: Arithmetic,
    seed: int,
    monitor: Monitor,
) -> FeatureGenerator:
    """Fit the generator that the settings name, by itself (`schedule="sequential"`)."""
    return GENERATORS[settings.generator](data, settings, arithmetic, seed, monitor)
