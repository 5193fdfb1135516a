"""The protocol: choose on validation classes, retrain on all training rows, test once.

`H@val`: nothing that was measured on a test image influences training or a choice. The validation
split holds classes out of the *training* classes, so that it asks the same question as the test:
how well are classes without images recognised? One protocol serves every
:class:`~mlis.methods.base.Method`; what a method leaves open are its alternatives.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from mlis.compute.memory import enough_memory
from mlis.compute.precision import own_modes
from mlis.data.dataset import GZSLDataset
from mlis.data.splits import ENOUGH_CLASSES, validation_splits
from mlis.evaluation import (
    Evaluation,
    SeenUnseenCurve,
    TradeOff,
    best_temperature,
    common_constant,
    evaluate,
    seen_unseen_curve,
)
from mlis.model.recognizer import Metadata, Recognizer
from mlis.model.rejection import class_weighted_quantiles, known_scores
from mlis.pipeline import Trained
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore

if TYPE_CHECKING:  # methods import this module: `choose` is one of their methods
    from mlis.methods.base import JobOptions, Method

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen(Trained):
    """A training whose settings and constant were chosen on validation classes; not tested.

    Attributes:
        method: with the settings that were chosen.
        report: what was tried and why it was chosen, for JSON, where a method tells it.
    """

    method: "Method"
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Scores of the rows that a validation split held out.

    Attributes:
        scores: (N, C'), uncalibrated.
        labels: (N,) among the C' classes of the training rows.
        seen_mask: (C',) False for the classes that were held out.
        class_names: C' names.
        reused: whether the generator of that training came from the cache.
        densities: (N, C' + 1) of :meth:`mlis.model.recognizer.Recognizer.densities`, or None.
    """

    scores: np.ndarray
    labels: np.ndarray
    seen_mask: np.ndarray
    class_names: tuple[str, ...]
    reused: bool = False
    densities: np.ndarray | None = None

    def curve(self) -> SeenUnseenCurve:
        """U and S by the constant."""
        return seen_unseen_curve(self.scores, self.labels, self.seen_mask)

    def sample(self, most: int = 10_000) -> "HeldOut":
        """At most so many rows, without densities."""
        rows = np.sort(np.random.default_rng(0).permutation(len(self.labels))[:most])
        scores, labels = self.scores[rows], self.labels[rows]
        return dataclasses.replace(self, scores=scores, labels=labels, densities=None)


def known_quantiles(held_out: Sequence[HeldOut], constant: float) -> tuple[float, ...]:
    """Quantiles by which images are later answered "unknown"; every class has the same weight.

    Args:
        held_out: rows of known classes, each fold by the recognizer that did not see them.
        constant: of the recognizer.
    """
    values, weights = list[np.ndarray](), list[np.ndarray]()
    for one in held_out:
        scores = one.scores - np.float32(constant) * one.seen_mask
        values.append(known_scores(scores, one.densities))
        weights.append(1 / np.bincount(one.labels)[one.labels])
    return class_weighted_quantiles(np.concatenate(values), np.concatenate(weights))


def validation_temperature(held_out: Sequence[HeldOut], constant: float) -> float:
    """Geometric mean over folds of the temperature that suits each best.

    Args:
        held_out: rows of each fold, by the recognizer that did not see them.
        constant: of the recognizer.
    """
    found = [
        best_temperature(
            one.scores - np.float32(constant) * one.seen_mask, one.labels, one.seen_mask
        )
        for one in held_out
    ]
    return float(np.exp(np.mean(np.log(found))))


def folds(dataset: GZSLDataset, count: int | None = None) -> list[GZSLDataset]:
    """The dataset with each of its validation splits; its own is the first.

    Args:
        dataset: needs a validation split.
        count: how many; by default its own alone where that holds out enough classes
            (:func:`mlis.data.splits.validation_splits`).

    Raises:
        DataError: it has none.
    """
    dataset.for_validation()
    splits = validation_splits(dataset.split, dataset.labels, count)
    return [dataset, *(dataclasses.replace(dataset, split=split) for split in splits[1:])]


