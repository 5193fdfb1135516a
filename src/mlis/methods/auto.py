"""The default: several methods are tried on validation classes, and the best are averaged.

The portfolio begins with the closed form, which answers within seconds, and goes on to methods
that cost more while the budget lasts. What is kept is one recognizer, whose head is an ensemble
(:class:`~mlis.model.heads.EnsembleHead`) where several methods are kept. Which are kept, and why,
is in :mod:`mlis.methods.portfolio`.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from mlis.methods._regions import RegionMethod
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
from mlis.model.refiners import Identity, Layers, Refiner, Rescaling
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
BUILT_IN = ("gaussian", "ridge", "mlis", "text", "density", "softmax")
"""Names of the portfolio's methods and families."""
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
        further: methods to try besides, by name, each a family of its own; the transform of the
            features is the portfolio's, all other settings are their own. In the registry the
            option `candidates`, names of methods.

    Raises:
        SettingsError: a number is out of its range, or a further method cannot be a candidate.
    """

    budget: float = 60.0
    splits: int = 3
    further: Mapping[str, Method] = field(default_factory=dict[str, Method], hash=False)

    @property
    def name(self) -> str:
        """As it stands in a table."""
        return "automatic choice"

    @property
    def chooses(self) -> bool:
        """Always."""
        return True

    @property
    def options(self) -> dict[str, Any]:
        """As the registry takes them: further methods by their names."""
        own: dict[str, Any] = {"budget": self.budget, "splits": self.splits}
        return own | ({"candidates": list(self.further)} if self.further else {})

    def __post_init__(self) -> None:
        if not self.budget > 0 or self.splits < 1:
            raise SettingsError(
                f"auto: expected a budget above 0 seconds and at least 1 split, got "
                f"{self.budget:g} and {self.splits}."
            )
        object.__setattr__(self, "budget", min(self.budget, LONGEST))
        for name, method in self.further.items():
            if name in BUILT_IN or isinstance(method, Auto) or method.needs_shared_space:
                raise SettingsError(
                    "auto: candidates: expected methods that are not in the portfolio already, "
                    f"got {name!r}. Leave it out."
                )

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
        self._check(dataset)
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
        scaling = methods[next(iter(weights))].config.preprocessing  # of all, see `together`
        for name in weights:
            method, options = methods[name], JobOptions({**how, "callbacks": callbacks})
            needed = exemplars and not any(one.exemplars for one in found)
            needed = needed and method.config.preprocessing == scaling
            found.append(method.fit(training, exemplars=needed, **options))
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
        entries = [*text_member(dataset, config), *members(config)[1:], *self._entries(config)]
        for entry in entries:
            left = self.budget - (time.perf_counter() - started) - reserved
            if left < _DEARER * dearest:
                self._leave_out(entry, left, _DEARER * dearest)
                continue
            try:
                trial = _trial(entry, parts, how, left)
            except _TooLongError as reached:
                self._leave_out(entry, left, (1 + _FINAL) * reached.seconds)
                continue
            reserved += _FINAL * trial.seconds
            dearest = max(dearest, trial.seconds)
            yield trial

    def _entries(self, config: Config) -> list[Entry]:
        """Further methods, with the features transformed as those of the portfolio."""
        transform = config.preprocessing.feature_transform
        return [
            Entry(
                name,
                name,
                dataclasses.replace(method, config=with_transform(method.config, transform)),
            )
            for name, method in self.further.items()
        ]

    def _leave_out(self, entry: Entry, left: float, needed: float) -> None:
        """Say that the budget does not suffice for a method; loudly if it was asked for."""
        logger.log(
            logging.WARNING if entry.name in self.further else logging.INFO,
            "auto: %s is left out: %.0f s of the budget are left, more than %.0f are needed. Raise "
            "the budget.",
            *(entry.name, max(left, 0), needed),
        )

    def _check(self, dataset: GZSLDataset) -> None:
        """Check that the members differ in no preprocessing but the scale of the features.

        Raises:
            SettingsError: a candidate reads regions that all others see the mean of.
        """
        regions = dataset.provenance.regions
        for name, method in self.further.items():
            if isinstance(method, RegionMethod) and regions > 1:
                raise SettingsError(
                    f"auto: candidates: {name!r} reads each of the {regions} regions of an image, "
                    "of which an ensemble's members have the mean: expected a method that does, "
                    f"too. Leave it out, or train it alone (--method {name})."
                )


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
    """A method on as many folds as `left` seconds allow, one at least; its best alternative.

    Raises:
        _TooLongError: after the first fold no time would be left for the training on all rows.
    """
    deadline = _Deadline(left / (1 + _FINAL))
    hooks = [*how.get("callbacks", ()), deadline]
    alternatives: list[Method] = []
    scores: list[dict[int, HeldOut]] = []
    seconds = 0.0
    for number, part in enumerate(parts):
        if number and left < (1 + _FINAL) * seconds:
            break
        started = time.perf_counter()
        on_fold = JobOptions({**how, "callbacks": hooks if number == 0 else hooks[:-1]})
        for index, (one, held_out) in enumerate(validate(entry.method, part, **on_fold)):
            if index == len(alternatives):
                alternatives.append(one)
                scores.append({})
            scores[index][number] = held_out
        seconds = time.perf_counter() - started
        if number == 0:
            deadline.check()
        left -= seconds
        more = int(min(len(parts) - number - 1, max(0, left / seconds - _FINAL)))
        for callback in how.get("callbacks", ()):
            callback.on_trained(entry.name, number + 1, number + more + 2, seconds)
    worth = [round(mean_H(list(one.values())), 9) for one in scores]
    best = int(np.argmax(worth))
    logger.info("auto: %s: H %.1f on %d splits", entry.name, worth[best], len(scores[best]))
    return Trial(entry.name, entry.family, alternatives[best], scores[best], seconds)


class _TooLongError(Exception):
    """The first fold of a method takes `seconds` or more, which the budget does not allow."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds


class _Deadline(Callback):
    """Stops a training that takes longer than so many seconds."""

    def __init__(self, seconds: float):
        self._seconds, self._started = seconds, time.perf_counter()

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        self.check()

    def check(self) -> None:
        if time.perf_counter() - self._started > self._seconds:
            raise _TooLongError(self._seconds)


def together(recognizers: Sequence[Recognizer], weights: Sequence[float]) -> Recognizer:
    """One recognizer of several, with the preprocessing of the first; a single one unchanged.

    They may differ in the scale of features: then a member's refiner begins with the way back.
    """
    first = recognizers[0]
    if len(recognizers) == 1:
        return first
    members = [
        Member(_after(first.preprocessing, one), one.head, weight)
        for one, weight in zip(recognizers, weights, strict=True)
    ]
    return replace(first, refiner=Identity(), head=EnsembleHead(members))


def _after(shared: FeatureScaler, one: Recognizer) -> Refiner:
    """The refiner of a recognizer, for features that another scaler has scaled."""
    own = one.preprocessing
    if torch.equal(own.shift, shared.shift) and torch.equal(own.factor, shared.factor):
        return one.refiner
    dtype = next(one.head.parameters()).dtype
    return Layers([Rescaling.between(shared, own, dtype), one.refiner])


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
