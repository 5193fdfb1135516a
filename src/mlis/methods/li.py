"""After Li et al.: two aligned VAEs, whose latents have a part that tells classes and another one.

A **reconstruction**, not the system of Li, Xu, Wei, Deng: "Generalized Zero-Shot Learning
via Disentangled Representation", AAAI 2021, whose text and program were not available.

*From its abstract:* there is a VAE for features and one for descriptors; the latents of each are
split into category-distilling and category-dispersing factors; latents recombined within a
batch guide the split; the distilling ones are classified.

*From memory, not verified:* the VAEs, their alignment and their settings are CADA-VAE's
(:mod:`mlis.methods.cada_vae`), with what it says of features and the length of descriptors.

*Ours is the rest.* E_v and E_a give Gaussians of z = [d ; n], of which d, the first half, is
distilling. C is a linear softmax of the seen classes on d, μ(·) the mean of E, and π a permutation
of the batch. With m ∈ {v, a} and u the feature or descriptor,

    L = |D_v(d_v, n_v) − x| + |D_a(d_a, n_a) − a| + β KL(both)
      + γ (|D_v(d_a, n_v) − x| + |D_a(d_v, n_a) − a|)        cross-alignment, of d alone
      + δ W₂(d_v, d_a)                                       distribution alignment, of d alone
      + ω Σ_m CE(C d_m, y)
      + ρ Σ_m CE(C d̃_m, y) + mean (ñ_m − π n_m)²             of [d̃ ; ñ]_m = μ_m(D_m(d_m, π n_m))

so that a latent with another row's n is still of its own class, and keeps that n (a constant
there). β, γ, δ grow as in CADA-VAE; ω and ρ do not. The softmax learns from d of seen classes'
features and of unseen classes' descriptors. An image is recognised by the mean of its d.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import setting
from mlis.methods._aligned_vae import Gaussians, wasserstein
from mlis.methods._refined_softmax import as_refiner
from mlis.methods.base import ByBenchmark
from mlis.methods.cada_vae import CADAVAE, CADAVAETrainer
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import Layers
from mlis.training.layers import Linear


@dataclass(frozen=True)
class LiReconstruction(CADAVAE):
    """After Li et al.; ω, ρ and the lengths of d and n are ours, all else is CADA-VAE's.

    Attributes:
        config: `preprocessing`, `classification` (less its numbers of samples) and `precision` are
            used.
    """

    stage: ClassVar[str] = "li-reconstruction"
    remedy: ClassVar[str] = "Lower batch_size or the hidden sizes of LiReconstruction"
    reconstruction: ClassVar[bool] = True
    published: ClassVar[ByBenchmark] = {}

    latent: int = setting(128, "length of z, half of it d", low=2)
    class_weight: float = setting(1.0, "ω of the classes of d", low=0)
    recombination_weight: float = setting(1.0, "ρ of the recombined latents", low=0)

    @property
    def name(self) -> str:
        """What it follows; not the system's own name."""
        return "after Li et al. (reconstruction)"

    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> "LiTrainer":
        """Of both VAEs and C."""
        return LiTrainer(data, self, precision, seed)


class LiTrainer(CADAVAETrainer):
    """One step = one update of both VAEs and C on a batch of real seen samples."""

    def __init__(
        self, data: TrainingTensors, settings: LiReconstruction, precision: Precision, seed: int
    ):
        self.length: int = settings.latent // 2
        rng = stream(seed, "li-weights")  # drawn again below, as all weights
        self.classifier: Linear = Linear(self.length, len(data.seen), 0.0, precision, rng)
        super().__init__(data, settings, precision, seed)
        self.constant: dict[str, float] = {
            "classes": settings.class_weight,
            "recombination": settings.recombination_weight,
        }

    def weights(self) -> dict[str, float]:
        """Of all terms but the reconstruction, in this epoch."""
        return {**super().weights(), **self.constant}

    def losses(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The six terms, without weights, of features (B, Dx) and labels (B,) of all classes."""
        a, own = self.data.descriptors[labels], torch.searchsorted(self.data.seen, labels)
        to_x, to_a, noise = self.visual_decoder, self.semantic_decoder, self.settings.latent_noise
        visual, semantic = self.visual_encoder(x), self.semantic_encoder(a)
        z_v, z_a = noise.draw(visual, self.rng), noise.draw(semantic, self.rng)
        crossed = self.combined(z_a, z_v), self.combined(z_v, z_a)
        order = torch.randperm(len(x), generator=self.rng, device=x.device)
        mixed = [self.combined(z, z[order]) for z in (z_v, z_a)]
        again = self.visual_encoder(to_x(mixed[0]))[0], self.semantic_encoder(to_a(mixed[1]))[0]
        return {
            **self.aligned_losses((x, a), (visual, semantic), (z_v, z_a), crossed),
            "distance": wasserstein(self.distilling(*visual), self.distilling(*semantic)),
            "classes": self.classification(z_v, own) + self.classification(z_a, own),
            "recombination": sum(
                (self.recombination(*pair, own) for pair in zip(again, mixed, strict=True)),
                x.new_zeros(()),
            ),
        }

    def distilling(self, mean: Tensor, log_variance: Tensor) -> Gaussians:
        """Of d, of those of z."""
        return mean[:, : self.length], log_variance[:, : self.length]

    def combined(self, one: Tensor, other: Tensor) -> Tensor:
        """[d ; n], (B, Dz), of d of the first and n of the second."""
        return torch.cat((one[:, : self.length], other[:, self.length :]), dim=1)

    def classification(self, z: Tensor, own: Tensor) -> Tensor:
        """Cross-entropy of C on d of (B, Dz); labels (B,) among the seen classes."""
        return cross_entropy(self.classifier(z[:, : self.length]), own)

    def recombination(self, again: Tensor, mixed: Tensor, own: Tensor) -> Tensor:
        """What combined latents (B, Dz) lose when they are decoded and encoded `again`."""
        dispersing = mixed[:, self.length :].detach()
        return self.classification(again, own) + mse_loss(again[:, self.length :], dispersing)

    def latents_of_features(self, x: Tensor) -> Gaussians:
        """μ and log σ² of d, (B, Dd), of (B, Dx)."""
        return self.distilling(*self.visual_encoder(x))

    def latents_of_descriptors(self, a: Tensor) -> Gaussians:
        """μ and log σ² of d, (B, Dd), of (B, Da)."""
        return self.distilling(*self.semantic_encoder(a))

    def refiner(self) -> Layers:
        """From features to μ of d, a copy."""
        first = cast(Linear, self.visual_encoder.layers[0])
        mean = as_refiner(self.visual_encoder.mean, 1.0)
        mean.weight.data = mean.weight[: self.length].clone()
        mean.bias.data = mean.bias[: self.length].clone()
        return Layers([as_refiner(first, 0.0), mean])

    def _networks(self) -> dict[str, nn.Module]:
        return {**super()._networks(), "classifier": self.classifier}
