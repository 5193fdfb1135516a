"""All generators by name. A new one is a file beside this one, a line here, and a test.

Its name also belongs into the choices of the setting `generation.generator`.
"""

from collections.abc import Callable, Sequence

from mlis.compute.precision import Precision
from mlis.config import Generation
from mlis.generators.base import FeatureGenerator
from mlis.generators.ridge import fit_ridge
from mlis.generators.vae_gan.f_vaegan import fit_f_vaegan
from mlis.generators.wgan_gp.trainer import fit_wgan_gp
from mlis.model.preprocessing import TrainingTensors
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore

GeneratorFit = Callable[
    [TrainingTensors, Generation, Precision, int, Sequence[Callback], CheckpointStore | None],
    FeatureGenerator,
]
"""Fits a generator: data, settings, device and precision, seed, callbacks, snapshots."""

GENERATORS: dict[str, GeneratorFit] = {
    "wgan-gp": fit_wgan_gp,
    "ridge": lambda data, settings, *_: fit_ridge(data, settings),
    "f-vaegan": fit_f_vaegan,
}

CLOSED_FORM = frozenset({"ridge"})
"""Generators that are solved in a moment: neither snapshots nor the cache keep them."""


def fit_generator(
    data: TrainingTensors,
    settings: Generation,
    precision: Precision,
    seed: int,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
) -> FeatureGenerator:
    """Fit the generator that the settings name, by itself (`schedule="sequential"`)."""
    fit = GENERATORS[settings.generator]
    return fit(data, settings, precision, seed, callbacks, checkpoints)
