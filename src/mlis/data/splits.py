"""Which rows train, which rows test, and the validation split inside the training rows.

The proposed splits of Xian et al. (https://arxiv.org/abs/1707.00600) come as row lists:
`trainval_loc`, `test_seen_loc`, `test_unseen_loc`, and `train_loc`/`val_loc`, whose classes are
the validation split. In the published files of CUB, AWA1, AWA2, SUN and FLO,
**train_loc ∪ val_loc contains all of test_seen_loc**, so both are cut to `trainval_loc` here:
nothing that is chosen on validation has seen a test image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mlis.errors import DataError

UNSEEN_FRACTION = 0.2
HELD_OUT_FRACTION = 0.2
ENOUGH_CLASSES = 10
"""Held-out classes from which one validation split is enough to choose a calibration constant."""
MOST_SPLITS = 5


def _no_rows() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers into `features`, int64 and sorted; any sequence of integers is accepted.

    `trainval`, `test_seen` and `test_unseen` are disjoint. `train`, `val_seen` and `val_unseen`
    are disjoint parts of `trainval`; all three are empty where there are too few classes.
    """

    trainval: np.ndarray  # rows of seen classes that may be trained on
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
                    f"split.{name} must be a 1-d array of row numbers, "
                    f"but got shape {rows.shape} of {rows.dtype}."
                )
            object.__setattr__(self, name, np.sort(rows.astype(np.int64)))

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""
        return bool(self.train.size and self.val_unseen.size)


def hold_out(
    rows: np.ndarray, labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split `rows` into kept and held-out rows, `fraction` of each class held out.

    A class of two or more rows gives at least one and keeps at least one; a class of a single
    row keeps it.
    """
    held: list[np.ndarray] = []
    for label in np.unique(labels[rows]):
        members = rows[labels[rows] == label]
        count = _share(len(members), fraction) if fraction > 0 else 0
        held.append(rng.permutation(members)[:count])
    held_rows = np.sort(np.concatenate([_no_rows(), *held]))
    return np.setdiff1d(rows, held_rows), held_rows


def choose_unseen(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A fifth of `classes` by chance; at least one, where that leaves one."""
    return np.sort(rng.permutation(classes)[: _share(len(classes), UNSEEN_FRACTION)])


def _share(count: int, fraction: float) -> int:
    """`fraction` of `count`, at least one, and never all."""
    return min(max(round(count * fraction), 1), count - 1)


def split_rows(
    labels: np.ndarray, unseen_classes: np.ndarray, *, test_fraction: float, seed: int
) -> Split:
    """Rows of unseen classes for testing, `test_fraction` of each seen class held out for it."""
    if not 0 <= test_fraction < 1:
        raise DataError(f"test_fraction must be at least 0 and below 1, but got {test_fraction}.")
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
    """Give `split` its validation part; also one sentence that says how it was made.

    Classes of train_loc ∩ trainval are validation-seen, classes of val_loc ∩ trainval
    validation-unseen. Where the two are missing, or their classes overlap or are too few, a
    fifth of the training classes are made validation-unseen by `seed`. A fifth of the rows of
    each validation-seen class is held out, by `seed`.
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
            return split, f"no validation split: {len(classes)} training classes, 3 are needed"
        unseen = choose_unseen(classes, rng)
        seen = np.setdiff1d(classes, unseen)
    candidates = trainval[np.isin(labels[trainval], seen)]
    train, val_seen = hold_out(candidates, labels, HELD_OUT_FRACTION, rng)
    val_unseen = trainval[np.isin(labels[trainval], unseen)]
    source = f"made by seed {seed}, as {reason}" if reason else "from train_loc/val_loc ∩ trainval"
    note = f"validation split {source}; held-out rows by seed {seed}"
    return replace(split, train=train, val_seen=val_seen, val_unseen=val_unseen), note


def validation_splits(split: Split, labels: np.ndarray) -> list[Split]:
    """`split`, and more that hold other classes out, until `ENOUGH_CLASSES` were held out once.

    They are at most `MOST_SPLITS`, each with as many classes as the first. Which classes is chance,
    but always the same: it is of the data, not of a training's seed.
    """
    classes, held_out = (np.unique(labels[rows]) for rows in (split.trainval, split.val_unseen))
    rng = np.random.default_rng([0, 3])
    others = rng.permutation(np.setdiff1d(classes, held_out))
    splits, count, done = [split], len(held_out), len(held_out)
    if len(classes) - count < 2:  # as many are to be left to train on
        return splits
    while done < ENOUGH_CLASSES and len(splits) < MOST_SPLITS and len(others):
        unseen, others = others[:count], others[count:]
        done += len(unseen)
        of_unseen = np.isin(labels[split.trainval], unseen)
        train, val_seen = hold_out(split.trainval[~of_unseen], labels, HELD_OUT_FRACTION, rng)
        if val_seen.size:
            val_unseen = split.trainval[of_unseen]
            parts = {"train": train, "val_seen": val_seen, "val_unseen": val_unseen}
            splits.append(replace(split, **parts))
    return splits
