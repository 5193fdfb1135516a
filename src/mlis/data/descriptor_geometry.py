"""Similarity of class descriptors: to the nearest other class, and to their common mean."""

import numpy as np

from mlis.data.out_of_core.arrays import row_chunks


def unit_rows(descriptors: np.ndarray) -> np.ndarray:
    """(C, Da) float64 rows of length 1; rows of zeros stay."""
    rows = descriptors.astype(np.float64)
    scale = np.abs(rows).max(axis=1, keepdims=True)  # avoids overflow of squares
    rows /= np.where(scale > 0, scale, 1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def nearest_described(descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The other class that is described most alike, and the cosine with it after centring.

    What all descriptors share says nothing about a class, so the mean of the unit descriptors is
    subtracted first.

    Args:
        descriptors: (C, Da) of at least two classes.

    Returns:
        (C,) int64 and (C,) float64.
    """
    unit = unit_rows(descriptors)
    centred = unit_rows(unit - unit.mean(axis=0))
    nearest, cosine = np.empty(len(unit), dtype=np.int64), np.empty(len(unit))
    for start, chunk in row_chunks(centred):
        rows = np.arange(start, start + len(chunk))
        similar = chunk @ centred.T
        similar[rows - start, rows] = -np.inf
        nearest[rows], cosine[rows] = similar.argmax(axis=1), similar.max(axis=1)
    return nearest, cosine


def distinctness(descriptors: np.ndarray) -> np.ndarray:
    """(C,) 1 − cosine of each descriptor with the sum of the others; small: it says little.

    Args:
        descriptors: (C, Da) of at least two classes.
    """
    unit = unit_rows(descriptors)
    others = unit_rows(unit.sum(axis=0) - unit)
    return 1 - np.einsum("cd,cd->c", unit, others)
