"""SDGZSL: features disentangled into a part that follows the descriptor and one that does not.

Chen, Luo, Qiu, Wang, Huang, Li, Zhang: "Semantics Disentangling for Generalized Zero-Shot
Learning", ICCV 2021. A conditional VAE makes features x̂ of real ones and their descriptors. An
autoencoder splits features into a semantic and an unrelated part, `h = [h_s ; h_n]`. A relation
network R has to match h_s with descriptors; a discriminator d, which tells h from parts of
different rows put together, estimates the total correlation of h_s and h_n. For both f ∈ {x̂, x}:

    L_vae = (‖x̂ − x‖² + β KL) / B
    L_rec = Σ_f mse(decode(h(f)), x)
    L_rel = Σ_f mse(R(h_s(f), a_c), [c = y])          classes c of the batch
    L_tc  = Σ_f mean(d₀(h(f)) − d₁(h(f)))

    VAE, autoencoder and R minimise  L_vae + L_rec + w_r L_rel + w_t γ L_tc
    d minimises  w_d Σ_f [CE(d(h), 0) + CE(d([π h_s ; π' h_n]), 1)]       π, π' permute the batch

where β and γ grow with the epoch. The softmax sees h_s, of real seen and of synthetic unseen
features. An image needs no descriptor: `h_s = LeakyReLU(W x + b)`.

Settings are those of the authors' program for CUB with 1024-d sentences; as there, d trains in one
of `1 + discriminator_every` steps, in which L_tc is left out, d has a sigmoid before its
cross-entropy, and batch normalisation has ε = 0.8 (an argument in the wrong place). The order
within a step is ours. Different here:

- The variance has 1e-6 added; initial weights have the variance of PyTorch's default, biases are 0.
- With features of both signs, decoders end without LeakyReLU.
- The program keeps the best H on test rows, over steps and over epochs of the softmax. Here steps
  and w_r are chosen on validation classes and the softmax is trained to convergence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy, mse_loss, one_hot, softplus

from mlis.compute.precision import Precision
from mlis.compute.random import normal, stream, uniform
from mlis.config import Section, setting
from mlis.data.out_of_core.streaming import rows_ahead
from mlis.generators.base import Sampler
from mlis.generators.vae_gan.losses import kl_divergence
from mlis.generators.vae_gan.trainer import update
from mlis.methods._refined_softmax import fit_softmax
from mlis.methods._snapshots import Parts, SnapshotMethod
from mlis.methods.base import ByBenchmark
from mlis.methods.pairs import PairScorer
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import LinearReLU
from mlis.training.layers import Linear, rectify
from mlis.training.loop import adam
from mlis.training.state import EpochCount, PackedTrainer, Part

SLOPE = 0.2
NORM_EPS = 0.8
LEAST_VARIANCE = 1e-6
Drop = Callable[[Tensor, float], Tensor]
"""Dropout of a share; at synthesis and inference `keep`."""


@dataclass(frozen=True)
class SDGZSL(Section, SnapshotMethod["DisentanglingTrainer"]):
    """SDGZSL; the defaults are those of CUB with sentence embeddings.

    Attributes:
        config: `preprocessing`, `classification` and `precision` are used.
    """

    stage: ClassVar[str] = "sdgzsl"
    remedy: ClassVar[str] = "Lower batch_size, hidden or semantic of SDGZSL"
    published: ClassVar[ByBenchmark] = {
        "CUB": {"steps": 44106, "synthetic_per_unseen": 1200},
        "CUB, attributes": {
            **{"steps": 66159, "relation_weight": 5.0, "correlation_weight": 0.003},
            **{"semantic": 2048, "kl_warm_up": 1e-3, "correlation_warm_up": 1e-4},
            **{"encoder_dropout": 0.1, "decoder_dropout": 0.1, "autoencoder_dropout": 0.0},
            **{"discriminator_every": 3, "weight_decay": 1e-8, "synthetic_per_unseen": 1000},
        },
        "AWA2": {
            **{"steps": 80874, "relation_weight": 0.5, "correlation_weight": 1.0},
            **{"semantic": 1024, "learning_rate": 3e-5, "kl_warm_up": 0.01},
            **{"synthetic_per_unseen": 5000},
        },
        "SUN": {
            **{"steps": 64500, "relation_weight": 30.0, "discriminator_weight": 0.5},
            **{"semantic": 2048, "learning_rate": 3e-4, "kl_warm_up": 1e-3},
            **{"correlation_warm_up": 3e-4, "decoder_dropout": 0.2, "autoencoder_dropout": 0.4},
            **{"discriminator_every": 3, "synthetic_per_unseen": 400},
        },
        "FLO": {
            **{"steps": 35194, "correlation_weight": 0.1, "discriminator_weight": 0.1},
            **{"semantic": 2048, "kl_warm_up": 1e-3, "decoder_dropout": 0.4},
            **{"discriminator_every": 3, "synthetic_per_unseen": 1200},
        },
        "aPY": {
            **{"steps": 37075, "relation_weight": 0.1, "correlation_weight": 1.0},
            **{"discriminator_weight": 1.0, "semantic": 128, "synthetic_per_unseen": 1200},
        },
    }

    steps: int = setting(44106, "of all networks", low=1)
    batch_size: int = setting(64, "samples in a step", low=2)
    hidden: int = setting(2048, "hidden units of VAE, autoencoder and R", low=1)
    code: int = setting(128, "units before the Gaussian of the VAE", low=1)
    latent: int = setting(20, "length of z", low=1)
    semantic: int = setting(312, "length of h_s, and of h_n", low=1)
    learning_rate: float = setting(1e-4, "Adam's step size", low=0)
    weight_decay: float = setting(1e-6, "Adam's", low=0)
    relation_weight: float = setting(3.0, "w_r of the relation loss", low=0)
    correlation_weight: float = setting(0.3, "w_t of the total correlation", low=0)
    discriminator_weight: float = setting(0.3, "w_d of the discriminator's loss", low=0)
    kl_warm_up: float = setting(0.02, "growth of β by the epoch, up to 1", low=0)
    correlation_warm_up: float = setting(1e-3, "growth of γ by the epoch, up to 1", low=0)
    encoder_dropout: float = setting(0.4, "of the VAE's encoder", low=0, high=0.99)
    variance_dropout: float = setting(0.2, "of the VAE's variance", low=0, high=0.99)
    decoder_dropout: float = setting(0.5, "of the VAE's decoder", low=0, high=0.99)
    autoencoder_dropout: float = setting(0.2, "of the autoencoder", low=0, high=0.99)
    discriminator_every: int = setting(2, "steps with L_tc between two of d", low=1)

    @property
    def name(self) -> str:
        """As in the paper."""
        return "SDGZSL"

    def variants(self) -> Sequence[Self]:
        """A fifth of w_r, w_r, and five times w_r."""
        weights = dict.fromkeys(
            (self.relation_weight / 5, self.relation_weight, 5 * self.relation_weight)
        )
        return [replace(self, relation_weight=weight) for weight in weights]

    def trainer(
        self, data: TrainingTensors, precision: Precision, seed: int
    ) -> "DisentanglingTrainer":
        """Of all networks."""
        return DisentanglingTrainer(data, self, precision, seed)

    def outcome(self, trainer: "DisentanglingTrainer", data: TrainingTensors, seed: int) -> Parts:
        """A softmax on h_s, real and synthetic."""
        layer, size = trainer.autoencoder.encoder, self.semantic
        weight, bias = layer.weight.detach()[:size].clone(), layer.bias.detach()[:size].clone()
        refiner = LinearReLU(weight, bias, SLOPE)
        return fit_softmax(data, trainer, refiner, self.config.classification, seed), refiner


def keep(x: Tensor, share: float) -> Tensor:
    """No dropout."""
    return x


class VAE(nn.Module):
    """The conditional VAE.

    Args:
        features, attributes: Dx and Da.
        settings: sizes and shares of dropout.
        linear: its last layer is without LeakyReLU.
        layer: makes a layer of some inputs and outputs.
        precision: of the statistics.
    """

    def __init__(
        self,
        features: int,
        attributes: int,
        settings: SDGZSL,
        linear: bool,
        layer: Callable[[int, int], Linear],
        precision: Precision,
    ):
        super().__init__()
        s = settings
        self.settings: SDGZSL = settings
        self.last_slope: float = 1.0 if linear else SLOPE
        encoder = (layer(features + attributes, s.hidden), layer(s.hidden, s.hidden))
        self.encoder: nn.ModuleList = nn.ModuleList((*encoder, layer(s.hidden, s.code)))
        self.mean: Linear = layer(s.code, s.latent)
        self.variance: Linear = layer(s.code, s.latent)
        decoder = (layer(s.latent + attributes, s.hidden), layer(s.hidden, s.hidden))
        self.decoder: nn.ModuleList = nn.ModuleList(
            (*decoder, layer(s.hidden, s.hidden), layer(s.hidden, features))
        )
        how = {"eps": NORM_EPS, "device": precision.device, "dtype": precision.master}
        norms = [nn.BatchNorm1d(s.hidden, **how) for _ in range(2)]
        self.norms: nn.ModuleList = nn.ModuleList(norms)

    def encode(self, x: Tensor, a: Tensor, drop: Drop) -> tuple[Tensor, Tensor]:
        """μ and log σ², (B, Dz), of features (B, Dx) and descriptors (B, Da)."""
        first, second, last = self.encoder
        h = rectify(first(torch.cat((x, a), dim=1)), SLOPE)
        h = last(rectify(drop(second(h), self.settings.encoder_dropout), SLOPE))
        variance = softplus(drop(self.variance(h), self.settings.variance_dropout))
        return self.mean(h), (variance + LEAST_VARIANCE).log()

    def decode(self, z: Tensor, a: Tensor, drop: Drop = keep) -> Tensor:
        """Features (B, Dx) of z (B, Dz) and descriptors (B, Da); `keep` is synthesis."""
        share = self.settings.decoder_dropout
        first, second, third, last = self.decoder
        h = rectify(drop(first(torch.cat((z, a), dim=1)), share), SLOPE)
        h = drop(self._normalised(0, second(h), drop), share)
        h = rectify(drop(self._normalised(1, third(h), drop), share), SLOPE)
        return rectify(last(h), self.last_slope)

    def _normalised(self, index: int, h: Tensor, drop: Drop) -> Tensor:
        """By the batch in training, by running statistics in synthesis."""
        norm, training = self.norms[index], drop is not keep
        assert isinstance(norm, nn.BatchNorm1d)
        statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return batch_norm(h, *statistics, training=training, momentum=0.1, eps=norm.eps)


class Autoencoder(nn.Module):
    """`h = LeakyReLU(W x + b)`, of which the first half is h_s, and back."""

    def __init__(
        self, features: int, settings: SDGZSL, linear: bool, layer: Callable[[int, int], Linear]
    ):
        super().__init__()
        self.share: float = settings.autoencoder_dropout
        self.last_slope: float = 1.0 if linear else SLOPE
        self.encoder: Linear = layer(features, 2 * settings.semantic)
        hidden = layer(2 * settings.semantic, settings.hidden)
        self.decoder: nn.ModuleList = nn.ModuleList((hidden, layer(settings.hidden, features)))

    def encode(self, x: Tensor, drop: Drop) -> Tensor:
        """h, (B, 2S) of (B, Dx)."""
        return drop(rectify(self.encoder(x), SLOPE), self.share)

    def decode(self, h: Tensor, drop: Drop) -> Tensor:
        """Features (B, Dx) of (B, 2S)."""
        first, last = self.decoder
        h = drop(rectify(first(h), SLOPE), self.share)
        return drop(rectify(last(h), self.last_slope), self.share)


class Relation(nn.Module):
    """R(h_s, a): a linear layer, ReLU, a linear layer, sigmoid.

    Args:
        semantic, attributes, hidden: lengths of h_s and a, and the hidden units.
        precision: device and dtypes.
        rng: CPU generator that draws the weights.
    """

    def __init__(
        self,
        semantic: int,
        attributes: int,
        hidden: int,
        precision: Precision,
        rng: torch.Generator,
    ):
        super().__init__()
        inputs = semantic + attributes
        sizes = (semantic, attributes, hidden)
        std = (3 * inputs) ** -0.5
        self.scorer: PairScorer = PairScorer(*sizes, std, precision, rng, slope=0)
        self.scorer.output.data.mul_((inputs / hidden) ** 0.5)  # it has so many inputs
        self.bias: nn.Parameter = nn.Parameter(self.scorer.output.new_zeros(()))

    def forward(self, h: Tensor, descriptors: Tensor) -> Tensor:
        """Relations (B, K) in (0, 1) of (B, S) and (K, Da)."""
        return (self.scorer(h, descriptors) + self.bias).sigmoid()


class DisentanglingTrainer(PackedTrainer):
    """One step = one update of VAE, autoencoder and R, and in its turn of d; also samples."""

    def __init__(self, data: TrainingTensors, settings: SDGZSL, precision: Precision, seed: int):
        self.data: TrainingTensors = data
        self.settings: SDGZSL = settings
        s, rng = settings, stream(seed, "sdgzsl-weights")
        features, attributes = data.x.shape[1], data.descriptors.shape[1]

        def layer(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, (3 * inputs) ** -0.5, precision, rng)

        self.vae: VAE = VAE(features, attributes, s, data.signed, layer, precision)
        self.autoencoder: Autoencoder = Autoencoder(features, s, data.signed, layer)
        self.relation: Relation = Relation(s.semantic, attributes, s.hidden, precision, rng)
        self.discriminator: Linear = layer(2 * s.semantic, 2)
        networks = (self.vae, self.autoencoder, self.relation)
        parameters = [p for network in networks for p in network.parameters()]
        how: dict[str, Any] = {"weight_decay": s.weight_decay}
        rates = (s.learning_rate, 0.9, 0.999)
        self.adam: torch.optim.Adam = adam(parameters, *rates, **how)
        self.adam_discriminator: torch.optim.Adam = adam(
            self.discriminator.parameters(), *rates, **how
        )
        self.rng: torch.Generator = stream(seed, "sdgzsl", device=precision.device)
        self.clock: EpochCount = EpochCount(len(data.y), s.batch_size)
        self.rows: Tensor = rows_ahead(self.data.x, self.settings.batch_size, self.rng)

    def step(self) -> Mapping[str, Tensor]:
        """Draw a batch; update all but d, with L_tc, or without it and then d."""
        x, labels = self.data.x[self.rows], self.data.y[self.rows]
        self.rows = rows_ahead(self.data.x, self.settings.batch_size, self.rng)
        s, epoch = self.settings, self.clock.epoch
        losses, parts = self.losses(x, labels)
        total = losses["error"] + min(s.kl_warm_up * epoch, 1.0) * losses["kl"]
        total = total + losses["reconstruction"] + s.relation_weight * losses["relation"]
        turn = int(self.clock.steps) % (1 + s.discriminator_every) == 0
        if not turn:
            warm = min(s.correlation_warm_up * epoch, 1.0)
            losses["correlation"] = sum(map(self.correlation, parts), x.new_zeros(()))
            total = total + s.correlation_weight * warm * losses["correlation"]
        update(total, self.adam)
        if turn:
            apart = sum((self.discrimination(h.detach()) for h in parts), x.new_zeros(()))
            update(s.discriminator_weight * apart, self.adam_discriminator)
        self.clock.advance()
        return {name: loss.detach() for name, loss in losses.items()}

    def losses(self, x: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The terms that do not need d, without weights, and h of x̂ and of x.

        Args:
            x: (B, Dx) real features.
            labels: (B,) among all classes.
        """
        a, drop = self.data.descriptors[labels], self._drop
        mean, log_variance = self.vae.encode(x, a, drop)
        z = mean + (0.5 * log_variance).exp() * self._normal(*mean.shape)
        made = self.vae.decode(z, a, drop)
        present, own = torch.unique(labels, return_inverse=True)
        descriptors, targets = self.data.descriptors[present], one_hot(own, len(present)).to(x)
        reconstruction = relation = x.new_zeros(())
        parts: list[Tensor] = []
        for features in (made, x):
            h = self.autoencoder.encode(features, drop)
            reconstruction = reconstruction + mse_loss(self.autoencoder.decode(h, drop), x)
            found = self.relation(h[:, : self.settings.semantic], descriptors)
            relation = relation + mse_loss(found, targets)
            parts.append(h)
        error = (made - x).square().sum() / len(x)
        kl = kl_divergence(mean, log_variance)
        terms = {"error": error, "kl": kl, "reconstruction": reconstruction, "relation": relation}
        return terms, parts

    def correlation(self, h: Tensor) -> Tensor:
        """`mean(d₀(h) − d₁(h))` of (B, 2S)."""
        d = self.discriminator(h).sigmoid()
        return (d[:, 0] - d[:, 1]).mean()

    def discrimination(self, h: Tensor) -> Tensor:
        """d's cross-entropy on (B, 2S), class 0, and with both halves permuted, class 1."""
        halves = h.chunk(2, dim=1)
        orders = (torch.randperm(len(h), generator=self.rng, device=h.device) for _ in halves)
        mixed = torch.cat([half[order] for half, order in zip(halves, orders, strict=True)], dim=1)
        labels = torch.zeros(len(h), dtype=torch.int64, device=h.device)
        pairs = ((h, labels), (mixed, labels + 1))
        losses = [cross_entropy(self.discriminator(f).sigmoid(), y) for f, y in pairs]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def sampler(self, descriptors: Tensor) -> Sampler:
        """Prepare to sample classes with these (C, Da) normalised descriptors."""

        @torch.no_grad()
        def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
            z = normal(rng, len(labels), self.settings.latent)
            a = descriptors[labels]
            return self.vae.decode(z.to(a), a)

        return sample

    def _drop(self, x: Tensor, share: float) -> Tensor:
        if not share:
            return x
        kept = uniform(self.rng, *x.shape) >= share
        return x * kept / (1 - share)

    def _normal(self, *shape: int) -> Tensor:
        return normal(self.rng, *shape).to(self.data.descriptors.dtype)

    def parts(self) -> Mapping[str, Part]:
        """Networks, optimisers, count of steps and random stream."""
        return {
            **self.kept(),
            "relation": self.relation,
            "discriminator": self.discriminator,
            "adam": self.adam,
            "adam_discriminator": self.adam_discriminator,
            "clock": self.clock,
            "rng": self.rng,
        }

    def kept(self) -> Mapping[str, Part]:
        """VAE and autoencoder."""
        return {"vae": self.vae, "autoencoder": self.autoencoder}
