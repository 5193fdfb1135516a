"""The default: several methods are tried on validation classes, and the best are averaged.

The portfolio begins with the closed form, which answers within seconds, and goes on to methods
that cost more while the budget lasts. What is kept is one recognizer, whose head is an ensemble
(:class:`~mlis.model.heads.EnsembleHead`) where several methods are kept. Which are kept, and why,
is in :mod:`mlis.methods.portfolio`.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from mlis.checks.classes import class_risk, likely_to_fail
from mlis.checks.rows import RowStatistics
from mlis.compute.precision import own_modes
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.errors import SettingsError
from mlis.evaluation import Evaluation, evaluate
from mlis.methods.base import Job, JobOptions, Method
from mlis.methods.cosine import SharedSpaceCosine
from mlis.methods.estimate import expect, lost_by_fewer
from mlis.methods.gaussian import Gaussian
from mlis.methods.mlis import MLIS
from mlis.methods.portfolio import (
    Choice,
    Trial,
    choose_members,
    mean_H,
    tradeoff,
)
from mlis.methods.raw import RidgeSoftmax
from mlis.model.heads import EnsembleHead, Member
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Metadata, Recognizer, replace
from mlis.model.refiners import Identity
from mlis.pipeline import Trained
from mlis.protocol import (
    Chosen,
    HeldOut,
    folds,
    known_quantiles,
    validate,
    validation_temperature,
)
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore

logger: logging.Logger = logging.getLogger(__name__)

MOST = 10_000
"""Held-out rows of seen and of unseen classes, each, that a choice is made on."""
LONGEST = 1e9
"""Seconds of a budget without end, as JSON has no infinity."""
_FINAL = 1.4  # a training on all rows, in trainings on a fold
_DEARER = 3.0  # the next method's training, in those of the dearest one so far


@dataclass(frozen=True)
class Entry:
    """A method of the portfolio; see :class:`~mlis.methods.portfolio.Trial`."""

    name: str
    family: str
    method: Method


def members(config: Config) -> list[Entry]:
    """Methods to try, cheapest first. All have one preprocessing, and the ridge generator."""
    ridge = config.replace({"generation": {"generator": "ridge"}})
    refined = ridge.replace({"refinement": {"components": "ml+is+sfr", "schedule": "sequential"}})
    return [
        Entry("gaussian", "density", Gaussian(config)),
        Entry("ridge", "softmax", RidgeSoftmax(ridge)),
        Entry("mlis", "softmax", MLIS(refined)),
    ]


def text_member(dataset: GZSLDataset, config: Config) -> list[Entry]:
    """The zero-shot classifier of an image-text model that made both features and class texts.

    A family of its own; none where they are of different models, or features are transformed.
    """
    size, transform = dataset.provenance.shared_text, config.preprocessing.feature_transform
    numbers = dataset.features.shape[1] // dataset.provenance.regions
    if not size or numbers % size or transform != "none":
        return []
    method = SharedSpaceCosine(config, text=size, views=numbers // size, scaled=True)
    return [Entry("text", "text", method)]


def with_transform(config: Config, transform: str) -> Config:
    """The settings with another transform of the features."""
    return config.replace({"preprocessing": {"feature_transform": transform}})


@dataclass(frozen=True)
class Auto(Method):
    """Tries a portfolio of methods on validation classes and averages the best.

    Attributes:
        config: settings of all methods of the portfolio; its generator is not used, as all are on
            the closed-form one.
        budget: seconds for choice and training; the closed form is trained in any case. With
            `math.inf` every method is tried on every split, so that the result does not depend on
            the machine's speed.
        splits: class splits of the training rows that methods are tried on.
    """

    budget: float = 60.0
    splits: int = 3

    @property
    def name(self) -> str:
        """As it stands in a table."""
        return "automatic choice"

    @property
    def chooses(self) -> bool:
        """Always."""
        return True

    def __post_init__(self) -> None:
        if not self.budget > 0 or self.splits < 1:
            raise SettingsError(
                f"auto: expected a budget above 0 seconds and at least 1 split, got "
                f"{self.budget:g} and {self.splits}."
            )
        object.__setattr__(self, "budget", min(self.budget, LONGEST))

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer | Trained]]:
        """The closed form: nothing can be chosen without validation classes."""
        first = members(self.config)[0].method
        for _, found in first.train(dataclasses.replace(job, choosing=False)):
            yield self, found

    @own_modes()
    def choose(
        self,
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
        """Choose and weigh methods on validation classes, and train them on all rows.

        Takes and raises what :func:`mlis.protocol.choose` does. Keeps no snapshots: an interrupted
        choice begins again.
        """
        started = time.perf_counter()
        how: JobOptions = {"seed": seed, "device": device}
        trials = list(self.trials(dataset, {**how, "callbacks": validation_callbacks}, started))
        choice = choose_members(trials) if trials else None
        methods = {one.name: one.method for one in trials}
        if choice is None:  # no validation classes
            first = members(self.config)[0]
            weights, methods = {first.name: 1.0}, {first.name: first.method}
        else:
            weights = choice.weights
        training, found = dataset.for_training(), list[Trained]()
        for name in weights:
            needed = exemplars and not any(one.exemplars for one in found)
            options: JobOptions = {**how, "callbacks": callbacks}
            found.append(methods[name].fit(training, exemplars=needed, **options))
        recognizer = together([one.recognizer for one in found], list(weights.values()))
        recognizer.metadata = Metadata(dataset.provenance.model_sources)
        if not isinstance(given := self.config.classification.calibration, str):
            recognizer.calibration = given
        kept = next((one.exemplars for one in found if one.exemplars), None)
        result = Chosen(recognizer, kept, method=self)
        if choice is not None:
            learning = [
                lost_by_fewer(trials[0].method, part, dataset, how)
                for part in folds(dataset, self.splits)[: len(choice.held_out)]
            ]
            result = _calibrated(result, trials, choice, dataset, learning)
        return dataclasses.replace(result, seconds=time.perf_counter() - started)

    def trials(self, dataset: GZSLDataset, how: JobOptions, started: float) -> Iterator[Trial]:
        """Scores of the methods on the folds, as far as the budget allows."""
        if not dataset.split.has_validation or not dataset.split.val_seen.size:
            logger.warning(
                "auto: expected validation classes and images to choose by, got none: the closed "
                "form alone is trained, uncalibrated. Bring more classes, or more images."
            )
            return
        parts = [_limited(part) for part in folds(dataset, self.splits)]
        config, closed = _closed_form(self.config, parts, how)
        yield closed
        reserved, dearest = _FINAL * closed.seconds, closed.seconds
        for entry in [*text_member(dataset, config), *members(config)[1:]]:
            left = self.budget - (time.perf_counter() - started) - reserved
            if left < _DEARER * dearest:
                logger.info("auto: %s is left out: %.0f s are left", entry.name, max(left, 0))
                return
            trial = _trial(entry, parts, how, left)
            left = self.budget - (time.perf_counter() - started) - reserved
            if left < _FINAL * trial.seconds:
                needed = _FINAL * trial.seconds
                logger.info("auto: %s is left out: it needs %.0f s more", entry.name, needed)
                return
            reserved += _FINAL * trial.seconds
            dearest = max(dearest, trial.seconds)
            yield trial


def _limited(part: GZSLDataset) -> GZSLDataset:
    """A fold with at most `MOST` held-out rows of either kind: all methods' scores are kept."""
    rng = np.random.default_rng(0)
    held = {"val_seen": part.split.val_seen, "val_unseen": part.split.val_unseen}
    fewer = {name: rng.permutation(rows)[:MOST] for name, rows in held.items() if len(rows) > MOST}
    return dataclasses.replace(part, split=dataclasses.replace(part.split, **fewer))


