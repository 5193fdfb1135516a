"""The order of the stages: dataset → generation → refinement → classification → inference."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mlis.compute.memory import enough_memory
from mlis.compute.precision import Precision, own_modes
from mlis.compute.random import stream
from mlis.config import Classification, Config
from mlis.data.dataset import TrainingSplit
from mlis.data.out_of_core.spill import check_room, spill
from mlis.data.out_of_core.streaming import CHUNK_ROWS, ConcatenatedRows, Rows, StreamedRows
from mlis.encoder.joint import fit_joint
from mlis.encoder.metric_losses import EmbeddingLoss, load_loss, similarity_loss
from mlis.encoder.network import Encoder
from mlis.encoder.trainer import fit_encoder
from mlis.generators.base import FeatureGenerator, synthesise
from mlis.generators.registry import CLOSED_FORM, fit_generator
from mlis.incremental.exemplar_buffer import ExemplarBuffer, keep_exemplars
from mlis.model.classification import fit_classifier
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import FeatureScaler, TrainingTensors, prepare
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import Identity, LinearReLU
from mlis.provenance import generation_key
from mlis.training.callbacks import Callback
from mlis.training.checkpoints import CheckpointStore
from mlis.training.generator_cache import GeneratorCache

if TYPE_CHECKING:  # only for the type of a field: training code never imports evaluation
    from mlis.evaluation import Evaluation

_GENERATION = "generation.batch_size or generation.hidden"
_REFINEMENT = (
    "refinement.classes_per_batch, refinement.samples_per_class, refinement.hidden or "
    "refinement.synthetic_per_unseen"
)
_REMEDIES = {  # when memory does not suffice
    "rows": "Leave the features in their file (a dataset folder, MLIS_RESIDENT_MIB=0)",
    "joint": f"Lower {_GENERATION}, or {_REFINEMENT}",
    "generation": f"Lower {_GENERATION}",
    "refinement": f"Lower {_REFINEMENT}",
    "classification": "Lower classification.synthetic_per_unseen or refinement.hidden, leave the "
    "features in their file (a dataset folder, MLIS_RESIDENT_MIB=0)",
}


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training returns.

    Attributes:
        recognizer: of all classes, calibrated where that was asked for.
        exemplars: the state needed to add classes later; None where it was not asked for, or no
            generator was trained.
        seconds: wall time in this process, of calibration trainings too.
        reused: whether a generator, of the training or of a calibration training, came from the
            cache.
        validation: measures on the validation classes at the chosen constant; None where the
            constant was given.
    """

    recognizer: Recognizer
    exemplars: "ExemplarBuffer | None" = None
    seconds: float = 0.0
    reused: bool = False
    validation: "Evaluation | None" = None

    @classmethod
    def of(cls, found: "Recognizer | Trained") -> "Trained":
        """What a method's training yields, which may be a recognizer alone."""
        return found if isinstance(found, Trained) else Trained(found)


@own_modes()
def fit(
    training: TrainingSplit,
    config: Config,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    loss: EmbeddingLoss | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
    reuse: bool = False,
    exemplars: bool = True,
) -> Trained:
    """Train a recognizer of all classes of `training`, seen and unseen.

    Args:
        training: rows of seen classes and descriptors of all; holds no test row.
        config: all settings. A `calibration` that validation is to choose counts as 0 here: it
            needs the validation split (:func:`mlis.protocol.choose`).
        seed: of every random number.
        device: "auto", "cpu", "cuda", "cuda:1", …
        loss: your own metric loss `(embeddings, labels) → scalar`, instead of `refinement.loss`.
        callbacks: are told of the progress.
        checkpoints: keeps snapshots, from which a killed training continues.
        reuse: whether the generator is taken from the user's cache folder, or trained there for
            later trainings (:mod:`mlis.training.generator_cache`); does not change the result.
        exemplars: whether the state needed to add classes later is kept
            (:mod:`mlis.incremental.exemplar_buffer`).

    Raises:
        DataError: the features do not suit the preprocessing.
        DivergenceError: a loss became NaN or infinite.
        OutOfMemoryError: memory does not suffice; names the settings to lower.
        SettingsError: `refinement.loss` names nothing, or the device is not there.
    """
    started = time.perf_counter()
    switches = config.refinement.switches
    if "ml" in switches and loss is None and similarity_loss(config.refinement) is None:
        loss = load_loss(config.refinement.loss)  # before an hour of generation, not after it
    precision = Precision.of(config.precision, device)
    with enough_memory("training rows", _REMEDIES["rows"]):
        scaler, data = prepare(training, config.preprocessing, precision)
    if isinstance(data.x, StreamedRows) and switches:
        check_room(len(data.x), config.refinement.hidden, data.x.dtype)
    how = (precision, seed, callbacks, checkpoints)
    encoder, reused = None, False
    if switches and config.refinement.schedule == "joint":
        with enough_memory("joint training", _REMEDIES["joint"]):
            generator, encoder = fit_joint(data, config, *how, loss)
    else:
        generator, reused = train_generator(training, data, config, *how, reuse)
        if switches:
            with enough_memory("refinement", _REMEDIES["refinement"]):
                encoder = fit_encoder(data, generator, config.refinement, *how, loss)
    recognizer = recognizer_of(training, scaler, data, generator, encoder, config, seed)
    kept = None
    if exemplars:
        with enough_memory("the exemplar buffer", "Train with exemplars=False (--no-growth)"):
            kept = keep_exemplars(data, generator, config, seed)
    return Trained(recognizer, kept, time.perf_counter() - started, reused)


