"""The protocol: choose on validation classes, retrain on all training rows, test once.

`H@val`: nothing that was measured on a test image influences training or a choice. The validation
split holds classes out of the *training* classes, so that it asks the same question as the test:
how well are classes without images recognised?
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlis.config import Config
from mlis.data.dataset import GZSLDataset, TestSplit
from mlis.data.splits import ENOUGH_CLASSES, validation_splits
from mlis.encoder.metric_losses import EmbeddingLoss
from mlis.evaluation import Evaluation, common_constant, evaluate, seen_unseen_curve
from mlis.model.recognizer import Metadata, Recognizer
from mlis.pipeline import Trained, fit
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore

logger: logging.Logger = logging.getLogger(__name__)


def fit_and_calibrate(
    dataset: GZSLDataset,
    config: Config,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    loss: EmbeddingLoss | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
    validation_callbacks: Sequence[Callback] = (),
    validation_checkpoints: CheckpointStore | None = None,
    reuse: bool = False,
    exemplars: bool = True,
) -> Trained:
    """Train on `dataset`'s training rows; with `calibration="validation"` find the constant first.

    The constant is the one with the best H on the validation classes, for a recognizer trained
    with the same settings and seed while those classes were held out. Test rows are not used.
    If the validation split holds out fewer than 10 classes, up to four more trainings hold out
    others, and the constant is one that all of them support
    (:func:`mlis.evaluation.common_constant`); with a single held-out class it is 0.

    Args:
        dataset: the training rows are used, and no test row.
        config, seed, device, loss, callbacks, checkpoints, reuse, exemplars: as for
            :func:`mlis.pipeline.fit`.
        validation_callbacks, validation_checkpoints: of the training that holds out the dataset's
            own validation classes. The further ones are of few classes and keep no snapshots.

    Raises:
        DataError: `calibration="validation"`, and the dataset has no validation split.
        DivergenceError, OutOfMemoryError, SettingsError: as for :func:`mlis.pipeline.fit`.
    """
    started = time.perf_counter()
    config = _with_constant_of(dataset, config)
    common: dict[str, Any] = {"seed": seed, "device": device, "loss": loss, "reuse": reuse}
    constant, validation, reused = config.classification.calibration, None, False
    if constant == "validation":
        hooks: dict[str, Any] = {
            "callbacks": validation_callbacks,
            "checkpoints": validation_checkpoints,
        }
        held_out: list[_HeldOut] = []
        for fold in _folds(dataset):
            training, rows = fold.for_validation()
            trained = fit(training, config, exemplars=False, **common, **hooks)
            held_out.append(_HeldOut.of(trained.recognizer, rows))
            reused, hooks = reused or trained.reused, {}
            del training, rows, trained  # the next training needs the memory
        constant, validation = _calibrate(held_out)
    trained = fit(
        dataset.for_training(),
        config,
        callbacks=callbacks,
        checkpoints=checkpoints,
        exemplars=exemplars,
        **common,
    )
    recognizer = trained.recognizer
    recognizer.calibration = float(constant)
    recognizer.metadata = Metadata(dataset.provenance.sources)
    seconds = time.perf_counter() - started
    return Trained(recognizer, trained.exemplars, seconds, reused or trained.reused, validation)


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """Scores of the rows that a validation split held out."""

    scores: np.ndarray
    labels: np.ndarray
    seen_mask: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, recognizer: Recognizer, rows: TestSplit) -> "_HeldOut":
        scores = recognizer.scores(rows.features)
        return cls(scores, rows.labels, rows.seen_mask, rows.class_names)


def _folds(dataset: GZSLDataset) -> list[GZSLDataset]:
    """The dataset with each of its validation splits; its own is the first."""
    dataset.for_validation()  # raises where there is none
    splits = validation_splits(dataset.split, dataset.labels)
    return [dataset, *(dataclasses.replace(dataset, split=split) for split in splits[1:])]


def _calibrate(held_out: Sequence[_HeldOut]) -> tuple[float, Evaluation]:
    """Return the constant, and the measures of the dataset's own validation split with it."""
    curves = [seen_unseen_curve(one.scores, one.labels, one.seen_mask) for one in held_out]
    classes = len({name for one in held_out for name in np.array(one.class_names)[~one.seen_mask]})
    constant = common_constant(curves) if classes > 1 else 0.0
    if classes < ENOUGH_CLASSES:
        best = [float(curve.H[np.searchsorted(curve.knots, constant)]) for curve in curves]
        logger.warning(
            "calibration %.4g was chosen on %d held-out classes alone (H %s in %d validation "
            "splits): expected at least %d. Bring more classes, or set "
            "classification.calibration to a number.",
            constant,
            classes,
            ", ".join(f"{H:.1f}" for H in best),
            len(held_out),
            ENOUGH_CLASSES,
        )
    own = held_out[0]
    np.subtract(own.scores, constant, out=own.scores, where=own.seen_mask)  # no copy
    validation = evaluate(own.scores, own.labels, own.seen_mask, own.class_names)
    if len(held_out) > 1:
        note = f"calibration chosen on {len(held_out)} splits that hold out {classes} classes"
        validation = dataclasses.replace(validation, notes=(*validation.notes, note))
    logger.info("calibration %.4f chosen on validation: %s", constant, validation)
    return constant, validation


def evaluate_on_test(recognizer: Recognizer, dataset: GZSLDataset) -> Evaluation:
    """Measure a trained recognizer on the test rows of `dataset`."""
    test = dataset.for_testing()
    return evaluate(recognizer.scores(test.features), test.labels, test.seen_mask, test.class_names)


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