def _closed_form(
    config: Config, parts: Sequence[GZSLDataset], how: JobOptions
) -> tuple[Config, Trial]:
    """The first method on all folds, with the transform that it does best with."""
    training, _ = parts[0].for_validation()
    preprocessing = config.preprocessing
    options = [config]
    if preprocessing.feature_transform == "auto":
        open_to = FeatureScaler.fit(training.features, preprocessing).transform
        options = [with_transform(config, one) for one in dict.fromkeys((open_to, "none"))]
    tried = [_trial(members(one)[0], parts, how, np.inf) for one in options]
    best = int(np.argmax([round(mean_H(list(one.folds.values())), 9) for one in tried]))
    return options[best], tried[best]


def _trial(entry: Entry, parts: Sequence[GZSLDataset], how: JobOptions, left: float) -> Trial:
    """A method on as many folds as `left` seconds allow, one at least; its best alternative."""
    alternatives: list[Method] = []
    scores: list[dict[int, HeldOut]] = []
    seconds = 0.0
    for number, part in enumerate(parts):
        if number and left < (1 + _FINAL) * seconds:
            break
        started = time.perf_counter()
        for index, (one, held_out) in enumerate(validate(entry.method, part, **how)):
            if index == len(alternatives):
                alternatives.append(one)
                scores.append({})
            scores[index][number] = held_out
        seconds = time.perf_counter() - started
        left -= seconds
        for callback in how.get("callbacks", ()):
            callback.on_trained(entry.name, number + 1, len(parts) + 1, seconds)
    worth = [round(mean_H(list(one.values())), 9) for one in scores]
    best = int(np.argmax(worth))
    logger.info("auto: %s: H %.1f on %d splits", entry.name, worth[best], len(scores[best]))
    return Trial(entry.name, entry.family, alternatives[best], scores[best], seconds)


