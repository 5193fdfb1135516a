"""VGSE: classes described by the clusters that patches of their images fall into.

Xu, Xian, Wang, Schiele, Akata: "VGSE: Visually-Grounded Semantic Embeddings for Zero-Shot
Learning", CVPR 2022. A head assigns each patch to K clusters, which are learned from the images of
seen classes alone:

    a = softmax(H f)                                      (patches, K)
    L = − mean_i mean_j log ⟨a_i, a_j⟩                     j among the patches nearest to i
        + λ Σ_k ā_k log ā_k                               all clusters are used
        + β CE(linear(a), y)                              they tell classes apart
        + γ mean ‖S a − w_y‖                              and say what is known of the class

A seen class is described by φ_s, the mean of a over the patches of its images; an unseen class by
the mixture of the φ_s that its embedding w is of theirs (SMO: :mod:`mlis.methods.vgse`). A class
with the vector [φ ; w] is recognised by SJE on the features of the whole image.

Patches are the regions of the dataset, in the paper 9 of a segmentation of each image; with one
region, the whole image is the only patch, and the method is named "pooled". The training program
was never published, so that these are ours, as the method's name says: λ, β and γ; neighbours are
sought among the patches of the other images of a batch, there among all, by features of a
self-supervised network; steps and rates. φ is centred, rotated and brought to unit length, and
features are transformed, as :mod:`mlis.methods.vgse` says; patches are not scaled. w are the
dataset's descriptors, as the paper has them in an ablation; with `words="names"` the vectors of
class names (`mlis data build --phrases`), as in its table, which then uses no attribute.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.data.out_of_core.streaming import CHUNK_ROWS
from mlis.data.samplers import uniform_rows
from mlis.errors import SettingsError
from mlis.generators.ridge import class_means
from mlis.methods.base import ByBenchmark, Job
from mlis.methods.network_method import Losses, NetworkTrainer, within
from mlis.methods.vgse import VGSE
from mlis.model.preprocessing import TrainingTensors, normalise_descriptors
from mlis.model.recognizer import Recognizer
from mlis.training.layers import Linear
from mlis.training.loop import train

_LEAST = 1e-12  # of a probability whose logarithm is taken


class PatchClusters(nn.Module):
    """H, and what holds its clusters to class and embedding.

    Args:
        size, clusters, classes, words: D, K, S and the length of w.
        precision: device and dtypes.
        rng: CPU generator that draws the weights.
    """

    def __init__(
        self,
        size: int,
        clusters: int,
        classes: int,
        words: int,
        precision: Precision,
        rng: torch.Generator,
    ):
        super().__init__()
        self.assign: Linear = Linear(size, clusters, 1.0, precision, rng)
        self.classify: Linear = Linear(clusters, classes, 1.0, precision, rng)
        self.ground: Linear = Linear(clusters, words, words**-0.5, precision, rng)

    def forward(self, patches: Tensor) -> Tensor:
        """a, (n, K), of (n, D) patches, which are brought to unit length."""
        return self.assign(normalize(patches, dim=1)).softmax(1)


def nearest_of_others(patches: Tensor, images: Tensor, count: int) -> Tensor:
    """For each patch the most similar ones of other images, (n, count) indices.

    Args:
        patches: (n, D), compared by cosine.
        images: (n,), which image each is of.
        count: how many, at most those that there are for every patch.
    """
    units = normalize(patches, dim=1)
    similar = (units @ units.T).masked_fill(images[:, None] == images, -math.inf)
    fewest = int(similar.isfinite().sum(1).amin())
    return similar.topk(min(count, fewest), dim=1).indices


def agreement_loss(a: Tensor, near: Tensor) -> Tensor:
    """−log of the probability that a patch and a neighbour are of one cluster; mean.

    Args:
        a: (n, K) assignments.
        near: (n, k) indices.
    """
    return -(a[:, None] * a[near]).sum(2).clamp(min=_LEAST).log().mean()


def negative_entropy(a: Tensor) -> Tensor:
    """Σ ā log ā of the mean assignment: least, −log K, where all clusters are used alike."""
    mean = a.mean(0)
    return (mean * mean.clamp(min=_LEAST).log()).sum()


@dataclass(frozen=True)
class VGSEPatches(VGSE):
    """VGSE; see `VGSE` for α, and `SJE` for the recognition.

    Attributes:
        words: w: the descriptors, or vectors of the class names.
        clusters: K.
        neighbours: of a patch.
        cluster_steps, cluster_batch, cluster_rate: updates of H, images of a step, Adam's rate.
        entropy_weight, class_weight, word_weight: λ, β and γ.
    """

    published: ClassVar[ByBenchmark] = {}  # of the training on patches nothing was

    words: Literal["descriptors", "names"] = "descriptors"
    clusters: int = within(150, 2)
    neighbours: int = within(5, 1)
    cluster_steps: int = within(500, 1)
    cluster_batch: int = within(64, 2)
    cluster_rate: float = within(1e-2, 0)
    entropy_weight: float = within(1.0, 0)
    class_weight: float = within(1.0, 0)
    word_weight: float = within(1.0, 0)

    @property
    def name(self) -> str:
        """Says what is not the paper's."""
        return "VGSE (grid, losses partly ours)"

    def name_on(self, regions: int) -> str:
        """Says that regions are pooled where there is one only."""
        return self.name if regions > 1 else "VGSE (pooled, losses partly ours)"

    def train(self, job: Job) -> Iterator[tuple[Self, Recognizer]]:
        """Train H, then SJE on the vectors that it makes.

        Raises:
            DivergenceError: a loss became NaN or infinite.
            SettingsError: words="names", and not all class names have vectors.
        """
        scaler, data = job.prepare(self.config)
        words = self._words(job, data)
        looks = self.shares(job, words)
        yield from self.train_on(job, scaler, data, lambda one: one.mixed(data, looks, words))

    def _words(self, job: Job, data: TrainingTensors) -> Tensor:
        """w, (C, k)."""
        if self.words == "descriptors":
            return data.descriptors
        if job.training.name_vectors is None:
            raise SettingsError(
                "VGSEPatches.words='names': expected a vector of each class name in the dataset's "
                "provenance, got none. Build the dataset with --phrases, or use 'descriptors'"
            )
        vectors = torch.from_numpy(job.training.name_vectors).to(data.descriptors)
        return normalise_descriptors(vectors, self.config.preprocessing)

    def shares(self, job: Job, words: Tensor) -> Tensor:
        """φ, (C, K): how the patches of a class fall into clusters; zero for unseen classes."""
        raw = self.config.replace({"preprocessing": {"feature_scaling": "none"}})
        _, data = job.prepare(raw, pool=False)
        regions, precision = job.training.regions, Precision.of(self.config.precision, job.device)
        size = data.x.shape[1] // regions
        rng = stream(job.seed, "vgse-weights")
        sizes = size, self.clusters, len(data.seen), words.shape[1]
        network = PatchClusters(*sizes, precision, rng)
        batches = stream(job.seed, "vgse-clusters-batches", device=data.y.device)
        settings = replace(self, learning_rate=self.cluster_rate, decay_every=0)
        losses = self.cluster_losses(network, data, words)
        trainer = NetworkTrainer(network, losses, settings, batches)
        train("vgse-clusters", trainer, self.cluster_steps, job.callbacks, job.checkpoints)
        return class_shares(network.requires_grad_(False), data)

    def cluster_losses(
        self, network: PatchClusters, data: TrainingTensors, words: Tensor
    ) -> Losses:
        """Of the patches of a batch of images.

        Args:
            network: H.
            data: rows (n, R · D).
            words: w, (C, k).
        """
        own = torch.searchsorted(data.seen, data.y)
        size = network.assign.weight.shape[1]

        def losses(rng: torch.Generator) -> dict[str, Tensor]:
            rows = uniform_rows(len(own), self.cluster_batch, rng)
            patches = data.x[rows].reshape(-1, size)
            of = rows.repeat_interleave(len(patches) // len(rows))
            a = network(patches)
            near = nearest_of_others(patches, of, self.neighbours)
            apart = network.ground(a) - words[data.y[of]]
            return {
                "agreement": agreement_loss(a, near),
                "entropy": self.entropy_weight * negative_entropy(a),
                "class": self.class_weight * cross_entropy(network.classify(a), own[of]),
                "words": self.word_weight * apart.norm(dim=1).mean(),
            }

        return losses


def class_shares(network: PatchClusters, data: TrainingTensors) -> Tensor:
    """φ, (C, K): mean assignment of the patches of each class; zero for unseen classes."""
    size = network.assign.weight.shape[1]
    images: list[Tensor] = []
    for rows in data.x.split(max(1, CHUNK_ROWS * size // data.x.shape[1])):
        a = network(rows.reshape(-1, size))
        images.append(a.unflatten(0, (len(rows), -1)).mean(1))
    return class_means(torch.cat(images), data.y, data.num_classes)
