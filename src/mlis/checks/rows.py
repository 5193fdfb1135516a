"""Checks of rows: near-duplicate photographs, likely mislabelled ones.

Features stay where they are: each check is a few passes over blocks of rows, and keeps class sums,
a (d, d) matrix, or a low-dimensional copy of a sample.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mlis.checks.findings import Finding
from mlis.data.dataset import GZSLDataset
from mlis.data.out_of_core.arrays import row_chunks
from mlis.data.splits import sample_classes

COMPARED = 40_000
"""Most rows among which near-duplicates are sought, the same number of each class at most."""
NEAR = 0.3
"""Near-duplicates: closer than this part of the median distance of a row to its nearest one."""
_PROJECTED = 256  # dimensions in which distances are computed, within 5 % (Johnson–Lindenstrauss)
_REGRESSED = 2048  # most dimensions of the regression
_RIDGE = 0.3  # penalty per row and unit variance
MARGIN = 0.3
"""Mislabelled: another class's regressed indicator exceeds that of the label by more than this."""
_BLOCK = 256
_Pairs = dict[tuple[int, int], float]


@dataclass(frozen=True, eq=False)
class RowStatistics:
    """Statistics of the training rows of C classes, found in one pass.

    Attributes:
        mean, scale: (Dx,) float64; one over the standard deviation, 0 for a constant feature.
        counts: (C,) int64 rows of each class.
        class_means: (C, Dx) float64 of standardised features; zero for classes without rows.
    """

    mean: np.ndarray
    scale: np.ndarray
    counts: np.ndarray
    class_means: np.ndarray

    @classmethod
    def of(cls, data: GZSLDataset) -> "RowStatistics":
        """Of the training rows of a dataset."""
        sums = np.zeros((data.num_classes, data.features.shape[1]))
        squares = np.zeros(data.features.shape[1])
        for rows, chunk in _chunks(data, data.split.trainval):
            np.add.at(sums, data.labels[rows], chunk)
            squares += np.square(chunk, dtype=np.float64).sum(axis=0)
        counts = np.bincount(data.labels[data.split.trainval], minlength=data.num_classes)
        return cls.from_sums(sums, squares, counts)

    @classmethod
    def from_sums(
        cls, sums: np.ndarray, squares: np.ndarray, counts: np.ndarray
    ) -> "RowStatistics":
        """From (C, Dx) sums of rows, (Dx,) sums of their squares and (C,) counts."""
        mean = sums.sum(axis=0) / counts.sum()
        spread = np.sqrt(np.maximum(squares / counts.sum() - mean**2, 0))
        varies = spread > 1e-6 * np.abs(mean)  # below, rounding
        scale = np.where(varies, 1 / np.where(varies, spread, 1), 0)
        means = (sums / np.maximum(counts, 1)[:, None] - mean) * scale
        return cls(mean, scale, counts, np.where(counts[:, None] > 0, means, 0))


