"""Two-dimensional projection of features, and their nearest neighbours."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

PERPLEXITY, COMPONENTS = 20, 50


def project(features: np.ndarray) -> np.ndarray:
    """(n, 2) positions in the unit square of (n, D) features, n ≥ 5; deterministic.

    The features are normalised, so that distances depend on cosines, reduced to principal
    components, and projected by exact t-SNE with a fixed seed (van der Maaten and Hinton:
    "Visualizing Data using t-SNE", JMLR 2008). Time is quadratic in n.
    """
    size = min(COMPONENTS, *features.shape)
    reduced = PCA(size, svd_solver="full").fit_transform(normalize(features))
    perplexity = min(PERPLEXITY, (len(reduced) - 1) / 3)
    tsne = TSNE(init="pca", method="exact", perplexity=perplexity, max_iter=600, random_state=0)
    placed = tsne.fit_transform(reduced.astype(np.float32))
    low, high = placed.min(axis=0), placed.max(axis=0)
    return (placed - low) / np.maximum(high - low, 1e-9)


def same_class_nearest(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the nearest other row by cosine is of the same class.

    >>> same_class_nearest(np.array([[1.0, 0], [9, 1], [0, 1]]), np.array([0, 0, 1])).tolist()
    [True, True, False]
    """
    similarity = cosine_similarity(features)
    np.fill_diagonal(similarity, -np.inf)
    return labels[similarity.argmax(axis=1)] == labels
