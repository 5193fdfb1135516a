"""H@test-best (optimistic): the best step or setting and the best constant **on test data**.

This is how nearly every published figure of the field is made, and it is measured here only to
be compared with such figures, under its own label. Training is the one of H@val and sees no test
row: MLIS keeps its encoder of some steps, another method trains all its alternatives, of which most
are snapshots of one training or a few. What is done with test labels is done afterwards, here.
Nothing that is chosen here goes back into a training, a preset or a model.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import Tensor

from mlis.compute.memory import enough_memory
from mlis.compute.precision import own_modes
from mlis.config import Config, flat_settings
from mlis.data.dataset import GZSLDataset, TestSplit, TrainingSplit
from mlis.evaluation import Evaluation, evaluate
from mlis.methods.base import JobOptions, Method
from mlis.model.recognizer import Recognizer, replace
from mlis.pipeline import Trained, fit
from mlis.provenance import training_key
from mlis.storage.tensors import load_tensors, save_tensors
from mlis.training.callbacks import Callback, LossLog
from mlis.training.checkpoints import CheckpointFolder

POINTS = 10  # steps, evenly spaced, the last one included, among which the best is taken
_KEPT = ("encoder.", "r.encoder.", "a.generator.")  # of a snapshot: what `outcome` would give
_STAGES = ("refinement", "joint")


@dataclass(frozen=True, eq=False)
class TestBest:
    """The best of all steps or settings and of all constants on test data.

    Attributes:
        test: measures there.
        calibration: constant taken from seen scores.
        chosen: the step or settings, all that were tried, and what they gave.
        recognizer: of that step or these settings, without the constant.
        seconds: of training and of trying.
        reused: whether a generator came from the cache.
    """

    __test__ = False  # not for pytest

    test: Evaluation
    calibration: float
    chosen: Mapping[str, Any]
    recognizer: Recognizer
    seconds: float = 0.0
    reused: bool = False


def steps_of(config: Config) -> tuple[int, ...]:
    """Steps after which the encoder is tried; 0 alone where there is none to train.

    >>> steps_of(Config().replace({"refinement": {"steps": 100}}))
    (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    """
    if not config.refinement.switches:
        return (0,)
    joint = config.refinement.schedule == "joint"
    total = config.generation.steps if joint else config.refinement.steps
    found = {round(total * (index + 1) / POINTS) for index in range(POINTS)}
    return tuple(sorted(found - {0})) or (0,)


class EncoderCheckpoints(CheckpointFolder):
    """Keeps the encoder of some steps besides the snapshots; training gives the same bits.

    Args:
        folder, key, options: as of :class:`~mlis.training.checkpoints.CheckpointFolder`.
        steps: after which.
    """

    def __init__(self, folder: Path, key: str, steps: tuple[int, ...], **options: Any):
        super().__init__(folder, key, **options)
        self.checkpoints: Path = folder / "checkpoints"
        self._steps = frozenset(steps)

    def path(self, step: int) -> Path:
        """File of the encoder of a step."""
        return self.checkpoints / f"{step}.safetensors"

    def due(self, stage: str, step: int) -> bool:
        """At every step that is kept, and when it is time."""
        return (stage in _STAGES and step in self._steps) or super().due(stage, step)

    def save(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep the encoder first: a training resumed from the snapshot has all before it."""
        if stage in _STAGES and step in self._steps:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            kept = {name: value for name, value in state.items() if name.startswith(_KEPT)}
            save_tensors(self.path(step), kept, {"step": str(step)})
        super().save(stage, step, state)


class _Replay(CheckpointFolder):
    """Stage 1 as finished, with the encoder of one step."""

    def __init__(self, kept: EncoderCheckpoints, folder: Path, key: str, step: int):
        super().__init__(folder, key)
        self._path, self._step = kept.path(step), step

    def load(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        if stage not in _STAGES:
            return super().load(stage)
        return self._step, load_tensors(self._path)[0]


def measure_test_best(
    dataset: GZSLDataset,
    config: Config,
    *,
    seed: int,
    device: str,
    folder: Path,
    every: float,
    callback: Callback,
    reuse: bool,
) -> TestBest:
    """Train once, and try the encoders of all steps, each with a classifier of its own, on test.

    Args:
        dataset: of which training is handed the training rows only.
        config, seed, device: of the training; its calibration constant is not used.
        folder: of snapshots and checkpoints.
        every: seconds between snapshots.
        callback: is told of the progress.
        reuse: as for :func:`mlis.pipeline.fit`.

    Raises:
        DivergenceError: the training diverged.
    """
    training, steps = dataset.for_training(), steps_of(config)
    key = training_key(training, config, seed, device)
    kept = EncoderCheckpoints(folder, key, steps, every=every)
    common = {"seed": seed, "device": device, "reuse": reuse, "exemplars": False}
    callbacks = [LossLog(folder), callback]
    last = fit(training, config, callbacks=callbacks, checkpoints=kept, **common)
    started, place = time.perf_counter(), (folder, key)
    found = _recognizers(training, config, steps, last.recognizer, kept, place, common)
    named = (({"step": step}, {"step": step}, Trained(one)) for step, one in found)
    best = _best(named, dataset.for_testing())
    seconds = last.seconds + time.perf_counter() - started
    return dataclasses.replace(best, seconds=seconds, reused=last.reused)


@own_modes()
def best_alternative(method: Method, dataset: GZSLDataset, **how: Unpack[JobOptions]) -> TestBest:
    """Train every alternative of a method on all training rows, and try each on test.

    Args:
        method: trains its `alternatives()`, in their order.
        dataset: of which training is handed the training rows only.
        how: seed, device, callbacks, checkpoints, reuse, as of :class:`~mlis.methods.base.Job`.

    Raises:
        What `Method.fit` raises.
    """
    started = time.perf_counter()
    flat = [flat_settings({**one.options, **one.config.to_dict()}) for one in method.alternatives()]
    varying = [name for name in flat[0] if any(one[name] != flat[0][name] for one in flat)]
    with enough_memory(method.name, method.remedy):
        found = method.candidates(dataset.for_training(), **how)
        named = (
            (one.settings, {name: own[name] for name in varying}, Trained.of(trained))
            for (one, trained), own in zip(found, flat, strict=True)
        )
        best = _best(named, dataset.for_testing())
    return dataclasses.replace(best, seconds=time.perf_counter() - started)


def _best(
    found: Iterable[tuple[Mapping[str, Any], Mapping[str, Any], Trained]], test: TestSplit
) -> TestBest:
    """The first of the best on test; of each its settings, those that vary, and the training."""
    tried: list[dict[str, Any]] = []
    best: tuple[float, Mapping[str, Any], Recognizer] | None = None
    reused = False
    for settings, varied, trained in found:
        measured = _evaluated(trained.recognizer.scores(test.features), test)
        tried.append({**varied, "H": measured.best_H, "H_uncalibrated": measured.H})
        reused |= trained.reused
        if best is None or (measured.best_H or 0.0) > best[0]:
            best = (measured.best_H or 0.0, settings, trained.recognizer)
    assert best is not None
    _, settings, recognizer = best
    evaluation, constant = at_best_constant(recognizer, test)
    return TestBest(evaluation, constant, {**settings, "tried": tried}, recognizer, reused=reused)


def _recognizers(
    training: TrainingSplit,
    config: Config,
    steps: tuple[int, ...],
    last: Recognizer,
    kept: EncoderCheckpoints,
    place: tuple[Path, str],
    common: Mapping[str, Any],
) -> Iterator[tuple[int, Recognizer]]:
    """A recognizer a step, whose stage 2 is trained on what the encoder of that step makes."""
    section = "generation" if config.refinement.schedule == "joint" else "refinement"
    for step in steps[:-1]:
        shorter = config.replace({section: {"steps": step}})
        replay = _Replay(kept, *place, step)
        yield step, fit(training, shorter, checkpoints=replay, **common).recognizer
    yield steps[-1], last


def at_best_constant(recognizer: Recognizer, test: TestSplit) -> tuple[Evaluation, float]:
    """Measures at the best constant on test data, whatever the recognizer's own; the constant."""
    scores = replace(recognizer, calibration=0.0).scores(test.features)
    plain = _evaluated(scores, test)
    constant = 0.0 if plain.curve is None else plain.curve.best_constant()
    at_best = _evaluated(np.where(test.seen_mask, scores - constant, scores), test)
    return (at_best, constant) if (at_best.H or 0.0) >= (plain.H or 0.0) else (plain, 0.0)


def _evaluated(scores: np.ndarray, test: TestSplit) -> Evaluation:
    return evaluate(scores, test.labels, test.seen_mask, test.class_names)
