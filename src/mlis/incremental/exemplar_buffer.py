"""What a training leaves behind so that classes can be added later, without its data.

Kept are the generator, and some scaled features of every seen class in eight bits a number. New
descriptors give synthetic features, the encoder refines both, and stage 2 alone is solved again,
from the present weights on. Generator and encoder stay as they were trained.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Config
from mlis.data.out_of_core.streaming import CHUNK_ROWS
from mlis.errors import ModelFileError
from mlis.generators.base import FeatureGenerator, synthesise
from mlis.generators.ridge import RidgeGenerator, RidgePredictor
from mlis.generators.wgan_gp.networks import Generator
from mlis.generators.wgan_gp.trainer import WGANGenerator
from mlis.model.classification import LinearClassifier, fit_classifier
from mlis.model.preprocessing import TrainingTensors, normalise_descriptors
from mlis.storage.atomic import strict_json

PER_CLASS = 256
"""Images of a class that are kept at most."""
IN_ALL = 65_536
"""Images that are kept at most, where that leaves `LEAST` a class."""
LEAST = 8
_NETWORK = ("from_noise", "from_descriptor", "hidden_bias", "to_features", "feature_bias")
_BEFORE = ("before.weight", "before.bias")
_RIDGE = ("descriptors", "mean", "weights")


@dataclass(frozen=True, eq=False)
class Growth:
    """What adding classes needs besides the recognizer. All tensors are on the CPU.

    Attributes:
        rows: (m, Dx) uint8; a scaled feature is `low + step * row`, at most half a step off.
        low, step: (Dx,) float32.
        labels: (m,) int64, the recognizer's classes; seen ones only.
        weights: (m,) float32, training images that a row stands for.
        generator: the trained generator's tensors by name, networks in float16.
        config: settings of the training.
        seed: of the training.
        signed: whether scaled features may be negative.
        before: weight (C, Dh) and bias (C,) of the classifier before the latest addition; removing
            the added classes again restores it. None where nothing was added.
    """

    rows: Tensor
    low: Tensor
    step: Tensor
    labels: Tensor
    weights: Tensor
    generator: Mapping[str, Tensor]
    config: Config
    seed: int
    signed: bool = False
    before: tuple[Tensor, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Size in memory, and but for some hundred bytes in its file."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is numbers, by name."""
        names = ("rows", "low", "step", "labels", "weights")
        own = {name: getattr(self, name) for name in names}
        if self.before is not None:
            own |= dict(zip(_BEFORE, self.before, strict=True))
        return own | {f"generator.{name}": value for name, value in self.generator.items()}

    def words(self) -> str:
        """Everything else, as JSON."""
        facts = {"config": self.config.to_dict(), "seed": self.seed}
        return json.dumps(facts | ({"signed": True} if self.signed else {}), sort_keys=True)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], words: str) -> "Growth":
        """Put together what `tensors` and `words` gave.

        Raises:
            ModelFileError: something is missing.
        """
        try:
            facts = strict_json(words)
            prefix = "generator."
            generator = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            own = {name: tensors[name] for name in ("rows", "low", "step", "labels", "weights")}
            config = Config.from_dict(facts["config"])
            seed, signed = int(facts["seed"]), bool(facts.get("signed"))
            before = (tensors[_BEFORE[0]], tensors[_BEFORE[1]]) if _BEFORE[0] in tensors else None
            return cls(
                **own, generator=generator, config=config, seed=seed, signed=signed, before=before
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFileError(f"what adding classes needs is damaged: {error!r}") from None

    def chosen(self, classes: np.ndarray) -> "Growth | None":
        """Keep the rows of these classes (K,), which become 0 to K-1; None without any row.

        The generator is left as it was trained.
        """
        place = self.labels.new_full((int(max(classes.max(), self.labels.max())) + 1,), -1)
        place[torch.from_numpy(classes)] = torch.arange(len(classes), device=place.device)
        labels = place[self.labels]
        kept = labels >= 0
        if not bool(kept.any()):
            return None
        return dataclasses.replace(
            self,
            rows=self.rows[kept],
            labels=labels[kept],
            weights=self.weights[kept],
            before=None,
        )


def keep(
    data: TrainingTensors, generator: FeatureGenerator | None, config: Config, seed: int
) -> Growth | None:
    """What to keep of a training; None where no generator was trained.

    Of each class all images are kept, or `PER_CLASS` drawn at random.
    """
    if generator is None:
        return None
    chosen, weights = _choose(data.y.cpu(), data.num_classes, len(data.seen), seed)
    low = torch.full((data.x.shape[1],), torch.inf, dtype=torch.float32, device="cpu")
    high = -low
    for part in chosen.split(CHUNK_ROWS):
        x = data.x[part.to(data.y.device)].float().cpu()
        low, high = torch.minimum(low, x.amin(0)), torch.maximum(high, x.amax(0))
    step = (high - low) / 255
    divisor = torch.where(step > 0, step, 1.0)
    rows = torch.empty((len(chosen), len(low)), dtype=torch.uint8, device="cpu")
    for target, part in zip(rows.split(CHUNK_ROWS), chosen.split(CHUNK_ROWS), strict=True):
        x = data.x[part.to(data.y.device)].float().cpu()
        target.copy_(((x - low) / divisor).round_())
    return Growth(
        rows=rows,
        low=low,
        step=step,
        labels=data.y.cpu()[chosen],
        weights=weights,
        generator=_packed(generator),
        config=config,
        seed=seed,
        signed=data.signed,
    )


def _choose(y: Tensor, num_classes: int, num_seen: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to keep, in their order, and how many training rows each stands for."""
    most = min(PER_CLASS, max(LEAST, IN_ALL // max(num_seen, 1)))
    mixed = torch.randperm(len(y), generator=stream(seed, "growth"), device="cpu")
    order = mixed[torch.argsort(y[mixed], stable=True)]
    counts = torch.bincount(y, minlength=num_classes)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(y), device="cpu") - starts[y[order]]
    chosen = order[rank < most].sort().values
    stands_for = counts.float() / counts.clamp(min=1, max=most)
    return chosen, stands_for[y[chosen]].float()


def _packed(generator: FeatureGenerator) -> dict[str, Tensor]:
    """The generator's tensors by name."""
    if isinstance(generator, RidgeGenerator):
        network, predictor = None, generator.predictor
    else:
        assert isinstance(generator, WGANGenerator)
        network, predictor = generator.network, generator.predictor
    packed: dict[str, Tensor] = {}
    if network is not None:
        packed |= {name: getattr(network, name).detach().cpu().half() for name in _NETWORK}
    if predictor is not None:
        packed |= {f"ridge.{n}": getattr(predictor, n).detach().cpu().float() for n in _RIDGE}
    # laid out as a file gives them back: the last bits of a product depend on the layout
    return {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in packed.items()
    }


def refit(
    growth: Growth,
    refine: Callable[[Tensor], Tensor],
    descriptors: np.ndarray,
    seen: np.ndarray,
    start: LinearClassifier,
    device: torch.device,
) -> LinearClassifier:
    """Solve stage 2 again for classes of which some are new.

    Args:
        growth: what the training left.
        refine: scaled features (B, Dx) → (B, Dh), on `device`.
        descriptors: (C, Da) of all classes, the new ones last.
        seen: (C,) bool.
        start: the present classifier, of the first classes.
        device: where to compute.

    Raises:
        ModelFileError: the generator's tensors are not those of the settings.
    """
    precision = Precision.of("float32", device)
    settings = growth.config.classification
    # a copy: NumPy's memory is aligned by chance, and the last bits of a product depend on that
    vectors = precision.tensor(descriptors).clone()
    described = normalise_descriptors(vectors, growth.config.preprocessing)
    known = torch.from_numpy(np.ascontiguousarray(seen)).to(device)
    generator = _generator(growth, described[known], precision)
    sampler, rng = (
        generator.sampler(described),
        stream(growth.seed, "classification", device=device),
    )
    parts = zip(growth.rows.split(CHUNK_ROWS), growth.labels.split(CHUNK_ROWS), strict=True)
    real = ((_scaled(growth, rows, device), labels.to(device)) for rows, labels in parts)
    unseen, of_seen = (torch.nonzero(mask).flatten() for mask in (~known, known))
    synthetic = chain(
        synthesise(sampler, unseen, settings.synthetic_per_unseen, rng),
        synthesise(sampler, of_seen, settings.synthetic_per_seen, rng),
    )
    pairs = [(refine(x), y) for x, y in chain(real, synthetic)]
    features, labels = torch.cat([h for h, _ in pairs]), torch.cat([y for _, y in pairs])
    del pairs
    stands_for = torch.ones(len(labels), dtype=torch.float32, device=device)
    stands_for[: len(growth.weights)] = growth.weights.to(device)
    return fit_classifier(
        features, labels, len(described), settings, stands_for=stands_for, start=start
    )


def _scaled(growth: Growth, rows: Tensor, device: torch.device) -> Tensor:
    """(B, Dx) float32 of (B, Dx) uint8."""
    return rows.to(device, torch.float32).mul_(growth.step.to(device)).add_(growth.low.to(device))


def _generator(growth: Growth, lenders: Tensor, precision: Precision) -> FeatureGenerator:
    """The trained generator; `lenders` are the descriptors of the classes that have rows."""
    settings, held = growth.config.generation, growth.generator
    try:
        predictor = None
        if "ridge.mean" in held:
            own = {n: precision.tensor(held[f"ridge.{n}"]) for n in _RIDGE}
            predictor = RidgePredictor(settings.ridge_kernel, **own)
        if settings.generator == "ridge":
            assert predictor is not None
            return _ridge(growth, predictor, lenders, precision.device)
        (features, hidden), noise = held["to_features"].shape, held["from_noise"].shape[1]
        network = Generator(
            noise,
            held["from_descriptor"].shape[1],
            hidden,
            features,
            std=1.0,
            precision=precision,
            rng=stream(0, "replaced"),
            signed=growth.signed,
        )
        network.load_state_dict({name: held[name] for name in _NETWORK})
        return WGANGenerator(network, predictor)
    except (KeyError, RuntimeError, AssertionError) as error:
        raise ModelFileError(f"the kept generator does not fit its settings: {error}") from None


def _ridge(
    growth: Growth, predictor: RidgePredictor, lenders: Tensor, device: torch.device
) -> RidgeGenerator:
    x = _scaled(growth, growth.rows, device)
    classes, y = growth.labels.to(device).unique(return_inverse=True)
    counts = torch.bincount(y, minlength=len(classes))
    means = x.new_zeros(len(classes), x.shape[1]).index_add_(0, y, x)
    return RidgeGenerator(
        predictor=predictor,
        x=x,
        order=torch.argsort(y, stable=True),
        starts=counts.cumsum(0) - counts,
        counts=counts,
        means=means / counts[:, None],
        neighbours=growth.config.generation.ridge_neighbours,
        signed=growth.signed,
        lenders=lenders,
    )
