"""Several image models: each sees every picture, and their features are concatenated."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mlis.features.backbones.base import Backbone, BackboneSpec


class Joined:
    """A :class:`~mlis.features.backbones.base.Backbone` of several, on one device.

    Args:
        models: at least two, of the same views, in the order of the features.
    """

    def __init__(self, models: Sequence[Backbone]):
        self.models: tuple[Backbone, ...] = tuple(models)
        specs = [model.identity for model in models]
        fingerprints = json.dumps([spec.fingerprint for spec in specs])
        self.identity: BackboneSpec = BackboneSpec(
            ",".join(spec.name for spec in specs),
            hashlib.sha256(fingerprints.encode()).hexdigest(),
            json.dumps([spec.preprocessing for spec in specs]),
            ", ".join(dict.fromkeys(spec.pooling for spec in specs)),
            sum(spec.size for spec in specs),
            specs[0].views,
        )
        self.precision: str = models[0].precision
        self.on_cpu: bool = models[0].on_cpu
        self.batch: int = min(model.batch for model in models)
        enough = [model.enough for model in models if model.enough is not None]
        self.enough: int | None = max(enough) if len(enough) == len(models) else None

    def prepare(self, image: Image.Image) -> np.ndarray:
        """() record with one field per model: its input, of its own shape and dtype."""
        inputs = [model.prepare(image) for model in self.models]
        fields = [(f"{i}", each.dtype, each.shape) for i, each in enumerate(inputs)]
        record = np.empty((), dtype=fields)
        for i, each in enumerate(inputs):
            record[f"{i}"] = each
        return record

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """(B, Dx) float32 of B prepared images of equal dtype."""
        rows = [model([one[f"{i}"] for one in inputs]) for i, model in enumerate(self.models)]
        return np.concatenate(rows, axis=1)
