"""The protocol: choose on validation classes, retrain on all training rows, test once.

`H@val`: nothing that was measured on a test image influences training or a choice. The validation
split holds classes out of the *training* classes, so that it asks the same question as the test:
how well are classes without images recognised?
"""

import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlis.config import Config
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.data.splits import ENOUGH_CLASSES, validation_splits
from mlis.encoder.metric_losses import EmbeddingLoss
from mlis.evaluation import Evaluation, common_constant, evaluate, seen_unseen_curve
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
    Where the validation split holds out fewer than 10 classes, up to four more trainings hold out
    others, and the constant is one that all of them support
    (:func:`mlis.evaluation.common_constant`); of a single class there is none.
    With `reuse` trained generators are taken from the user's cache folder and left there
    (:mod:`mlis.training.generator_cache`), which saves their training and changes no result. With
    `growable` the recognizer keeps what adding classes needs
    (:mod:`mlis.incremental.exemplar_buffer`).

    Raises:
        DataError: calibration on validation is asked for and the dataset has no validation split.
    """
    started = time.perf_counter()
    config = _with_constant_of(dataset, config)
    common: dict[str, Any] = {"seed": seed, "device": device, "loss": loss, "reuse": reuse}
    constant, validation, reused = config.classification.calibration, None, False
    if constant == "validation":
        constant, validation, reused = _calibrate(dataset, config, validation_monitor, common)
    fitted = fit_reusing(
        dataset.for_training(), config, monitor=monitor, growable=growable, **common
    )
    recognizer = dataclasses.replace(
        fitted.recognizer, calibration=float(constant), sources=dataset.provenance.sources
    )
    seconds = time.perf_counter() - started
    return Trained(recognizer, seconds, reused or fitted.reused, validation)


@dataclass(frozen=True, eq=False)
class _Rehearsal:
    """Scores of what a validation split held out; the rows themselves are let go."""

    scores: np.ndarray
    labels: np.ndarray
    seen_mask: np.ndarray
    class_names: tuple[str, ...]
    reused: bool


def _rehearse(
    fold: GZSLDataset, config: Config, monitor: Monitor | None, common: Mapping[str, Any]
) -> _Rehearsal:
    training, held_out = fold.for_validation()
    fitted = fit_reusing(training, config, monitor=monitor, **common)
    scores = fitted.recognizer.scores(held_out.features)
    labels, names = held_out.labels, held_out.class_names
    return _Rehearsal(scores, labels, held_out.seen_mask, names, fitted.reused)


def _calibrate(
    dataset: GZSLDataset, config: Config, monitor: Monitor | None, common: Mapping[str, Any]
) -> tuple[float, Evaluation, bool]:
    """The constant, the dataset's own validation split measured with it, and what was reused."""
    dataset.for_validation()  # says so where there is none
    splits = validation_splits(dataset.split, dataset.labels)
    folds = [dataset, *(dataclasses.replace(dataset, split=split) for split in splits[1:])]
    # further splits are of few classes: they train without snapshots
    found = [
        _rehearse(fold, config, None if index else monitor, common)
        for index, fold in enumerate(folds)
    ]
    curves = [seen_unseen_curve(one.scores, one.labels, one.seen_mask) for one in found]
    classes = len({name for one in found for name in _held_out_names(one)})
    constant = common_constant(curves) if classes > 1 else 0.0
    best = [float(curve.H[np.searchsorted(curve.knots, constant)]) for curve in curves]
    if classes < ENOUGH_CLASSES:
        logger.warning(
            "calibration %.4g was chosen on %d held-out classes alone (H %s in %d validation "
            "splits): expected at least %d. Bring more classes, or set "
            "classification.calibration to a number.",
            constant,
            classes,
            ", ".join(f"{H:.1f}" for H in best),
            len(folds),
            ENOUGH_CLASSES,
        )
    own = found[0]
    np.subtract(own.scores, constant, out=own.scores, where=own.seen_mask)  # no copy
    validation = evaluate(own.scores, own.labels, own.seen_mask, own.class_names)
    if len(folds) > 1:
        note = f"calibration chosen on {len(folds)} splits that hold out {classes} classes"
        validation = dataclasses.replace(validation, notes=(*validation.notes, note))
    logger.info("calibration %.4f chosen on validation: %s", constant, validation)
    return constant, validation, any(one.reused for one in found)


def _held_out_names(one: _Rehearsal) -> list[str]:
    return [name for name, seen in zip(one.class_names, one.seen_mask, strict=True) if not seen]


def test_once(recognizer: Recognizer, dataset: GZSLDataset) -> Evaluation:
    """Measure a trained recognizer on the test rows."""
    test = dataset.for_testing()
    return evaluate(recognizer.scores(test.features), test.labels, test.seen_mask, test.class_names)


test_once.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  (not for pytest)


def _with_constant_of(dataset: GZSLDataset, config: Config) -> Config:
    """The settings, with constant 0 where validation has no image to choose one by.

    Of classes with a single image none is held out.
    """
    if config.classification.calibration != "validation" or not dataset.split.has_validation:
        return config
    if dataset.split.val_seen.size:
        return config
    logger.warning(
        "calibration constant: expected validation images of seen classes, got none. It is 0; "
        "bring more images of a class, or set classification.calibration to a number."
    )
    return config.replace({"classification": {"calibration": 0.0}})
