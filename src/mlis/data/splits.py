"""Training and test rows, and the validation split of the training rows.

The proposed splits of Xian et al. (https://arxiv.org/abs/1707.00600) are row lists:
`trainval_loc`, `test_seen_loc`, `test_unseen_loc`, and `train_loc`/`val_loc`, whose classes define
the validation split. In the published files of CUB, AWA1, AWA2, SUN and FLO,
**train_loc ∪ val_loc contains all of test_seen_loc**; both are therefore intersected with
`trainval_loc`, so that no test image is used for validation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256

import numpy as np

from mlis.errors import DataError

UNSEEN_FRACTION = 0.2
HELD_OUT_FRACTION = 0.2
ENOUGH_CLASSES = 10
"""Held-out classes that suffice to choose a calibration constant on one validation split."""
MOST_SPLITS = 5


def _no_rows() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers into `features`, sorted int64; any sequence of integers is accepted.

    `trainval`, `test_seen` and `test_unseen` are disjoint. `train`, `val_seen` and `val_unseen`
    are disjoint parts of `trainval`; all three are empty if there are too few classes.
    """

    trainval: np.ndarray  # rows of seen classes for training
    test_seen: np.ndarray = field(default_factory=_no_rows)
    test_unseen: np.ndarray = field(default_factory=_no_rows)
    train: np.ndarray = field(default_factory=_no_rows)  # rows of validation-seen classes
    val_seen: np.ndarray = field(default_factory=_no_rows)  # held-out rows of the same classes
    val_unseen: np.ndarray = field(default_factory=_no_rows)  # rows of validation-unseen classes

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            rows = np.asarray(getattr(self, name))
            if rows.size == 0:
                rows = _no_rows()
            if rows.ndim != 1 or rows.dtype.kind not in "iu":
                raise DataError(
                    f"split.{name}: expected a 1-d array of row numbers, got shape {rows.shape} of "
                    f"{rows.dtype}."
                )
            object.__setattr__(self, name, np.sort(rows.astype(np.int64)))

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of a hash of which rows are for training and which for testing."""
        parts = (self.trainval, self.test_seen, self.test_unseen)
        return sha256(b"".join(part.astype("<i8").tobytes() for part in parts)).hexdigest()[:12]

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""
        return bool(self.train.size and self.val_unseen.size)


def hold_out(
    rows: np.ndarray, labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split `rows` into kept and held-out rows, holding out `fraction` of each class.

    At least one row of each class is held out and at least one is kept; the only row of a class is
    kept.
    """
    held: list[np.ndarray] = []
    for label in np.unique(labels[rows]):
        members = rows[labels[rows] == label]
        count = _share(len(members), fraction) if fraction > 0 else 0
        held.append(rng.permutation(members)[:count])
    held_rows = np.sort(np.concatenate([_no_rows(), *held]))
    return np.setdiff1d(rows, held_rows), held_rows


