"""The protocol of the method (:mod:`mlis.protocol`) for baselines: choose, retrain, test once.

The settings that a baseline leaves open, and the constant taken from seen scores, are those with
the best H on the validation classes; it is retrained on all training rows, and tested once.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from mlis.baselines.base import Baseline, Scorer
from mlis.data.dataset import GZSLDataset, TestSplit, TrainingSplit
from mlis.evaluation import Evaluation, best_calibration, evaluate
from mlis.generators import STAGE, StoredGenerator, attempted
from mlis.provenance import PROTOCOL, generation_key
from mlis.training import Account, Monitor

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Measured:
    """One baseline, one seed.

    Attributes:
        baseline: with the settings that were chosen.
        scorer: trained on all training rows; its scores are not calibrated.
        calibration: constant to take from the scores of seen classes.
        validation: measures of the choice on the validation classes.
        test: measures on the test rows.
        seconds: wall time of choice and training, without generators that were found in the store.
        generation_seconds: what the generators cost, whoever trained them; 0.0 without one.
    """

    baseline: Baseline[Scorer]
    scorer: Scorer
    calibration: float
    validation: Evaluation
    test: Evaluation
    seconds: float
    generation_seconds: float

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
            "generation_seconds": round(self.generation_seconds, 3),
        }


def choose_and_test(
    baseline: Baseline[Scorer],
    dataset: GZSLDataset,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    monitor: Monitor | None = None,
    reuse: bool = False,
) -> Measured:
    """Measure a baseline under H@val.

    Args:
        baseline: and its fixed settings.
        dataset: needs a validation split.
        seed: of everything random.
        device: "auto", "cpu", "cuda", …
        monitor: hears of losses.
        reuse: whether generators come from the user's cache folder and are left there; they are
            those of the method where preprocessing, generation, rows and seed are the same.

    Raises:
        DataError: there is no validation split, or the data are not for this baseline.
        DivergenceError: a loss became NaN or infinite.
    """
    monitor = monitor or Monitor()
    started = time.perf_counter()
    training, held_out = dataset.for_validation()
    common: dict[str, Any] = {"seed": seed, "device": device}
    accounts: list[Account] = []

    def choose(watched: Monitor) -> tuple[Baseline[Scorer], float, Evaluation]:
        return best(baseline.candidates(training, monitor=watched, **common), held_out)

    def stored(baseline: Baseline[Scorer], training: TrainingSplit) -> str | None:
        return generation_key(training, baseline.config, seed, device) if reuse else None

    chosen, constant, validation = _reusing(choose, monitor, stored(baseline, training), accounts)
    training = dataset.for_training()
    scorer = _reusing(
        lambda watched: chosen.fit(training, monitor=watched, **common),
        monitor,
        stored(chosen, training),
        accounts,
    )
    seconds = time.perf_counter() - started
    test = dataset.for_testing()
    return Measured(
        baseline=chosen,
        scorer=scorer,
        calibration=constant,
        validation=validation,
        test=_evaluated(scorer.scores(test.features), test, constant),
        seconds=seconds - sum(account.waited for account in accounts),
        generation_seconds=sum(account.seconds for account in accounts),
    )


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


def _reusing(
    work: Callable[[Monitor], Result],
    monitor: Monitor,
    key: str | None,
    accounts: list[Account],
) -> Result:
    """Work with a monitor that finds the generator of this key, and account for its cost."""
    if key is None:
        return work(monitor)
    with StoredGenerator(monitor, key) as store:
        result = attempted(lambda: work(store), store)
    account = store.account(STAGE)
    if account is not None:
        accounts.append(account)
    return result
