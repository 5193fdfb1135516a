"""ESZSL: a bilinear compatibility of feature and descriptor, in closed form.

Romera-Paredes, Torr: "An embarrassingly simple approach to zero-shot learning", ICML 2015. With
features X (Dx, n), descriptors of the seen classes S (Da, z) and Y (n, z) in {−1, 1} it minimises

    ‖Xᵀ V S − Y‖² + γ ‖V S‖² + λ ‖Xᵀ V‖² + γλ ‖V‖²

(section 3, with β = γλ); the minimum is V = (X Xᵀ + γI)⁻¹ X Y Sᵀ (S Sᵀ + λI)⁻¹. A class of
descriptor a scores xᵀ V a, seen or unseen. The penalties are chosen among 10^b, b = −3 … 3, on
validation classes, as in the paper. In the generalized setting its seen classes win nearly always
(Xian et al., 2018), so that the calibration constant matters more than for any other method here.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mlis.compute.class_sums import sum_by_class
from mlis.data.out_of_core.streaming import CHUNK_ROWS
from mlis.methods.base import Job, Method
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.recognizer import Recognizer

PENALTIES = tuple(10.0**b for b in range(-3, 4))


@dataclass(frozen=True, eq=False)
class Problem:
    """Sums over the training rows, from which V follows for any pair of penalties; in float64.

    In the eigenbases of X Xᵀ and S Sᵀ each entry of X Y Sᵀ is divided by one number.

    Attributes:
        features: eigenvalues (Dx,) and eigenvectors (Dx, Dx) of X Xᵀ.
        descriptors: eigenvalues (Da,) and eigenvectors (Da, Da) of S Sᵀ.
        cross: (Dx, Da), X Y Sᵀ in these bases.
    """

    features: tuple[Tensor, Tensor]
    descriptors: tuple[Tensor, Tensor]
    cross: Tensor

    @classmethod
    def of(cls, data: TrainingTensors) -> "Problem":
        """Go through the training rows once."""
        width, classes = data.x.shape[1], data.num_classes
        gram = torch.zeros((width, width), dtype=torch.float64, device=data.y.device)
        sums = torch.zeros((classes, width), dtype=torch.float64, device=data.y.device)
        for x, y in zip(data.x.split(CHUNK_ROWS), data.y.split(CHUNK_ROWS), strict=True):
            x = x.double()
            gram.addmm_(x.T, x)
            sums += sum_by_class(x, y, classes)
        seen = data.descriptors[data.seen].double()
        e, U = torch.linalg.eigh(gram)
        f, P = torch.linalg.eigh(seen.T @ seen)
        signed = 2 * sums[data.seen] - sums.sum(0)  # Y = 2 · one-hot − 1
        # Rounding may leave a tiny negative where there is none.
        return cls((e.clamp(min=0), U), (f.clamp(min=0), P), (signed @ U).T @ (seen @ P))

    def weights(self, descriptors: Tensor, gamma: float, lambda_: float) -> Tensor:
        """(C, Dx) float64, V a for each class with its (C, Da) descriptor."""
        (e, U), (f, P) = self.features, self.descriptors
        solved = self.cross / ((e + gamma)[:, None] * (f + lambda_))
        return descriptors.double() @ P @ solved.T @ U.T


@dataclass(frozen=True)
class ESZSL(Method):
    """ESZSL with its two penalties.

    Attributes:
        config: `preprocessing` and `precision` are used.
        gamma: γ, penalty on V S, the classifiers of the features; > 0.
        lambda_: λ, penalty on Xᵀ V, the features in the descriptors' space; > 0.
    """

    gamma: float = 1.0
    lambda_: float = 1.0

    @property
    def name(self) -> str:
        """As in the paper."""
        return "ESZSL"

    def alternatives(self) -> Sequence[Self]:
        """All pairs of penalties of the paper's grid."""
        pairs = itertools.product(PENALTIES, PENALTIES)
        return [replace(self, gamma=gamma, lambda_=lambda_) for gamma, lambda_ in pairs]

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Solve for V; nothing is random, and the rows are read once."""
        scaler, data = job.prepare(self.config)
        problem = Problem.of(data)
        for one in self.among(job):
            # a linear head of the scaled features: class c has the weights V a_c
            weight = problem.weights(data.descriptors, one.gamma, one.lambda_)
            weight = weight.to(data.descriptors.dtype)
            yield one, job.recognizer(scaler, LinearHead(weight, weight.new_zeros(len(weight))))
