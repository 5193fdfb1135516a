"""The protocol of the method (:mod:`mlis.protocol`) for baselines: choose, retrain, test once.

The settings that a baseline leaves open, and the constant subtracted from seen scores, are those
with the best H on the validation classes; it is retrained on all training rows, and tested once.
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
from mlis.methods.base import Baseline, Scorer
from mlis.provenance import PROTOCOL
from mlis.training.callbacks import Callback
from mlis.training.generator_cache import STAGE


@dataclass(frozen=True, eq=False)
class Measured:
    """One baseline, one seed.

    Attributes:
        baseline: with the settings that were chosen.
        scorer: trained on all training rows; its scores are not calibrated.
        calibration: constant to subtract from the scores of seen classes.
        validation: measures of the choice on the validation classes.
        test: measures on the test rows.
        seconds: wall time of choice and training in this process.
        reused: whether a generator came from the cache.
    """

    baseline: Baseline[Scorer]
    scorer: Scorer
    calibration: float
    validation: Evaluation
    test: Evaluation
    seconds: float
    reused: bool

    def to_dict(self) -> dict[str, Any]:
        """All but the scorer, as strict JSON."""
        settings = {
            field.name: getattr(self.baseline, field.name)
            for field in dataclasses.fields(self.baseline)  # pyright: ignore[reportArgumentType]
        }
        return {
            "baseline": self.baseline.name,
            "protocol": PROTOCOL,
            "settings": {**settings, "config": self.baseline.config.to_dict()},
            "calibration": self.calibration,
            "validation": self.validation.to_dict(),
            "test": self.test.to_dict(),
            "seconds": round(self.seconds, 3),
            "reused": self.reused,
        }


@own_modes()
def choose_and_test(
    baseline: Baseline[Scorer],
    dataset: GZSLDataset,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    callbacks: Sequence[Callback] = (),
    reuse: bool = False,
) -> Measured:
    """Measure a baseline under H@val.

    Args:
        baseline: and its fixed settings.
        dataset: needs a validation split.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        callbacks: are told of the progress.
        reuse: whether generators are taken from the user's cache folder or trained there; they are
            those of the method where preprocessing, generation, rows and seed are the same.

    Raises:
        DataError: there is no validation split, or the data are not for this baseline.
        DivergenceError: a loss became NaN or infinite.
    """
    started, generator = time.perf_counter(), _Generator()
    how = {"seed": seed, "device": device, "callbacks": (*callbacks, generator), "reuse": reuse}
    training, held_out = dataset.for_validation()
    chosen, constant, validation = best(baseline.candidates(training, **how), held_out)
    scorer = chosen.fit(dataset.for_training(), **how)
    seconds = time.perf_counter() - started
    test = dataset.for_testing()
    return Measured(
        baseline=chosen,
        scorer=scorer,
        calibration=constant,
        validation=validation,
        test=_evaluated(scorer.scores(test.features), test, constant),
        seconds=seconds,
        reused=generator.reused,
    )


class _Generator(Callback):
    """Notes whether a generator was there already; a baseline has no snapshots of its own."""

    def __init__(self) -> None:
        self.reused = False

    def on_start(self, stage: str, step: int, total: int) -> None:
        self.reused |= stage == STAGE and step == total > 0


def best(
    candidates: Iterator[tuple[Baseline[Scorer], Scorer]], held_out: TestSplit
) -> tuple[Baseline[Scorer], float, Evaluation]:
    """The candidate with the best H on validation rows, its constant and its measures there.

    The first of several that are equally good. Never hand it test rows.
    """
    winner: tuple[Baseline[Scorer], float, Evaluation] | None = None
    for candidate, scorer in candidates:
        scores = scorer.scores(held_out.features)
        constant = best_calibration(scores, held_out.labels, held_out.seen_mask)
        found = _evaluated(scores, held_out, constant)
        if winner is None or (found.H or 0.0) > (winner[2].H or 0.0):
            winner = (candidate, constant, found)
    assert winner is not None
    return winner


def _evaluated(scores: np.ndarray, split: TestSplit, constant: float) -> Evaluation:
    scores = np.where(split.seen_mask, scores - constant, scores)
    return evaluate(scores, split.labels, split.seen_mask, split.class_names)