def choose_unseen(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random fifth of `classes`, at least one if two or more are given."""
    return np.sort(rng.permutation(classes)[: _share(len(classes), UNSEEN_FRACTION)])


def _share(count: int, fraction: float) -> int:
    """`fraction` of `count`, at least one, and never all."""
    return min(max(round(count * fraction), 1), count - 1)


def split_rows(
    labels: np.ndarray, unseen_classes: np.ndarray, *, test_fraction: float, seed: int
) -> Split:
    """Test rows: all of the unseen classes, and `test_fraction` of each seen class."""
    if not 0 <= test_fraction < 1:
        raise DataError(f"test_fraction: expected a number in [0, 1), got {test_fraction}.")
    unseen = np.isin(labels, unseen_classes)
    rng = np.random.default_rng([seed, 1])
    trainval, test_seen = hold_out(np.flatnonzero(~unseen), labels, test_fraction, rng)
    return Split(trainval, test_seen, np.flatnonzero(unseen))


def add_validation(
    split: Split,
    labels: np.ndarray,
    *,
    train_loc: Sequence[int] | np.ndarray | None = None,
    val_loc: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
) -> tuple[Split, str]:
    """Add the validation part to `split`; also return a note on how it was chosen.

    Classes of train_loc ∩ trainval are validation-seen, classes of val_loc ∩ trainval
    validation-unseen. If these are missing, overlap or are too few, a random fifth of the training
    classes is validation-unseen. A random fifth of the rows of each validation-seen class is held
    out. Both are drawn with `seed`.
    """
    trainval = split.trainval
    rng = np.random.default_rng([seed, 2])
    reason = "train_loc/val_loc are absent"
    seen = unseen = _no_rows()
    if train_loc is not None and val_loc is not None:
        seen = np.unique(labels[np.intersect1d(trainval, train_loc)])
        unseen = np.unique(labels[np.intersect1d(trainval, val_loc)])
        reason = ""
        if np.intersect1d(seen, unseen).size:
            reason = "train_loc and val_loc share classes"
        elif len(seen) < 2 or not len(unseen):
            reason = "train_loc/val_loc leave too few classes inside trainval_loc"
    if reason:
        classes = np.unique(labels[trainval])
        if len(classes) < 3:
            return split, f"no validation split: it needs 3 training classes, got {len(classes)}"
        unseen = choose_unseen(classes, rng)
        seen = np.setdiff1d(classes, unseen)
    candidates = trainval[np.isin(labels[trainval], seen)]
    train, val_seen = hold_out(candidates, labels, HELD_OUT_FRACTION, rng)
    val_unseen = trainval[np.isin(labels[trainval], unseen)]
    source = (
        f"drawn with seed {seed}, as {reason}" if reason else "from train_loc/val_loc ∩ trainval"
    )
    note = f"validation split {source}; held-out rows drawn with seed {seed}"
    return replace(split, train=train, val_seen=val_seen, val_unseen=val_unseen), note


def validation_splits(split: Split, labels: np.ndarray, count: int | None = None) -> list[Split]:
    """`split`, followed by splits with other held-out classes.

    Args:
        split: has a validation part.
        labels: (n,) of all rows.
        count: how many splits. Once every class was held out, classes are held out again, with
            others. By default as many as hold out `ENOUGH_CLASSES` in total, at most `MOST_SPLITS`,
            which hold out no class twice.

    Returns:
        Splits with as many held-out classes as the first (the last of the default may have fewer),
        drawn with a fixed seed, independent of the seed of training; `split` alone where too few
        classes or rows would remain to train on.
    """
    classes, held_out = (np.unique(labels[rows]) for rows in (split.trainval, split.val_unseen))
    rng = np.random.default_rng([0, 3])
    others = rng.permutation(np.setdiff1d(classes, held_out))
    splits, size, done = [split], len(held_out), len(held_out)
    if len(classes) - size < 2:  # too few would remain to train on
        return splits
    while len(splits) < (count or MOST_SPLITS) and (count or done < ENOUGH_CLASSES):
        if count and len(others) < size:
            others = rng.permutation(classes)
        unseen, others = others[:size], others[size:]
        if not len(unseen):
            break
        done += len(unseen)
        of_unseen = np.isin(labels[split.trainval], unseen)
        train, val_seen = hold_out(split.trainval[~of_unseen], labels, HELD_OUT_FRACTION, rng)
        if val_seen.size:
            val_unseen = split.trainval[of_unseen]
            parts = {"train": train, "val_seen": val_seen, "val_unseen": val_unseen}
            splits.append(replace(split, **parts))
        elif count:  # of classes with a single row none can be held out
            break
    return splits


def sample_classes(rows: np.ndarray, labels: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """At most `most` rows, sorted, drawn at random, the same number of each class at most.

    Args:
        rows: (n,) of which they are drawn.
        labels: (N,) int64 classes of all rows.
        most: of each class one is kept, even if that makes more.

    Returns:
        (m,) rows, and the largest number of each class.
    """
    counts = np.bincount(labels[rows])
    low, high = 1, int(counts.max())
    while low < high:  # the largest number per class
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if np.minimum(counts, middle).sum() <= most else (low, middle - 1)
        )
    mixed = np.random.default_rng(0).permutation(rows)
    order = mixed[np.argsort(labels[mixed], kind="stable")]
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[labels[order]]
    return np.sort(order[rank < low]), low
