"""f-VAEGAN-D2, inductive: a VAE and a WGAN-GP that share G; softmax on real and synthetic features.

Xian, Sharma, Schiele, Akata: "f-VAEGAN-D2: A Feature Generating Framework for Any-Shot Learning",
CVPR 2019. E encodes a feature x and its class's descriptor a; G decodes z ~ E(x, a), or z of the
prior, with a; the critic D tells x from G(z, a). With L_VAE = −log p(x | z, a) + KL and eq. (2) of
the WGAN-GP,

    D minimises  E[D(G(z, a))] − E[D(x, a)] + λ E[(‖∇D‖ − 1)²],   z of the prior
    E, G minimise  L_VAE − γ (E[D(G(z, a))] + E[D(G(z', a))]),     z of E, z' of the prior

The generator is `generation.generator = "f-vaegan"` too, for MLIS or any other classifier. The
second critic, D2, learns from unlabelled test features: transductive, not here.

The paper gives hidden layers of 4096 units and γ = 1000; the program of the authors' later few-shot
work, which is followed here, has 1024 units (D: 2048 or 4096), a VAE loss summed over the batch,
and so γ between 20 and 781 by dataset (`published`). Other differences:

- Hidden units are LeakyReLU(0.2), as in the paper; that program has ReLU in E and G. All weights
  start from N(0, 0.02²), there only those of D.
- −log p(x | z, a) is the cross-entropy of features in [0, 1], with a sigmoid in G. Where scaled
  features leave [0, 1] (`feature_scaling` "standard" or "none") it is half the squared error, and G
  ends with ReLU or, for features of both signs, without it.
- The best epoch was picked on test rows; here a quarter, half or all of the steps are chosen on
  validation classes, from one training. Stage 2 runs to convergence.
"""

from dataclasses import dataclass
from typing import ClassVar

from mlis.compute.precision import Precision
from mlis.generators.vae_gan.f_vaegan import FVAEGANTrainer, VAEGANGenerator
from mlis.generators.vae_gan.trainer import VAEGANSettings
from mlis.methods._refined_softmax import fit_softmax
from mlis.methods._snapshots import Parts, SnapshotMethod
from mlis.methods.base import ByBenchmark
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import Identity

_ANIMALS = {
    **{"batch_size": 128, "critic_hidden": 4096, "adversarial_weight": 781.0},
    **{"synthetic_per_unseen": 1200},
}


@dataclass(frozen=True)
class FVAEGAN(VAEGANSettings, SnapshotMethod[FVAEGANTrainer]):
    """f-VAEGAN-D2 and a softmax.

    Attributes:
        config: `preprocessing`, `classification` and `precision` are used.
    """

    stage: ClassVar[str] = "f-vaegan"
    remedy: ClassVar[str] = "Lower batch_size, hidden or critic_hidden of FVAEGAN"
    published: ClassVar[ByBenchmark] = {
        "CUB": {"steps": 4200, "synthetic_per_unseen": 300},
        "FLO": {"steps": 3300, "adversarial_weight": 195.0, "synthetic_per_unseen": 1600},
        "AWA1": {**_ANIMALS, "steps": 46500},
        "AWA2": {**_ANIMALS, "steps": 55200},
        "SUN": {
            **{"batch_size": 128, "steps": 32400, "adversarial_weight": 781.0},
            **{"synthetic_per_unseen": 1600},
        },
        "aPY": {"steps": 3600, "adversarial_weight": 195.0, "synthetic_per_unseen": 1200},
    }

    @property
    def name(self) -> str:
        """As in the paper."""
        return "f-VAEGAN-D2"

    def trainer(self, data: TrainingTensors, precision: Precision, seed: int) -> FVAEGANTrainer:
        """Of all networks."""
        return FVAEGANTrainer(data, self, precision, seed)

    def outcome(self, trainer: FVAEGANTrainer, data: TrainingTensors, seed: int) -> Parts:
        """A softmax on features, real and synthetic."""
        generator, refiner = VAEGANGenerator(trainer.network, trainer.range), Identity()
        return fit_softmax(data, generator, refiner, self.config.classification, seed), refiner
