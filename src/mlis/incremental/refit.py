"""Solving stage 2 again for classes of which some are new, from the exemplar buffer.

The generator makes features of a new class from its descriptor, the encoder refines them and the
kept rows, and the head is solved from its present weights. Generator and encoder stay as they are.
"""

from collections.abc import Callable
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.generators.base import Sampler, synthesise
from mlis.generators.ridge import RidgeGenerator, RidgePredictor
from mlis.incremental.exemplar_buffer import LEAST, ExemplarBuffer
from mlis.incremental.image_posterior import informed_sampler
from mlis.incremental.stored_generator import unpack
from mlis.model.classification import fit_classifier
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import normalise_descriptors

FEW = 5
"""Additions at full cost: from then on fewer synthetic rows per class keep the cost as it is."""


def refit(
    exemplars: ExemplarBuffer,
    refine: Callable[[Tensor], Tensor],
    descriptors: np.ndarray,
    seen: np.ndarray,
    start: LinearHead,
    device: torch.device,
) -> LinearHead:
    """Solve stage 2 again for classes of which some are new.

    Args:
        exemplars: the training's.
        refine: scaled features (B, Dx) → (B, Dh), on `device`.
        descriptors: (C, Da) of all classes, the new ones last.
        seen: (C,) bool.
        start: the present head, of the first classes.
        device: where to compute.

    Raises:
        ModelFileError: the generator's tensors are not those of the settings.
    """
    precision = Precision.of("float32", device)
    settings = exemplars.config.classification
    # a copy: memory of another library is aligned by chance, and the last bits depend on that
    vectors = precision.tensor(descriptors).clone()
    described = normalise_descriptors(vectors, exemplars.config.preprocessing)
    known = torch.from_numpy(np.ascontiguousarray(seen)).to(device)
    sampler = _sampler(exemplars, described, known, precision)
    rng = stream(exemplars.seed, "classification", device=device)
    real = exemplars.scaled(device)
    unseen, of_seen = (torch.nonzero(mask).flatten() for mask in (~known, known))
    count = _rows_per_unseen(exemplars, len(unseen), len(described))
    synthetic = chain(
        synthesise(sampler, unseen, count, rng),
        synthesise(sampler, of_seen, settings.synthetic_per_seen, rng),
    )
    pairs = [(refine(x), y) for x, y in chain(real, synthetic)]
    features, labels = torch.cat([h for h, _ in pairs]), torch.cat([y for _, y in pairs])
    del pairs
    sample_weight = torch.ones(len(labels), dtype=torch.float32, device=device)
    kept = len(exemplars.sample_weight)
    sample_weight[:kept] = exemplars.sample_weight.to(device)
    sample_weight[kept : kept + count * len(unseen)] = settings.synthetic_per_unseen / count
    return fit_classifier(
        features, labels, len(described), settings, sample_weight=sample_weight, start=start
    )


def _sampler(
    exemplars: ExemplarBuffer, described: Tensor, known: Tensor, precision: Precision
) -> Sampler:
    """Of the trained generator; classes that were given images are drawn around what these say."""
    settings = exemplars.config.generation
    found = unpack(exemplars.generator, settings, precision, signed=exemplars.signed)
    own = described[known]
    ridge = isinstance(found, RidgePredictor)
    generator = _ridge(exemplars, found, known, own) if ridge else found
    if bool(known[exemplars.labels.to(known.device)].all()):
        return generator.sampler(described)
    rows = partial(exemplars.scaled, known.device)
    rng = stream(exemplars.seed, "image posterior", device=known.device)
    return informed_sampler(
        generator, settings, rows, described, known, rng, signed=exemplars.signed
    )


def _rows_per_unseen(exemplars: ExemplarBuffer, unseen: int, classes: int) -> int:
    """Synthetic rows per unseen class: the setting while `FEW` or fewer classes were added.

    A pass of stage 2 costs rows × classes. More classes share what the first `FEW` may cost, each
    of their rows with a larger weight. It depends on the classes alone, not on their order.
    """
    wanted = exemplars.config.classification.synthetic_per_unseen
    most, real = exemplars.unseen + FEW, len(exemplars.rows)
    budget = (real + wanted * most) * (classes - unseen + most)
    return min(wanted, max(LEAST, (budget // classes - real) // max(unseen, 1)))


def _ridge(
    exemplars: ExemplarBuffer, predictor: RidgePredictor, known: Tensor, lenders: Tensor
) -> RidgeGenerator:
    """The generator of `known` (C,) classes; `lenders` are their descriptors."""
    x, y = (torch.cat(parts) for parts in zip(*exemplars.scaled(known.device), strict=True))
    lent = known[y]
    x, (classes, y) = x[lent], y[lent].unique(return_inverse=True)
    counts = torch.bincount(y, minlength=len(classes))
    means = x.new_zeros(len(classes), x.shape[1]).index_add_(0, y, x)
    return RidgeGenerator(
        predictor=predictor,
        x=x,
        order=torch.argsort(y, stable=True),
        starts=counts.cumsum(0) - counts,
        counts=counts,
        means=means / counts[:, None],
        neighbours=exemplars.config.generation.ridge_neighbours,
        signed=exemplars.signed,
        lenders=lenders,
    )
