"""Classes described by sentences, and a text model that needs no weights."""

import dataclasses
from functools import cache

import numpy as np

from mlis.data.dataset import GZSLDataset, Provenance
from mlis.features.backbones.base import BackboneSpec
from simulated import linear_world

SIZE, WORDS = 16, 24
SPEC = BackboneSpec("words", "feed", "first 9 tokens", "mean", SIZE)


class Words:
    """A text model: each sentence has a vector of its own, drawn from its text."""

    def __init__(self):
        self.identity = SPEC
        self.asked = []

    def encode(self, texts):
        self.asked += list(texts)
        drawn = [np.random.default_rng(list(text.encode())).normal(size=SIZE) for text in texts]
        vectors = np.asarray(drawn, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def texts_of(owner, classes):
    """One text of two sentences and one of one; the last two classes differ in the latter alone."""
    rng = np.random.default_rng(owner if owner < classes - 2 else 99)
    first, second, third = rng.choice(WORDS, 3, replace=False)
    last = third if owner < classes - 2 else 100 + owner - classes
    return [f"It has part {first}. Does it have {second}?", f"It looks like {last}."]


@cache
def worded_world() -> GZSLDataset:
    """Features linear in the mean of the embeddings of each class's three sentences."""
    made = linear_world(classes=60, unseen=8, attributes=SIZE, noise=0.05)
    texts = {name: texts_of(i, 60) for i, name in enumerate(made.class_names)}
    single = [(*two.replace(". ", ".|").split("|"), one) for two, one in texts.values()]
    vectors = np.stack([Words().encode(said).mean(0) for said in single])
    descriptors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rng = np.random.default_rng(3)
    signal = descriptors[made.labels] @ rng.normal(size=(SIZE, 24))
    signal += 0.1 * rng.normal(size=signal.shape)
    features = np.concatenate([signal - signal.min(), made.features[:, 24:]], axis=1)
    record = {"text": SPEC.to_dict(), "texts": texts, "size": SIZE, "attributes": []}
    return dataclasses.replace(
        made,
        features=np.ascontiguousarray(features, dtype=np.float32),
        descriptors=descriptors.astype(np.float32),
        provenance=Provenance("made", sources={"descriptors": record}),
    )
