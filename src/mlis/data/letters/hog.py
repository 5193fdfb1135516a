"""Histograms of oriented gradients, an image descriptor without training.

Dalal & Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005, section 6:
centred differences without smoothing, unsigned orientations, votes weighted by the gradient
magnitude and interpolated linearly between neighbouring orientations and cells, overlapping blocks
of 2 x 2 cells, each L2-normalised and clipped. The second normalisation of "L2-Hys" is omitted, so
that blocks with weak gradients remain small. All entries lie in [0, 1], as the final ReLUs of
generator and encoder need non-negative features.
"""

import numpy as np

from mlis.errors import DataError

_CLIP = 0.2  # of a unit block: limits the influence of a single direction
_EPSILON = 16.0  # added to squared norms: suppresses blocks of noise, but not of strokes
_CHUNK = 64  # images at a time: their gradients fit into the CPU cache


def hog(images: np.ndarray, *, cells: int = 6, orientations: int = 9) -> np.ndarray:
    """Describe square grey images by histograms of oriented gradients.

    Args:
        images: (N, size, size) uint8, 0 to 255.
        cells: cells along each side, each `size / cells` pixels wide; at least 2.
        orientations: bins over 180 degrees.

    Returns:
        (N, (cells - 1)^2 * 4 * orientations) float32 in [0, 1]: block row, block column, the
        block's four cells, orientation.

    Raises:
        DataError: `images` is not (N, size, size) uint8, or smaller than its cells.

    >>> hog(np.zeros((3, 48, 48), np.uint8)).shape
    (3, 900)
    """
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
        raise DataError(
            f"images: expected (N, size, size) uint8, got {images.shape} {images.dtype}. Convert "
            "them to square 8-bit greyscale images."
        )
    if not 2 <= cells <= images.shape[1]:
        raise DataError(f"cells: expected 2 to {images.shape[1]}, got {cells}.")
    chunks = range(0, len(images), _CHUNK)
    blocks = [_describe(images[i : i + _CHUNK], cells, orientations) for i in chunks]
    width = (cells - 1) ** 2 * 4 * orientations
    return np.concatenate(blocks) if blocks else np.zeros((0, width), np.float32)


def _describe(images: np.ndarray, cells: int, orientations: int) -> np.ndarray:
    magnitude, position = _gradients(images, orientations)
    pool = _tents(images.shape[1], cells)
    histograms = np.empty((len(images), cells, cells, orientations), np.float32)
    for o in range(orientations):
        away = np.abs(position - o)
        share = np.maximum(0, 1 - np.minimum(away, orientations - away))  # orientations are cyclic
        histograms[..., o] = pool @ (share * magnitude) @ pool.T
    corners = [histograms[:, i : cells - 1 + i, j : cells - 1 + j] for i in (0, 1) for j in (0, 1)]
    blocks = np.concatenate(corners, axis=-1)
    norms = np.sqrt(np.square(blocks).sum(axis=-1, keepdims=True) + _EPSILON)
    return np.minimum(blocks / (norms * _CLIP), 1).reshape(len(images), -1)


def _gradients(images: np.ndarray, orientations: int) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and orientation (in bins, bin o is centred on o + 0.5), zero at the border."""
    grey = images.astype(np.float32) / 255
    gx, gy = np.zeros_like(grey), np.zeros_like(grey)
    gx[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    gy[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    angle = np.arctan2(gy, gx) % np.float32(np.pi)
    return np.hypot(gx, gy), angle * np.float32(orientations / np.pi) - 0.5


def _tents(size: int, cells: int) -> np.ndarray:
    """(cells, size) linear weight of each pixel in each cell: 1 at its centre, 0 one cell away."""
    width = size / cells
    centres = (np.arange(cells)[:, None] + 0.5) * width
    pixels = np.arange(size) + 0.5
    return np.maximum(0, 1 - np.abs(pixels - centres) / width).astype(np.float32)
