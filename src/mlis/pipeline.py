"""The order of the stages: dataset → generation → refinement → classification → inference."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from itertools import chain
from typing import cast

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
from mlis.generators.wgan_gp.trainer import fit_generator
from mlis.incremental.exemplar_buffer import keep
from mlis.model.classification import LinearClassifier, fit_classifier
from mlis.model.preprocessing import FeatureScaler, TrainingTensors, prepare
from mlis.model.recognizer import Recognizer
from mlis.training.loop import Monitor

logger: logging.Logger = logging.getLogger(__name__)

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


@own_modes()
def fit(
    training: TrainingSplit,
    config: Config,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    monitor: Monitor | None = None,
    loss: EmbeddingLoss | None = None,
    growable: bool = True,
) -> Recognizer:
    """Train a recognizer of all classes of `training`, seen and unseen.

    Args:
        training: rows of seen classes and descriptors of all; holds no test row.
        config: all settings. A `calibration="validation"` is resolved by the caller, who has
            the validation split (:func:`mlis.protocol.fit_and_calibrate`); here it counts as 0.
        seed: of every random number.
        device: "auto", "cpu", "cuda", "cuda:1", …
        monitor: hears of losses and keeps snapshots.
        loss: your own metric loss `(embeddings, labels) → scalar`, instead of `refinement.loss`.
        growable: whether the recognizer keeps what adding classes needs
        (:mod:`mlis.incremental.exemplar_buffer`).

    Raises:
        DivergenceError: a loss became NaN or infinite.
        SettingsError: `refinement.loss` names nothing, or the device is not there.
    """
    monitor = monitor or Monitor()
    own_loss = loss is None and similarity_loss(config.refinement) is None
    if own_loss and "ml" in config.refinement.switches:
        loss = load_loss(config.refinement.loss)  # before an hour of generation, not after it
    precision = Precision.of(config.precision, device)
    with enough_memory("training rows", _REMEDIES["rows"]):
        scaler, data = prepare(training, config.preprocessing, precision)
    if isinstance(data.x, StreamedRows) and config.refinement.switches:
        check_room(len(data.x), config.refinement.hidden, data.x.dtype)
    generator, encoder = _train_stage_one(data, config, precision, seed, monitor, loss)

    recognizer = recognizer_of(training, scaler, data, generator, encoder, config, seed)
    if not growable:
        return recognizer
    with enough_memory("what adding classes needs", "Train with growable=False"):
        return dataclasses.replace(recognizer, growth=keep(data, generator, config, seed))


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
        classifier = _train_classifier(data, generator, encoder, config, seed)
    return Recognizer(
        scaler=scaler,
        encoder_weight=None if encoder is None else encoder.weight.detach(),
        encoder_bias=None if encoder is None else encoder.bias.detach(),
        classifier=classifier,
        class_names=training.class_names,
        seen_mask=training.seen_mask,
        descriptors=training.descriptors,
        calibration=0.0 if isinstance(constant, str) else constant,
    )


def _train_stage_one(
    data: TrainingTensors,
    config: Config,
    precision: Precision,
    seed: int,
    monitor: Monitor,
    loss: EmbeddingLoss | None,
) -> tuple[FeatureGenerator | None, Encoder | None]:
    """Generator (None when nothing would use it) and encoder (None when there are no losses)."""
    switches = config.refinement.switches
    if config.refinement.schedule == "joint" and switches:
        with enough_memory("joint training", _REMEDIES["joint"]):
            return fit_joint(data, config, precision, seed, monitor, loss)
    generator = None
    if len(data.unseen) or config.classification.synthetic_per_seen:
        with enough_memory("generation", _REMEDIES["generation"]):
            generator = fit_generator(data, config.generation, precision, seed, monitor)
    if not switches:
        return generator, None
    with enough_memory("refinement", _REMEDIES["refinement"]):
        encoder = fit_encoder(data, generator, config.refinement, precision, seed, monitor, loss)
    return generator, encoder


@torch.no_grad()
def _train_classifier(
    data: TrainingTensors,
    generator: FeatureGenerator | None,
    encoder: Encoder | None,
    config: Config,
    seed: int,
) -> LinearClassifier:
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
        features, labels = spill(refined, data.x, config.refinement.hidden)
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
