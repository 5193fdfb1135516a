"""The protocol: choose on validation classes, retrain on all training rows, test once.

`H@val`: nothing that was measured on a test image influences training or a choice. The validation
split holds classes out of the *training* classes, so that it asks the same question as the test:
how well are classes without images recognised?
"""

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlis.config import Config
from mlis.data.dataset import GZSLDataset, TestSplit, TrainingSplit
from mlis.encoder.metric_losses import EmbeddingLoss
from mlis.evaluation import Evaluation, best_calibration, evaluate
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit
from mlis.provenance import generation_key
from mlis.training.generator_cache import StoredGenerator, attempted
from mlis.training.loop import Monitor

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fitted:
    """One training.

    Attributes:
        recognizer: as :func:`mlis.pipeline.fit` gives it.
        seconds: wall time of this training in this process.
        reused: whether the generator came from the cache.
    """

    recognizer: Recognizer
    seconds: float
    reused: bool


@dataclass(frozen=True, eq=False)
class Trained:
    """A calibrated recognizer and what its training cost.

    Attributes:
        recognizer: trained on all training rows, calibrated.
        seconds: wall time in this process, validation run included.
        reused: whether a generator, of the training or of its validation run, came from the cache.
        validation: measures of the validation run at the chosen constant; None without one.
    """

    recognizer: Recognizer
    seconds: float
    reused: bool
    validation: Evaluation | None


def fit_reusing(
    training: TrainingSplit,
    config: Config,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    monitor: Monitor | None = None,
    loss: EmbeddingLoss | None = None,
    reuse: bool = True,
    growable: bool = False,
) -> Fitted:
    """Train with :func:`mlis.pipeline.fit`, the generator taken from the store if it is there.

    Args:
        training, config, seed, device, monitor, loss, growable: as `fit` takes them.
        reuse: whether a generator may come from the user's cache folder, and is left there
            (:mod:`mlis.training.generator_cache`); it never changes the result.
    """
    monitor = monitor or Monitor()
    started = time.perf_counter()

    def train(monitor: Monitor) -> Recognizer:
        return fit(
            training,
            config,
            seed=seed,
            device=device,
            monitor=monitor,
            loss=loss,
            growable=growable,
        )

    if not reuse:
        return Fitted(train(monitor), time.perf_counter() - started, reused=False)
    key = generation_key(training, config, seed, device)
    with StoredGenerator(monitor, key) as store:
        recognizer = attempted(lambda: train(store), store)
    return Fitted(recognizer, time.perf_counter() - started, store.reused)


def fit_and_calibrate(
    dataset: GZSLDataset,
    config: Config,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    monitor: Monitor | None = None,
    validation_monitor: Monitor | None = None,
    loss: EmbeddingLoss | None = None,
    reuse: bool = False,
    growable: bool = True,
) -> Trained:
    """Train on `dataset`'s training rows; with `calibration="validation"` find the constant first.

    The constant is the one with the best H on the validation classes, for a recognizer trained
    with the same settings and seed while those classes were held out. Test rows are not touched.
    With `reuse` trained generators are taken from the user's cache folder and left there
    (:mod:`mlis.training.generator_cache`), which saves their training and changes no result. With
    `growable` the recognizer keeps what adding classes needs
    (:mod:`mlis.incremental.exemplar_buffer`).

    Raises:
        DataError: calibration on validation is asked for and the dataset has no validation split.
    """
    started = time.perf_counter()
    common: dict[str, Any] = {"seed": seed, "device": device, "loss": loss, "reuse": reuse}
    constant, validation, reused = config.classification.calibration, None, False
    if constant == "validation":
        training, held_out = dataset.for_validation()
        rehearsal = fit_reusing(training, config, monitor=validation_monitor, **common)
        constant, validation = _calibrate(rehearsal.recognizer, held_out)
        reused = rehearsal.reused
        del training, held_out, rehearsal  # before the training rows are loaded
    fitted = fit_reusing(
        dataset.for_training(), config, monitor=monitor, growable=growable, **common
    )
    recognizer = dataclasses.replace(
        fitted.recognizer, calibration=float(constant), sources=dataset.provenance.sources
    )
    seconds = time.perf_counter() - started
    return Trained(recognizer, seconds, reused or fitted.reused, validation)


def _calibrate(recognizer: Recognizer, held_out: TestSplit) -> tuple[float, Evaluation]:
    """The constant with the best H on the validation classes, and the measures with it."""
    scores = recognizer.scores(held_out.features)
    constant = best_calibration(scores, held_out.labels, held_out.seen_mask)
    np.subtract(scores, constant, out=scores, where=held_out.seen_mask)  # no copy of the scores
    validation = evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
    logger.info("calibration %.4f chosen on validation: %s", constant, validation)
    return float(constant), validation


def test_once(recognizer: Recognizer, dataset: GZSLDataset) -> Evaluation:
    """Measure a trained recognizer on the test rows."""
    test = dataset.for_testing()
    return evaluate(recognizer.scores(test.features), test.labels, test.seen_mask, test.class_names)


test_once.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  (not for pytest)
