"""The protocol: choose on validation classes, retrain on all training rows, test once.

`H@val`: nothing that was measured on a test image influences training or a choice. The validation
split holds classes out of the *training* classes, so that it asks the same question as the test:
how well are classes without images recognised?
"""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mlis.config import Config
from mlis.data.dataset import GZSLDataset, TestSplit, TrainingSplit
from mlis.evaluation import Evaluation, best_calibration, evaluate
from mlis.generators import STAGE as GENERATION
from mlis.generators import StoredGenerator, attempted
from mlis.inference import Recognizer
from mlis.pipeline import fit, fit_seeds
from mlis.provenance import generation_key
from mlis.refinement.losses import EmbeddingLoss
from mlis.stacking import Seeds
from mlis.training import Account, Monitor

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fitted:
    """One training.

    Attributes:
        recognizer: as :func:`mlis.pipeline.fit` gives it.
        seconds: wall time that this training took, earlier processes of it included, without
            waiting for others and without what others have trained.
        generator: what the generator cost, whoever trained it; None where there was none to train
            (ridge, joint) or nobody kept account.
    """

    recognizer: Recognizer
    seconds: float
    generator: Account | None


@dataclass(frozen=True, eq=False)
class Trained:
    """A recognizer and what it cost.

    Attributes:
        recognizer: trained on all training rows, calibrated.
        seconds: wall time of training, as in `Fitted`, validation run included.
        validation: measures of the validation run at the chosen constant; None without one.
        generators: "training" and "validation" → what their generators cost, where that is known.
        stacked: the seeds that were trained together with this one, itself included: all seconds
            are an equal share of theirs. Empty for one that was trained alone.
    """

    recognizer: Recognizer
    seconds: float
    validation: Evaluation | None
    generators: Mapping[str, Account] = field(default_factory=dict[str, Account])
    stacked: tuple[int, ...] = ()


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
            (:mod:`mlis.generators`); it never changes the result.
    """
    recipe = _Recipe(config, seed, device, loss, reuse)
    (fitted,) = _fit_reusing(training, recipe, monitor, growable)
    return fitted


@dataclass(frozen=True, eq=False)
class _Recipe:
    """A training but for its rows and its monitor.

    Attributes:
        config, device, loss, reuse: as `fit_reusing` takes them.
        seed: or several that are trained together.
    """

    config: Config
    seed: Seeds
    device: str | torch.device
    loss: EmbeddingLoss | None
    reuse: bool

    def fit(self, training: TrainingSplit, monitor: Monitor, growable: bool) -> list[Recognizer]:
        """One recognizer a seed."""
        common: dict[str, Any] = {"device": self.device, "loss": self.loss, "growable": growable}
        if isinstance(self.seed, int):
            return [fit(training, self.config, seed=self.seed, monitor=monitor, **common)]
        return fit_seeds(training, self.config, seeds=self.seed, monitor=monitor, **common)


def _fit_reusing(
    training: TrainingSplit, recipe: _Recipe, monitor: Monitor | None, growable: bool = False
) -> list[Fitted]:
    """Train one seed, or several together: then each is said to have cost an equal share."""
    monitor = monitor or Monitor()
    store = nullcontext(monitor)
    if recipe.reuse:
        key = generation_key(training, recipe.config, recipe.seed, recipe.device)
        store = StoredGenerator(monitor, key)
    started = time.perf_counter()
    with store as watched:
        recognizers = attempted(lambda: recipe.fit(training, watched, growable), watched)
    seconds = time.perf_counter() - started
    accounts = {stage: watched.account(stage) for stage in (GENERATION, "refinement", "joint")}
    kept = [account for account in accounts.values() if account is not None]
    seconds += sum(account.earlier - account.waited for account in kept)
    share = 1 / len(recognizers)
    generator = accounts[GENERATION]
    if generator is not None:
        generator = dataclasses.replace(generator, seconds=share * generator.seconds)
    return [Fitted(recognizer, share * seconds, generator) for recognizer in recognizers]


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
    (:mod:`mlis.generators`), which saves their training and changes no result. With `growable` the
    recognizer keeps what adding classes needs (:mod:`mlis.growth`).

    Raises:
        DataError: calibration on validation is asked for and the dataset has no validation split.
    """
    recipe = _Recipe(config, seed, device, loss, reuse)
    (trained,) = _fit_and_calibrate(dataset, recipe, validation_monitor, monitor, growable)
    return trained


