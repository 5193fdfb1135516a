"""Softmax on the features themselves, real and synthetic: no refinement.

With the WGAN-GP this is f-CLSWGAN (Xian, Lorenz, Schiele, Akata: "Feature Generating Networks for
Zero-Shot Learning", CVPR 2018) less its classification loss in the generator: the paper's generator
also learns from a softmax on seen classes, here it is the one that the method itself uses, so that
the two differ in refinement alone. With the ridge generator nothing is trained but the softmax.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import torch

from mlis.baselines.base import Scorer
from mlis.config import Config
from mlis.data.dataset import TrainingSplit
from mlis.inference import Recognizer
from mlis.pipeline import fit
from mlis.training import Monitor


@dataclass(frozen=True)
class RawSoftmax:
    """Stage 1a and stage 2 of the method, and no stage 1b.

    Attributes:
        config: settings of the method; `refinement` is not used.
    """

    config: Config = field(default_factory=Config)

    @property
    def name(self) -> str:
        """Says which generator."""
        if self.config.generation.generator == "ridge":
            return "raw softmax, ridge generator"
        return "raw softmax (f-CLSWGAN)"

    def fit(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> Recognizer:
        """Train the generator, unless the monitor has it, and the softmax.

        Raises:
            DivergenceError: a loss became NaN or infinite.
        """
        config = self.config.replace({"refinement": {"components": "none"}})
        return fit(training, config, seed=seed, device=device, monitor=monitor)

    def candidates(
        self,
        training: TrainingSplit,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        monitor: Monitor | None = None,
    ) -> Iterator[tuple[Self, Scorer]]:
        """Itself: its settings are those of the method."""
        yield self, self.fit(training, seed=seed, device=device, monitor=monitor)
