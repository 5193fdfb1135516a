"""Nearest prototype: a class looks like what ridge regression predicts from its descriptor.

One (kernel) ridge regression from descriptors to the seen classes' mean features predicts a
prototype for every class, seen and unseen alike; an image belongs to the class with the highest
cosine. The regression runs from semantic to visual space, the direction that suffers less from
hubs (Shigeto et al.: "Ridge Regression, Hubness, and Zero-Shot Learning", ECML 2015), on class
means as in EXEM (Changpinyo, Chao, Sha: "Predicting Visual Exemplars of Unseen Classes for
Zero-Shot Learning", ICCV 2017). Kernels and penalties to choose from are our choice.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from mlis.generators.ridge import fit_predictor
from mlis.methods.base import Job, Method
from mlis.model.heads import CosineHead
from mlis.model.recognizer import Recognizer

KERNELS: tuple[Literal["linear", "rbf"], ...] = ("linear", "rbf")
PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class RidgePrototype(Method):
    """Prototypes by ridge regression.

    Attributes:
        config: `preprocessing`, `generation.ridge_kernel` and `.ridge_lambda`, and `precision` are
            used.
    """

    @property
    def name(self) -> str:
        """Not a method of its own in the literature."""
        return "nearest ridge prototype"

    def alternatives(self) -> Sequence[Self]:
        """Both kernels with each penalty."""
        grid = itertools.product(KERNELS, PENALTIES)
        changes = [{"ridge_kernel": kernel, "ridge_lambda": penalty} for kernel, penalty in grid]
        configs = [self.config.replace({"generation": change}) for change in changes]
        return [replace(self, config=config) for config in configs]

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Solve the regression; nothing is random.

        Raises:
            SettingsError: a penalty is too small for these descriptors.
        """
        scaler, data = job.prepare(self.config)
        for one in self.among(job):
            predict = fit_predictor(data, one.config.generation)
            yield one, job.recognizer(scaler, CosineHead(predict(data.descriptors)))
