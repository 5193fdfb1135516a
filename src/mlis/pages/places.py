"""Where features lie in two dimensions, and whether those of a class lie together."""

import numpy as np
from sklearn.manifold import TSNE

PERPLEXITY, COMPONENTS = 20, 50


def place(features: np.ndarray) -> np.ndarray:
    """(n, 2) positions in the unit square of (n, D) features, n ≥ 5; always the same ones.

    Unit vectors, so that it is cosines that are shown; principal components, so that t-SNE has
    less to do; then exact t-SNE with a fixed seed (van der Maaten and Hinton: "Visualizing Data
    using t-SNE", JMLR 2008). Time grows with n².
    """
    centred = _unit(features)
    centred -= centred.mean(axis=0)
    values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    reduced = vectors[:, -COMPONENTS:] * np.sqrt(np.maximum(values[-COMPONENTS:], 0))
    perplexity = min(PERPLEXITY, (len(reduced) - 1) / 3)
    tsne = TSNE(init="pca", method="exact", perplexity=perplexity, max_iter=600, random_state=0)
    placed = tsne.fit_transform(reduced.astype(np.float32))
    low, high = placed.min(axis=0), placed.max(axis=0)
    return (placed - low) / np.maximum(high - low, 1e-9)


def same_class_nearest(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the row with the most similar features, by cosine, is of the same class.

    >>> same_class_nearest(np.array([[1.0, 0], [9, 1], [0, 1]]), np.array([0, 0, 1])).tolist()
    [True, True, False]
    """
    unit = _unit(features)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return labels[similarity.argmax(axis=1)] == labels


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
