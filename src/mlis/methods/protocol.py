"""The protocol for any method: choose on validation classes, retrain, test once.

The settings that a method leaves open, and the calibration constant, are those with the best H on
the validation classes; the method is retrained on all training rows, and tested once.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlis.compute.precision import own_modes
from mlis.data.dataset import GZSLDataset, TestSplit
from mlis.evaluation import Evaluation, best_calibration, evaluate
from mlis.methods.base import Method
from mlis.model.recognizer import Metadata, Recognizer
from mlis.provenance import PROTOCOL
from mlis.training.callbacks import Callback
from mlis.training.generator_cache import STAGE


@dataclass(frozen=True, eq=False)
class Chosen:
    """A trained method, not tested.

    Attributes:
        method: with the settings that were chosen.
        recognizer: trained on all training rows, calibrated.
        validation: measures of the choice on the validation classes.
        seconds: wall time of choice and training in this process.
        reused: whether a generator came from the cache.
    """

    method: Method
    recognizer: Recognizer
    validation: Evaluation
    seconds: float
    reused: bool

    @property
    def options(self) -> dict[str, Any]:
        """The method's own settings, the chosen ones among them, for JSON; not `config`."""
        names = [f.name for f in dataclasses.fields(self.method) if f.name != "config"]
        return {name: getattr(self.method, name) for name in names}

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the method, the chosen ones among them, for JSON."""
        return {**self.options, "config": self.method.config.to_dict()}


@dataclass(frozen=True, eq=False)
class Measured(Chosen):
    """A trained method and its measures on the test rows.

    Attributes:
        test: measures on the test rows.
    """

    test: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """All but the recognizer, as strict JSON."""
        return {
            "method": self.method.name,
            "protocol": PROTOCOL,
            "settings": self.settings,
            "calibration": self.recognizer.calibration,
            "validation": self.validation.to_dict(),
            "test": self.test.to_dict(),
            "seconds": round(self.seconds, 3),
            "reused": self.reused,
        }


def choose_and_test(
    method: Method,
    dataset: GZSLDataset,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    callbacks: Sequence[Callback] = (),
    reuse: bool = False,
) -> Measured:
    """Measure a method under H@val. Takes and raises what `choose` does."""
    how: dict[str, Any] = {"seed": seed, "device": device, "callbacks": callbacks, "reuse": reuse}
    chosen = choose(method, dataset, **how)
    test = dataset.for_testing()
    found = _evaluated(chosen.recognizer.scores(test.features), test)
    return Measured(
        **{f.name: getattr(chosen, f.name) for f in dataclasses.fields(chosen)}, test=found
    )


@own_modes()
def choose(
    method: Method,
    dataset: GZSLDataset,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    callbacks: Sequence[Callback] = (),
    reuse: bool = False,
) -> Chosen:
    """Choose settings and constant on validation classes, and train with them on all rows.

    Args:
        method: and its fixed settings. A constant in `config.classification.calibration` is
            replaced by the chosen one.
        dataset: needs a validation split; no test row is used.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        callbacks: are told of the progress.
        reuse: whether generators are taken from the user's cache folder or trained there; methods
            with the same preprocessing, generation, rows and seed share them.

    Raises:
        DataError: there is no validation split, or the data are not for this method.
        DivergenceError: a loss became NaN or infinite.
    """
    started, generator = time.perf_counter(), _Generator()
    how = {"seed": seed, "device": device, "callbacks": (*callbacks, generator), "reuse": reuse}
    training, held_out = dataset.for_validation()
    chosen, constant, validation = best(method.candidates(training, **how), held_out)
    recognizer = chosen.fit(dataset.for_training(), **how)
    recognizer.calibration = constant
    recognizer.metadata = Metadata(dataset.provenance.sources)
    return Chosen(
        method=chosen,
        recognizer=recognizer,
        validation=validation,
        seconds=time.perf_counter() - started,
        reused=generator.reused,
    )


class _Generator(Callback):
    """Notes whether a generator came from the cache."""

    def __init__(self) -> None:
        self.reused = False

    def on_start(self, stage: str, step: int, total: int) -> None:
        self.reused |= stage == STAGE and step == total > 0


def best(
    candidates: Iterator[tuple[Method, Recognizer]], held_out: TestSplit
) -> tuple[Method, float, Evaluation]:
    """The candidate with the best H on validation rows, its constant and its measures there.

    The first of several that are equally good. Never hand it test rows.
    """
    winner: tuple[Method, float, Evaluation] | None = None
    for candidate, recognizer in candidates:
        recognizer.calibration = 0.0
        scores = recognizer.scores(held_out.features)
        constant = best_calibration(scores, held_out.labels, held_out.seen_mask)
        scores[:, held_out.seen_mask] -= constant
        found = _evaluated(scores, held_out)
        if winner is None or (found.H or 0.0) > (winner[2].H or 0.0):
            winner = (candidate, constant, found)
    assert winner is not None
    return winner


def _evaluated(scores: np.ndarray, split: TestSplit) -> Evaluation:
    return evaluate(scores, split.labels, split.seen_mask, split.class_names)
