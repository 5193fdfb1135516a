"""The protocol: choose on validation classes, retrain on all training rows, test once.

`H@val`: nothing that was measured on a test image influences training or a choice. The validation
split holds classes out of the *training* classes, so that it asks the same question as the test:
how well are classes without images recognised?
"""

import dataclasses
import logging
import platform
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch

import mlis
from mlis.compute import Arithmetic
from mlis.config import Config, hash_of
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.evaluation import Evaluation, best_calibration, evaluate
from mlis.inference import Recognizer
from mlis.pipeline import fit
from mlis.refinement.losses import EmbeddingLoss
from mlis.training import Monitor

logger = logging.getLogger(__name__)

PROTOCOL = "H@val"


@dataclass(frozen=True, eq=False)
class Trained:
    """A recognizer and what it cost.

    Attributes:
        recognizer: trained on all training rows, calibrated.
        seconds: wall time of training, validation run included.
        validation: measures of the validation run at the chosen constant; None without one.
    """

    recognizer: Recognizer
    seconds: float
    validation: Evaluation | None


def fit_and_calibrate(
    dataset: GZSLDataset,
    config: Config,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    monitor: Monitor | None = None,
    validation_monitor: Monitor | None = None,
    loss: EmbeddingLoss | None = None,
) -> Trained:
    """Train on `dataset`'s training rows; with `calibration="validation"` find the constant first.

    The constant is the one with the best H on the validation classes, for a recognizer trained
    with the same settings and seed while those classes were held out. Test rows are not touched.

    Raises:
        DataError: calibration on validation is asked for and the dataset has no validation split.
    """
    started = time.perf_counter()
    validation = None
    constant = config.classification.calibration
    common: dict[str, Any] = {"seed": seed, "device": device, "loss": loss}
    if constant == "validation":
        training, held_out = dataset.for_validation()
        rehearsal = fit(training, config, monitor=validation_monitor, **common)
        scores = rehearsal.scores(held_out.features)
        constant = best_calibration(scores, held_out.labels, held_out.seen_mask)
        scores[:, held_out.seen_mask] -= constant
        validation = evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
        logger.info("calibration %.4f chosen on validation: %s", constant, validation)
    recognizer = fit(dataset.for_training(), config, monitor=monitor, **common)
    return Trained(
        recognizer.with_calibration(float(constant)), time.perf_counter() - started, validation
    )


def test_once(recognizer: Recognizer, dataset: GZSLDataset) -> Evaluation:
    """Measure a trained recognizer on the test rows."""
    test = dataset.for_testing()
    return evaluate(recognizer.scores(test.features), test.labels, test.seen_mask, test.class_names)


test_once.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  (not for pytest)


def training_key(training: TrainingSplit, config: Config, seed: int) -> str:
    """Hash of everything that a training depends on: rows, settings, seed, arithmetic."""
    return hash_of([training.key, config.to_dict(), seed, torch.__version__])


def generation_key(training: TrainingSplit, config: Config, seed: int) -> str:
    """Hash of everything that the generator depends on; refinement and classifier do not enter."""
    parts = [dataclasses.asdict(config.preprocessing), dataclasses.asdict(config.generation)]
    return hash_of([training.key, parts, config.precision, seed, torch.__version__])


def provenance(dataset: GZSLDataset, config: Config, device: str) -> dict[str, Any]:
    """Everything needed to say where a number comes from, as strict JSON."""
    arithmetic = Arithmetic.of(config.precision, device)
    return {
        "protocol": PROTOCOL,
        "data": dataset.provenance.name,
        "data_sha256": dataset.sha256,
        "features": dataset.provenance.features,
        "descriptors": dataset.provenance.descriptors,
        "notes": list(dataset.provenance.notes),
        "config_sha256": config.sha256,
        "device": str(arithmetic.device),
        "product_dtype": str(arithmetic.product).removeprefix("torch."),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "mlis": mlis.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
    }