def fit_and_calibrate_seeds(
    dataset: GZSLDataset,
    config: Config,
    *,
    seeds: Sequence[int],
    device: str | torch.device = "auto",
    monitor: Monitor | None = None,
    validation_monitor: Monitor | None = None,
    loss: EmbeddingLoss | None = None,
    reuse: bool = False,
    growable: bool = True,
) -> list[Trained]:
    """Do what `fit_and_calibrate` does for several seeds, trained together.

    See :func:`mlis.pipeline.fit_seeds` for what that means. Each seed has a calibration constant
    of its own; its seconds are an equal share of all.
    """
    recipe = _Recipe(config, tuple(seeds), device, loss, reuse)
    return _fit_and_calibrate(dataset, recipe, validation_monitor, monitor, growable)


def _fit_and_calibrate(
    dataset: GZSLDataset,
    recipe: _Recipe,
    validation_monitor: Monitor | None,
    monitor: Monitor | None,
    growable: bool,
) -> list[Trained]:
    """Of one seed or of several together, each with its own constant."""
    constant = recipe.config.classification.calibration
    stacked = () if isinstance(recipe.seed, int) else recipe.seed
    if constant == "validation":
        training, held_out = dataset.for_validation()
        rehearsals = _fit_reusing(training, recipe, validation_monitor)
        choices = [_choose(rehearsal, held_out) for rehearsal in rehearsals]
    else:
        choices = [_Choice(float(constant))] * (len(stacked) or 1)
    training = dataset.for_training()  # lets go of the validation run's rows
    fitted = _fit_reusing(training, recipe, monitor, growable)
    sources = dataset.provenance.sources
    return [_trained(one, own, stacked, sources) for one, own in zip(fitted, choices, strict=True)]


@dataclass(frozen=True, eq=False)
class _Choice:
    """A calibration constant, and the training that found it, if any."""

    constant: float
    seconds: float = 0.0
    validation: Evaluation | None = None
    generator: Account | None = None


def _choose(rehearsal: Fitted, held_out: TestSplit) -> _Choice:
    started = time.perf_counter()
    scores = rehearsal.recognizer.scores(held_out.features)
    constant = best_calibration(scores, held_out.labels, held_out.seen_mask)
    np.subtract(scores, constant, out=scores, where=held_out.seen_mask)  # no copy of the scores
    validation = evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
    logger.info("calibration %.4f chosen on validation: %s", constant, validation)
    seconds = rehearsal.seconds + time.perf_counter() - started
    return _Choice(float(constant), seconds, validation, rehearsal.generator)


def _trained(
    fitted: Fitted, choice: _Choice, stacked: tuple[int, ...], sources: Mapping[str, Any]
) -> Trained:
    found = {"validation": choice.generator, "training": fitted.generator}
    generators = {name: account for name, account in found.items() if account is not None}
    recognizer = fitted.recognizer.with_calibration(choice.constant)
    recognizer = dataclasses.replace(recognizer, sources=sources)
    seconds = choice.seconds + fitted.seconds
    return Trained(recognizer, seconds, choice.validation, generators, stacked)


def test_once(recognizer: Recognizer, dataset: GZSLDataset) -> Evaluation:
    """Measure a trained recognizer on the test rows."""
    test = dataset.for_testing()
    return evaluate(recognizer.scores(test.features), test.labels, test.seen_mask, test.class_names)


test_once.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  (not for pytest)