def together(recognizers: Sequence[Recognizer], weights: Sequence[float]) -> Recognizer:
    """One recognizer of several with the same preprocessing; a single one stays as it is."""
    first = recognizers[0]
    if len(recognizers) == 1:
        return first
    members = [
        Member(one.refiner, one.head, weight)
        for one, weight in zip(recognizers, weights, strict=True)
    ]
    return replace(first, refiner=Identity(), head=EnsembleHead(members))


def _calibrated(
    result: Chosen,
    trials: Sequence[Trial],
    choice: Choice,
    dataset: GZSLDataset,
    learning: Sequence[float],
) -> Chosen:
    """With the constant that validation supports, its measures there, and what was tried."""
    recognizer, calibration = result.recognizer, result.method.config.classification.calibration
    found = tradeoff(choice.curves)
    recognizer.calibration = constant = found.constant(calibration)
    recognizer.metadata = dataclasses.replace(
        recognizer.metadata,
        tradeoff=found,
        rejection=known_quantiles(choice.held_out, constant),
    )
    recognizer.temperature = validation_temperature(choice.held_out, constant)
    rng, unseen = np.random.default_rng(0), len(dataset.unseen_classes)
    estimate = expect(choice.held_out, unseen, rng, learning, calibration)
    report = {
        "tried": {one.name: _summary(one) for one in trials},
        "kept": {name: round(share, 6) for name, share in choice.shares.items()},
        "feature_transform": recognizer.preprocessing.transform,
        "expected": dataclasses.asdict(estimate),
        "at_risk": _at_risk(dataset),
    }
    logger.info("auto: kept %s; expected of the test: %s", ", ".join(choice.weights), estimate)
    validation = _measured(choice.held_out[0], constant)
    return dataclasses.replace(result, validation=validation, report=report)


def _summary(trial: Trial) -> dict[str, Any]:
    """For JSON."""
    curves = [one.curve() for one in trial.folds.values()]
    H = [round(float(curve.H.max()), 2) for curve in curves]
    return {
        "family": trial.family,
        "options": trial.method.options,
        "H": H,
        "T1": [round(float(curve.U[-1]), 2) for curve in curves],
        "seconds": round(trial.seconds, 3),
    }


def _at_risk(dataset: GZSLDataset) -> list[tuple[str, ...]]:
    """Unseen classes that are likely to fail, each with the class that it may be taken for."""
    if len(dataset.seen_classes) < 2 or not len(dataset.unseen_classes):
        return []
    means = RowStatistics.of(dataset).class_means
    found = class_risk(dataset.descriptors, means, dataset.seen_mask)
    return [finding.classes for finding in likely_to_fail(found, dataset.class_names)]


def _measured(held_out: HeldOut, constant: float) -> Evaluation:
    scores = held_out.scores - np.float32(constant) * held_out.seen_mask
    return evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