def validate(
    method: "Method", fold: GZSLDataset, **how: Unpack["JobOptions"]
) -> Iterator[tuple["Method", HeldOut]]:
    """Train every alternative of a method while a fold's validation classes are held out.

    One recognizer at a time is in memory. To be called under
    :func:`mlis.compute.precision.own_modes`, as `choose` does.

    Args:
        method: trains its `alternatives()`, in their order.
        fold: one of `folds`.
        how: seed, device, callbacks, checkpoints, reuse, as of `choose`.

    Yields:
        Each alternative and its scores of the rows that were held out.

    Raises:
        What `choose` raises.
    """
    training, rows = fold.for_validation()
    with enough_memory(method.name, method.remedy):
        for one, found in method.candidates(training, **how):
            trained = Trained.of(found)
            trained.recognizer.calibration = 0.0
            scores = trained.recognizer.scores(rows.features)
            densities = trained.recognizer.densities(rows.features)
            about = (rows.labels, rows.seen_mask, rows.class_names, trained.reused, densities)
            del found, trained  # the next training needs the memory
            yield one, HeldOut(scores, *about)


@own_modes()
def choose(
    method: "Method",
    dataset: GZSLDataset,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
    validation_callbacks: Sequence[Callback] = (),
    validation_checkpoints: CheckpointStore | None = None,
    reuse: bool = False,
    exemplars: bool = True,
) -> Chosen:
    """Choose settings and constant on validation classes, and train with them on all rows.

    The alternative with the best mean H on the validation classes is chosen, at the constant that
    all folds support (:func:`mlis.evaluation.common_constant`). If the validation split holds out
    fewer than 10 classes, up to four more trainings hold out others; with a single held-out class
    that constant is 0. `classification.calibration` says which constant is kept: that one, the
    one of "seen-loss=P" (:class:`mlis.evaluation.TradeOff`), or a number. The temperature is chosen
    at it (:func:`mlis.evaluation.best_temperature`), on all folds. A method without
    alternatives whose constant is a number leaves nothing to choose: it is trained once, and its
    temperature is 1. Test rows are not used.

    Args:
        method: and its fixed settings.
        dataset: the training rows are used, and no test row.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        callbacks, checkpoints: are told of the training on all rows, and keep its snapshots.
        validation_callbacks, validation_checkpoints: of the training that holds out the dataset's
            own validation classes. The further ones are of few classes and keep no snapshots.
        reuse: whether generators are taken from the user's cache folder or trained there; methods
            with the same preprocessing, generation, rows and seed share them.
        exemplars: whether the state needed to add classes later is kept, where there is a
            generator (:mod:`mlis.incremental.exemplar_buffer`).

    Raises:
        DataError: there is something to choose and no validation split, or the data are not for
            this method.
        DivergenceError: a loss became NaN or infinite.
        OutOfMemoryError: memory does not suffice; names the settings to lower.
        SettingsError: a setting does not suit these data, or the device is not there.
    """
    started = time.perf_counter()
    how: dict[str, Any] = {"seed": seed, "device": device, "reuse": reuse}
    method = _with_constant_of(dataset, method)
    constant, validation, reused = method.config.classification.calibration, None, False
    tradeoff, rejection, temperature = None, tuple[float, ...](), 1.0
    if method.chooses:
        choice = _Choice(folds(dataset))
        hooks = {"callbacks": validation_callbacks, "checkpoints": validation_checkpoints}
        for number, fold in enumerate(choice.folds, 1):
            began = time.perf_counter()
            for index, (one, held_out) in enumerate(validate(method, fold, **hooks, **how)):
                choice.add(index, one, held_out)
            hooks = {}
            for callback in validation_callbacks:
                seconds = time.perf_counter() - began
                callback.on_trained(method.name, number, len(choice.folds) + 1, seconds)
        method, tradeoff, rejection, constant, temperature, validation = choice.made()
        reused = choice.reused
    trained = method.fit(
        dataset.for_training(),
        callbacks=callbacks,
        checkpoints=checkpoints,
        exemplars=exemplars,
        **how,
    )
    recognizer = trained.recognizer
    recognizer.calibration, recognizer.temperature = float(constant), temperature
    sources = dataset.provenance.model_sources
    recognizer.metadata = Metadata(sources, tradeoff=tradeoff, rejection=rejection)
    seconds = time.perf_counter() - started
    about = (trained.exemplars, seconds, reused or trained.reused, validation)
    return Chosen(recognizer, *about, method=method)


