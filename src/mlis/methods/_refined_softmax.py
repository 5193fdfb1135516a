"""Softmax of methods with other refiners than one encoder.

The solver is :mod:`mlis.model.classification`."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from mlis.compute.memory import resident_limit
from mlis.compute.random import stream
from mlis.config import Classification
from mlis.data.out_of_core.spill import spill
from mlis.data.out_of_core.streaming import (
    CHUNK_ROWS,
    ConcatenatedRows,
    RefinedRows,
    Rows,
    StreamedRows,
)
from mlis.generators.base import FeatureGenerator, synthesise
from mlis.model.classification import fit_classifier
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import TrainingTensors
from mlis.model.refiners import (
    Activation,
    Concatenation,
    Identity,
    Layers,
    LinearReLU,
    Refiner,
)
from mlis.training.layers import Linear, Perceptron

logger: logging.Logger = logging.getLogger(__name__)

LEAST_SPREAD = 0.1  # of a part, as a share of its length


def as_refiner(layer: Linear, slope: float) -> LinearReLU:
    """A copy of a trained layer and its LeakyReLU; slope 1 leaves it linear."""
    return LinearReLU(layer.weight.detach().clone(), layer.bias.detach().clone(), slope)


def decoded(decoder: Perceptron, activation: str, outputs: int | None = None) -> Concatenation:
    """[x ; h(x) ; activation(W₂ h(x))], of the first `outputs` rows of W₂, or all."""
    last = as_refiner(decoder.last, 1.0)
    last.weight.data = last.weight[:outputs].clone()
    last.bias.data = last.bias[:outputs].clone()
    descriptor = Layers([last, Activation(activation)])
    hidden = Layers(
        [as_refiner(decoder.first, decoder.slope), Concatenation([Identity(), descriptor])]
    )
    return Concatenation([Identity(), hidden])


@torch.no_grad()
def fit_softmax(
    data: TrainingTensors,
    generator: FeatureGenerator,
    refiner: Refiner,
    settings: Classification,
    seed: int,
    parts: Sequence[int] = (),
) -> LinearHead:
    """Softmax on refined features, all real ones of seen classes and synthetic ones.

    Refined rows are held in memory where they fit; else they are made again, chunk by chunk, in
    each pass of L-BFGS, which gives the same up to the order of sums and takes up to six times as
    long.

    Args:
        data: the training split.
        generator: makes `synthetic_per_unseen` and `synthetic_per_seen` samples of each class.
        refiner: what the head will see.
        settings: of stage 2.
        seed: of the synthetic features.
        parts: widths of what the refiner puts side by side. Each part is divided by the root of
            its total variance over the real rows (at least a tenth of its root mean square length),
            so that no part outweighs the others by its scale; the returned weights are for the
            refiner's output as it is.
    """
    scale = _part_scale(data, refiner, parts) if len(parts) > 1 else None
    made = _kept(_synthetic(data, generator, settings, seed), data.x)
    features, labels = _refined([(data.x, data.y), *made], refiner, scale)
    head = fit_classifier(features, labels, data.num_classes, settings)
    return head if scale is None else LinearHead(head.weight * scale, head.bias.detach())


class Domains(NamedTuple):
    """What is known of seen and of unseen classes apart, on features h that are scaled.

    Attributes:
        seen, unseen: softmaxes of S and of U classes on scaled h.
        scale: (Dh,), of h.
        centres: (S, Dh), means of scaled h.
    """

    seen: LinearHead
    unseen: LinearHead
    scale: Tensor
    centres: Tensor


@torch.no_grad()
def fit_domains(
    data: TrainingTensors,
    generator: FeatureGenerator,
    refiner: Refiner,
    settings: Classification,
    seed: int,
    parts: Sequence[int],
) -> Domains:
    """Two softmaxes: of seen classes on real rows, of unseen ones on synthetic rows.

    Args: see :func:`fit_softmax`; synthetic samples of seen classes are not used.
    """
    scale, seen, unseen = _part_scale(data, refiner, parts), len(data.seen), len(data.unseen)
    own = torch.searchsorted(data.seen, data.y)
    features, labels = _refined([(data.x, own)], refiner, scale)
    sums = data.descriptors.new_zeros(seen, len(scale))
    for h, y in zip(features.split(CHUNK_ROWS), labels.split(CHUNK_ROWS), strict=True):
        sums.index_add_(0, y, h)
    centres = sums / torch.bincount(own, minlength=seen)[:, None]
    head = fit_classifier(features, labels, seen, settings)
    del features
    sampler = generator.sampler(data.descriptors)
    rng = stream(seed, "classification", device=data.y.device)
    if not unseen:
        return Domains(head, head.chosen(data.unseen), scale, centres)
    made = synthesise(sampler, data.unseen, settings.synthetic_per_unseen, rng)
    source = [(x, torch.searchsorted(data.unseen, y)) for x, y in _kept(made, data.x)]
    features, labels = _refined(source, refiner, scale)
    return Domains(head, fit_classifier(features, labels, unseen, settings), scale, centres)


def _kept(
    made: Iterator[tuple[Tensor, Tensor]], like: Tensor | StreamedRows
) -> Sequence[tuple[Tensor | Rows, Tensor]]:
    """Synthetic features and labels; in a file where the training rows are in one."""
    return [spill(made, like, like.shape[1])] if isinstance(like, StreamedRows) else list(made)


def _refined(
    source: Sequence[tuple[Tensor | Rows, Tensor]], refiner: Refiner, scale: Tensor | None
) -> tuple[Tensor | Rows, Tensor]:
    """Refined rows and labels: in memory where they fit, else refined when they are read.

    Args:
        source: features (n, Dx) and labels (n,), some rows after the other.
        refiner: of the features.
        scale: (Dh,) of what it makes; 1 where absent.
    """

    def refine(x: Tensor) -> Tensor:
        return refiner(x) if scale is None else refiner(x) * scale

    features = ConcatenatedRows(*(cast(Rows, x) for x, _ in source))
    rows = RefinedRows(features, refine, refiner.width(features.shape[1]))
    labels = torch.cat([y for _, y in source])
    on_gpu = rows.device.type == "cuda"
    limit = torch.cuda.mem_get_info(rows.device)[0] // 2 if on_gpu else resident_limit()
    size = rows.shape.numel() * rows.dtype.itemsize
    if size > limit:
        logger.info(
            "%.1f GiB of refined rows are made again in every pass, as %.1f GiB may be held "
            "(MLIS_RESIDENT_MIB on a CPU)",
            *(size / 2**30, limit / 2**30),
        )
        return rows, labels
    held = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    start = 0
    for h in rows.split(CHUNK_ROWS):
        held[start : start + len(h)] = h
        start += len(h)
    return held, labels


def _part_scale(data: TrainingTensors, refiner: Refiner, parts: Sequence[int]) -> Tensor:
    """(Dh,) one over the spread of a column's part."""
    width = refiner.width(data.x.shape[1])
    sums = torch.zeros((2, width), dtype=torch.float64, device=data.y.device)
    for x in data.x.split(CHUNK_ROWS):
        h = refiner(x).double()
        sums += torch.stack((h.sum(0), h.square().sum(0)))
    mean, square = sums / len(data.y)
    scales: list[Tensor] = []
    for own in torch.stack((square - mean.square(), square)).split(list(parts), dim=1):
        spread, length = own.sum(1).clamp(min=1e-12).sqrt()
        # a part that hardly varies would be rounding, blown up
        scale = 1 / torch.maximum(spread, LEAST_SPREAD * length)
        scales.append(scale.expand(own.shape[1]))
    return torch.cat(scales).to(data.descriptors.dtype)


def _synthetic(
    data: TrainingTensors, generator: FeatureGenerator, settings: Classification, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    sampler = generator.sampler(data.descriptors)
    rng = stream(seed, "classification", device=data.y.device)
    yield from synthesise(sampler, data.unseen, settings.synthetic_per_unseen, rng)
    yield from synthesise(sampler, data.seen, settings.synthetic_per_seen, rng)
