"""VGSE-SMO: vectors of unseen classes as mixtures of those that seen classes have from images.

Xu, Xian, Wang, Schiele, Akata: "VGSE: Visually-Grounded Semantic Embeddings for Zero-Shot
Learning", CVPR 2022. A seen class gets a vector φ_s from its images. An unseen class has none, so
its relation to the seen classes is taken from given class embeddings w (word vectors in the paper,
which also takes attributes; here the dataset's descriptors): for each unseen u

    min_r ‖ w_u − Σ_s r_s w_s ‖²   with Σ_s r_s = 1 and r_s ≥ α,  α ∈ {0, −1}
    φ_u = Σ_s r_s φ_s

the paper's semantic mixture by optimisation, SMO. A class is then described by [φ ; w], as the
authors publish their vectors, and recognised by SJE.

The paper makes φ_s of clusters of image patches: :mod:`mlis.methods.vgse_patches`. Here φ_s is the
mean feature of the class. So this measures the mixture, not the patch clusters, and with attributes
or sentences as w, which the table's row does without. Ours too: φ is centred on the mean of the
seen classes, rotated into the space that they span, and brought to unit length, as w is; features
are square-rooted (`preprocessing.feature_transform`) and scaled, as for every method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlis.generators.ridge import class_means
from mlis.methods.network_method import within
from mlis.methods.sje import SJE
from mlis.model.preprocessing import TrainingTensors

ALPHAS = (0.0, -1.0)


def mixture(target: np.ndarray, others: np.ndarray, alpha: float) -> np.ndarray:
    """r (S,) with Σ r = 1 and r ≥ alpha for which `r @ others` is closest to `target`.

    With r = α + τ p, τ = 1 − αS, the rest p is a share of each of the S others, and the difference
    is `Σ p_s d_s` with `d_s = target − α Σ others − τ others_s`: of all p, that with the shortest
    sum. Non-negative q with the least `‖Σ q_s d_s‖² + κ² (Σ q_s − 1)²` are proportional to it, for
    any κ: along q = k p the minimum over k grows with `‖Σ p_s d_s‖`.

    Args:
        target: (D,).
        others: (S, D).
        alpha: the lower bound, at most 1/S.
    """
    from scipy.optimize import nnls

    tau = 1 - alpha * len(others)
    d = target - alpha * others.sum(0) - tau * others
    scale = max(float(np.linalg.norm(d, axis=1).mean()), 1e-12)
    system = np.concatenate([d.T / scale, np.ones((1, len(others)))])
    q, _ = nnls(system, np.append(np.zeros(len(target)), 1.0), maxiter=100 * len(others))
    return alpha + tau * q / q.sum()


@dataclass(frozen=True)
class VGSE(SJE):
    """SJE on mixtures of class means beside the descriptors; see `SJE` for the other settings.

    Attributes:
        alpha: α, the smallest coefficient of a seen class.
    """

    alpha: float = within(0.0, -100, 0)

    @property
    def name(self) -> str:
        """Says that patch clusters are not part of it."""
        return "VGSE-SMO (class means)"

    def alternatives(self) -> Sequence[Self]:
        """Each α with all alternatives of SJE."""
        of_sje = super().alternatives()
        return [replace(one, alpha=alpha) for alpha in ALPHAS for one in of_sje]

    def class_vectors(self, data: TrainingTensors) -> Tensor:
        """(C, S + Da) vectors [φ ; w] of all classes, φ being the mean feature of a seen one."""
        means = class_means(data.x, data.y, data.num_classes)
        return self.mixed(data, means, data.descriptors)

    def mixed(self, data: TrainingTensors, looks: Tensor, words: Tensor) -> Tensor:
        """(C, at most S + k) vectors [φ ; w] of all classes, both parts of unit length.

        Args:
            data: which classes are seen.
            looks: (C, D), φ of seen classes.
            words: (C, k), w.
        """
        given = words.double().cpu().numpy()
        seen, unseen = data.seen.cpu().numpy(), data.unseen.cpu().numpy()
        mixtures = [mixture(given[u], given[seen], self.alpha) for u in unseen]
        phi = looks.clone()
        if mixtures:
            shares = torch.from_numpy(np.stack(mixtures)).to(phi)
            phi[data.unseen] = shares @ phi[data.seen]
        # What the classes have in common would be most of every product. The rest lies in the space
        # of the seen ones, whose axes number S instead of D: a rotation, which F does not notice.
        phi = phi - phi[data.seen].mean(0)
        phi = phi @ torch.linalg.svd(phi[data.seen], full_matrices=False).Vh.T
        return torch.cat((normalize(phi, dim=1), normalize(words, dim=1)), dim=1)