def train_generator(
    training: TrainingSplit,
    data: TrainingTensors,
    config: Config,
    precision: Precision,
    seed: int,
    callbacks: Sequence[Callback] = (),
    checkpoints: CheckpointStore | None = None,
    reuse: bool = False,
) -> tuple[FeatureGenerator | None, bool]:
    """Train stage 1a, or take it from the cache.

    Args:
        training, data: the training split, and what `prepare` made of it.
        config, seed, callbacks, checkpoints, reuse: as of `fit`.
        precision: device and precision.

    Returns:
        The generator, None where no stage would use it; and whether it came from the cache.
    """
    settings = config.generation
    if not len(data.unseen) and not config.classification.synthetic_per_seen:
        return None, False

    def train(checkpoints: CheckpointStore | None) -> FeatureGenerator:
        return fit_generator(data, settings, precision, seed, callbacks, checkpoints)

    with enough_memory("generation", _REMEDIES["generation"]):
        if not reuse or settings.generator in CLOSED_FORM:  # nothing worth keeping
            return train(checkpoints), False
        key = generation_key(training, config, seed, precision.device)
        return GeneratorCache(checkpoints).get_or_fit(key, train)


def recognizer_of(
    training: TrainingSplit,
    scaler: FeatureScaler,
    data: TrainingTensors,
    generator: FeatureGenerator | None,
    encoder: Encoder | None,
    config: Config,
    seed: int,
) -> Recognizer:
    """Train stage 2 on what stage 1 made, and put the recognizer together.

    Args:
        training, scaler, data: the training split, and what `prepare` made of it.
        generator: None where there is nothing to synthesise.
        encoder: None for a classifier of the scaled features themselves.
        config, seed: as of `fit`.
    """
    constant = config.classification.calibration
    with enough_memory("classification", _REMEDIES["classification"]):
        head = _train_classifier(data, generator, encoder, config, seed)
    refiner = Identity()
    if encoder is not None:
        refiner = LinearReLU(encoder.weight.detach(), encoder.bias.detach())
    return Recognizer(
        preprocessing=scaler,
        refiner=refiner,
        head=head,
        class_names=training.class_names,
        seen_mask=training.seen_mask,
        descriptors=training.descriptors,
        calibration=0.0 if isinstance(constant, str) else constant,
    )


@torch.no_grad()
def _train_classifier(
    data: TrainingTensors,
    generator: FeatureGenerator | None,
    encoder: Encoder | None,
    config: Config,
    seed: int,
) -> LinearHead:
    """Stage 2 on refined real and synthetic features."""
    refine: Callable[[Tensor], Tensor] = torch.nn.Identity() if encoder is None else encoder
    rows = cast(Rows, data.x)  # PyTorch leaves open what a tensor's split gives
    parts = zip(rows.split(CHUNK_ROWS), torch.split(data.y, CHUNK_ROWS), strict=True)
    synthetic = _synthetic(data, generator, config.classification, seed)
    if not isinstance(data.x, StreamedRows):
        pairs = [(refine(x), y) for x, y in chain(parts, synthetic)]
        features, labels = torch.cat([h for h, _ in pairs]), torch.cat([y for _, y in pairs])
        del pairs
    elif encoder is None:  # the file of the real rows can be read as it is
        features, labels = spill(synthetic, data.x, data.x.shape[1])
        features, labels = ConcatenatedRows(data.x, features), torch.cat((data.y, labels))
    else:
        refined = ((encoder(x), y) for x, y in chain(parts, synthetic))
        features, labels = spill(refined, data.x, len(encoder.bias))
    return fit_classifier(features, labels, data.num_classes, config.classification)


def _synthetic(
    data: TrainingTensors, generator: FeatureGenerator | None, settings: Classification, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Synthetic features and labels for stage 2, by chunks."""
    if generator is None:
        return
    sampler = generator.sampler(data.descriptors)
    rng = stream(seed, "classification", device=data.x.device)
    for classes, count in (
        (data.unseen, settings.synthetic_per_unseen),
        (data.seen, settings.synthetic_per_seen),
    ):
        yield from synthesise(sampler, classes, count, rng)