class _Tried:
    """An alternative, its scores on the first fold, and its curve on every one."""

    def __init__(self, method: "Method", own: HeldOut):
        self.method, self.curves = method, list[SeenUnseenCurve]()
        self.own: HeldOut | None = own
        self.others = list[HeldOut]()  # of further folds, whose classes and rows are few

    @functools.cached_property
    def constant(self) -> float:
        """With the best H, whichever is kept in the end."""
        return common_constant(self.curves)

    def H(self, constant: float) -> list[float]:
        """Of each fold."""
        return [float(curve.H[np.searchsorted(curve.knots, constant)]) for curve in self.curves]

    @functools.cached_property
    def worth(self) -> float:
        """Mean H, rounded: the first of equals is chosen, whatever the order of sums."""
        return round(float(np.mean(self.H(self.constant))), 9)


class _Choice:
    """Collects what the alternatives do on the folds, and chooses one of them."""

    def __init__(self, folds: Sequence[GZSLDataset]):
        self.folds, self.reused = folds, False
        self._tried: list[_Tried] = []

    def add(self, index: int, method: "Method", held_out: HeldOut) -> None:
        """One alternative on one fold; each fold has all of them in the same order."""
        self.reused |= held_out.reused
        if index == len(self._tried):
            self._tried.append(_Tried(method, held_out))
        else:
            self._tried[index].others.append(held_out.sample())
        self._tried[index].curves.append(held_out.curve())
        if len(self.folds) == 1:  # there may be many rows and alternatives: keep the best's scores
            best = self._best()
            for other in self._tried:
                other.own = other.own if other is best else None

    def _best(self) -> _Tried:
        return max(self._tried, key=lambda one: one.worth)

    def made(self) -> tuple["Method", TradeOff, tuple[float, ...], float, float, Evaluation]:
        """The alternative, its trade-off, quantiles, constant and temperature; its measures there.

        Quantiles and measures are those of the first fold.
        """
        best, classes = self._best(), self._classes()
        tradeoff = TradeOff.of(best.curves, best.constant if classes > 1 else 0.0)
        constant = tradeoff.constant(best.method.config.classification.calibration)
        if classes < ENOUGH_CLASSES:
            logger.warning(
                "calibration %.4g was chosen on %d held-out classes alone (H %s in %d validation "
                "splits): expected at least %d. Bring more classes, or set "
                "classification.calibration to a number.",
                constant,
                classes,
                ", ".join(f"{H:.1f}" for H in best.H(constant)),
                len(self.folds),
                ENOUGH_CLASSES,
            )
        own = best.own
        assert own is not None
        rejection = known_quantiles([own], constant)
        temperature = validation_temperature([own, *best.others], constant)
        np.subtract(own.scores, constant, out=own.scores, where=own.seen_mask)  # no copy
        validation = evaluate(own.scores, own.labels, own.seen_mask, own.class_names)
        if len(self.folds) > 1:
            note = f"calibration chosen on {len(self.folds)} splits that hold out {classes} classes"
            validation = dataclasses.replace(validation, notes=(*validation.notes, note))
        logger.info("calibration %.4f chosen on validation: %s", constant, validation)
        return best.method, tradeoff, rejection, constant, temperature, validation

    def _classes(self) -> int:
        """How many classes the folds hold out."""
        return len(np.unique(np.concatenate([d.labels[d.split.val_unseen] for d in self.folds])))


def evaluate_on_test(recognizer: Recognizer, dataset: GZSLDataset) -> Evaluation:
    """Measure a trained recognizer on the test rows of `dataset`."""
    test = dataset.for_testing()
    return evaluate(recognizer.scores(test.features), test.labels, test.seen_mask, test.class_names)


def _with_constant_of(dataset: GZSLDataset, method: "Method") -> "Method":
    """The method, with constant 0 where validation has no image to choose one by.

    Of classes with a single image none is held out, and of two classes neither.
    """
    calibrated = isinstance(method.config.classification.calibration, str)
    if not calibrated or dataset.split.val_seen.size:
        return method
    logger.warning(
        "calibration constant: expected validation images of seen classes, got none. It is 0; "
        "bring more classes or images, or set classification.calibration to a number."
    )
    config = method.config.replace({"classification": {"calibration": 0.0}})
    return dataclasses.replace(method, config=config)
