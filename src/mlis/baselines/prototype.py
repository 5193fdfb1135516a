"""Nearest prototype: a class looks like what ridge regression predicts from its descriptor.

One (kernel) ridge regression from descriptors to the seen classes' mean features predicts a
prototype for every class, seen and unseen alike; an image belongs to the class with the highest
cosine. The regression runs from semantic to visual space, the direction that suffers less from
hubs (Shigeto et al.: "Ridge Regression, Hubness, and Zero-Shot Learning", ECML 2015), on class
means as in EXEM (Changpinyo, Chao, Sha: "Predicting Visual Exemplars of Unseen Classes for
Zero-Shot Learning", ICCV 2017). Kernels and penalties to choose from are our choice.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch

from mlis.baselines.base import CosineScorer, Scorer
from mlis.compute import Arithmetic
from mlis.config import Config
from mlis.data.dataset import TrainingSplit
from mlis.generation.ridge import fit_predictor
from mlis.preprocessing import FeatureScaler, TrainingTensors, prepare
from mlis.training import Monitor

KERNELS: tuple[Literal["linear", "rbf"], ...] = ("linear", "rbf")
PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class RidgePrototype:
    """Prototypes by ridge regression.

    Attributes:
        config: `preprocessing`, `generation.ridge_kernel` and `.ridge_lambda`, and `precision` are
            used.
    """

    config: Config = field(default_factory=Config)

    @property
    def name(self) -> str:
        """Not a method of its own in the literature."""
        return "nearest ridge prototype"

    def fit(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> CosineScorer:
        """Solve the regression; nothing is random, and nothing to watch.

        Raises:
            SettingsError: the penalty is too small for these descriptors.
        """
        return self._scorer(*self._prepare(training, device))

    def candidates(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> Iterator[tuple[Self, Scorer]]:
        """Both kernels with each penalty."""
        scaler, data = self._prepare(training, device)
        for kernel, penalty in itertools.product(KERNELS, PENALTIES):
            changes = {"generation": {"ridge_kernel": kernel, "ridge_lambda": penalty}}
            chosen = replace(self, config=self.config.replace(changes))
            yield chosen, chosen._scorer(scaler, data)

    def _prepare(
        self, training: TrainingSplit, device: str | torch.device
    ) -> tuple[FeatureScaler, TrainingTensors]:
        arithmetic = Arithmetic.of(self.config.precision, device)
        return prepare(training, self.config.preprocessing, arithmetic)

    def _scorer(self, scaler: FeatureScaler, data: TrainingTensors) -> CosineScorer:
        return CosineScorer(scaler, fit_predictor(data, self.config.generation)(data.descriptors))
