"""What the demo is compared with: chance, and nearest prototypes predicted by ridge regression."""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.evaluation import best_calibration, evaluate
from mlis.generation.ridge import RidgePredictor

Kernel = Literal["linear", "rbf"]
KERNELS: tuple[Kernel, ...] = ("linear", "rbf")
PENALTIES = (0.01, 0.1, 1.0)


def chance(seen_mask: np.ndarray) -> dict[str, float]:
    """Expected measures, per cent, of drawing a class at random from all (T1: from the unseen).

    >>> chance(np.array([True, True, True, False]))
    {'U': 25.0, 'S': 25.0, 'H': 25.0, 'T1': 100.0}
    """
    one_of_all = 100 / len(seen_mask)
    one_of_unseen = 100 / int((~seen_mask).sum())
    return {"U": one_of_all, "S": one_of_all, "H": one_of_all, "T1": one_of_unseen}


@dataclass(frozen=True, eq=False)
class RidgePrototypes:
    """Nearest prototype by cosine; prototypes of all classes are predicted from descriptors.

    (Kernel) ridge regression from a class's descriptor to its mean feature, fitted on the seen
    classes' means (one row a class) and applied to every class, seen and unseen alike.

    Attributes:
        prototypes: (C, Dx) unit vectors.
        seen_mask: (C,) bool.
        calibration: constant taken from the cosines of seen classes.
    """

    prototypes: np.ndarray
    seen_mask: np.ndarray
    calibration: float = 0.0

    @classmethod
    def fit(cls, training: TrainingSplit, kernel: Kernel, penalty: float) -> "RidgePrototypes":
        """Solve the regression, uncalibrated."""
        seen = np.flatnonzero(training.seen_mask)
        means = np.stack([training.features[training.labels == c].mean(0) for c in seen])
        descriptors = torch.from_numpy(_unit(training.descriptors))
        predict = RidgePredictor.fit(descriptors[seen], torch.from_numpy(means), kernel, penalty)
        return cls(_unit(predict(descriptors).numpy()), training.seen_mask)

    @classmethod
    def choose(cls, dataset: GZSLDataset) -> "RidgePrototypes":
        """Choose kernel, penalty and calibration by H on validation classes; fit on all seen."""
        training, held_out = dataset.for_validation()
        mask = held_out.seen_mask
        found: list[tuple[float, float, Kernel, float]] = []
        for kernel, penalty in itertools.product(KERNELS, PENALTIES):
            scores = cls.fit(training, kernel, penalty).scores(np.asarray(held_out.features))
            constant = best_calibration(scores, held_out.labels, mask)
            scores -= constant * mask
            result = evaluate(scores, held_out.labels, mask, held_out.class_names)
            found.append((result.H or 0.0, constant, kernel, penalty))
        _, constant, kernel, penalty = max(found)
        return replace(cls.fit(dataset.for_training(), kernel, penalty), calibration=constant)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Cosine of (N, Dx) features with each prototype, calibrated: (N, C)."""
        return _unit(features) @ self.prototypes.T - self.calibration * self.seen_mask


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