def _chunks(data: GZSLDataset, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of the features of `rows` (sorted), with their row numbers."""
    for start, chunk in row_chunks(data.features):
        low, high = np.searchsorted(rows, (start, start + len(chunk)))
        if high > low:
            yield rows[low:high], chunk[rows[low:high] - start]


def _standardised(
    data: GZSLDataset, statistics: RowStatistics, rows: np.ndarray, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `_chunks`, standardised and randomly projected to at most `width` dimensions, float32."""
    size = data.features.shape[1]
    directions = None
    if size > width:
        directions = np.random.default_rng(0).standard_normal((size, width), dtype=np.float32)
        directions /= np.sqrt(width, dtype=np.float32)
    mean, scale = statistics.mean.astype(np.float32), statistics.scale.astype(np.float32)
    for part, chunk in _chunks(data, rows):
        z = (chunk - mean) * scale
        yield part, z if directions is None else z @ directions


# --- near-duplicates ------------------------------------------------------------------------------


def duplicates(data: GZSLDataset, statistics: RowStatistics) -> tuple[list[Finding], list[str]]:
    """Test photographs that are nearly a training one, and nearly equal ones of two classes.

    Returns:
        Findings, and a note if not all rows were compared.
    """
    split = data.split
    used = np.sort(np.concatenate([split.trainval, split.test_seen, split.test_unseen]))
    rows, most = sample_classes(used, data.labels, COMPARED)
    points = np.concatenate([z for _, z in _standardised(data, statistics, rows, _PROJECTED)])
    everywhere = np.arange(len(rows))
    distance, _ = _nearest(points, everywhere, lambda at: everywhere[None] != at[:, None])
    spread = float(np.sqrt(np.square(points).sum(axis=1).mean()))
    apart = distance[np.isfinite(distance) & (distance > 0.01 * spread)]  # not copies
    typical = float(np.median(apart)) if len(apart) else spread
    close = np.flatnonzero(distance < NEAR * typical)
    trained, labels = np.isin(rows, split.trainval), data.labels[rows]

    def pairs(part: np.ndarray, allowed: Callable[[np.ndarray], np.ndarray]) -> _Pairs:
        apart, other = _nearest(points, part, allowed)
        ratios = apart / typical
        each = zip(part.tolist(), other.tolist(), ratios.tolist(), strict=True)
        return {(i, j): ratio for i, j, ratio in each if ratio < NEAR}

    across = pairs(close[~trained[close]], lambda at: trained[None])
    conflicts = pairs(close[trained[close]], lambda at: trained & (labels != labels[at][:, None]))
    conflicts = {(min(pair), max(pair)): ratio for pair, ratio in conflicts.items()}
    found: list[Finding] = []
    for check, some in (("test-duplicates", across), ("label-conflicts", conflicts)):
        for (i, j), ratio in some.items():
            names = data.class_names[labels[i]], data.class_names[labels[j]]
            message = f"{_said(check, *names)} ({ratio:.2f} of the usual distance)"
            where = int(rows[i]), int(rows[j])
            found.append(Finding(check, message, 1 - ratio, where, tuple(dict.fromkeys(names))))
    if len(rows) == len(used):
        return found, []
    return found, [
        f"near-duplicates: {len(rows):,} of {len(used):,} rows were compared, at most {most:,} of "
        "each class"
    ]


def _said(check: str, first: str, second: str) -> str:
    if check == "label-conflicts":
        return f"nearly equal in training, as {first!r} and as {second!r}"
    labels = f"both {first!r}" if first == second else f"{first!r} and {second!r}"
    return f"test and training nearly equal, {labels}"


def _nearest(
    points: np.ndarray, rows: np.ndarray, allowed: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to, and index of, the nearest of `points` (N, d) to each of `rows`.

    Args:
        points: (N, d) float32.
        rows: (n,) indices into `points`.
        allowed: (b,) indices → (b, N) or (1, N) bool, the points that count; infinity if none does.
    """
    squares = np.square(points).sum(axis=1)
    distance, index = np.full(len(rows), np.inf), np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        at = rows[start : start + _BLOCK]
        apart = squares[at][:, None] + squares - 2 * points[at] @ points.T
        apart = np.where(allowed(at), np.maximum(apart, 0), np.inf)
        index[start : start + len(at)] = apart.argmin(axis=1)
        distance[start : start + len(at)] = np.sqrt(apart.min(axis=1))
    return distance, index


# --- mislabelled rows -----------------------------------------------------------------------------


def mislabelled(data: GZSLDataset, statistics: RowStatistics) -> list[Finding]:
    """Training photographs that another class explains much better than their own.

    Ridge regression of class indicators (0 or 1) on standardised features; each row is predicted
    without itself, by the closed form of leave-one-out (Allen, "The relationship between variable
    selection and data augmentation", Technometrics 1974): `(f − h·y) / (1 − h)`, where h is the
    leverage. Only training rows are checked: test photographs that a model finds hard are not to be
    removed.
    """
    import scipy.linalg

    rows, labels = data.split.trainval, data.labels
    seen = np.flatnonzero(statistics.counts)
    if len(seen) < 2:
        return []
    place = np.searchsorted(seen, labels)
    gram, product = _moments(data, statistics, place, len(seen))
    n, prior = len(rows), statistics.counts[seen] / len(rows)
    gram[np.diag_indices_from(gram)] += _RIDGE * n
    inverse = scipy.linalg.inv(gram, check_finite=False)
    weights = (inverse @ product).astype(np.float32)
    inverse = inverse.astype(np.float32)
    found: list[Finding] = []
    for part, z in _standardised(data, statistics, rows, _REGRESSED):
        at = np.arange(len(part))
        own_class = place[part]
        fitted = z @ weights + prior
        leverage = np.einsum("nd,nd->n", z @ inverse, z) + 1 / n
        fitted[at, own_class] -= leverage
        fitted /= np.maximum(1 - leverage, 1e-3)[:, None]
        own = fitted[at, own_class].copy()
        fitted[at, own_class] = -np.inf
        other = fitted.argmax(axis=1)
        margin = fitted[at, other] - own
        for i in np.flatnonzero(margin > MARGIN):
            names = data.class_names[seen[own_class[i]]], data.class_names[seen[other[i]]]
            message = f"labelled {names[0]!r}, looks like {names[1]!r} (margin {margin[i]:.2f})"
            one = Finding("mislabelled", message, float(margin[i]), (int(part[i]),), names)
            found.append(one)
    return found


def _moments(
    data: GZSLDataset, statistics: RowStatistics, place: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(d, d) Gram matrix of standardised training rows, and (d, S) their sums by class."""
    width = min(data.features.shape[1], _REGRESSED)
    gram, product = np.zeros((width, width)), np.zeros((classes, width))
    for rows, z in _standardised(data, statistics, data.split.trainval, _REGRESSED):
        gram += z.T @ z
        np.add.at(product, place[rows], z)
    return gram, product.T
