"""U, S, H, T1, per-class accuracy and confusions from scores and labels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mlis.errors import DataError
from mlis.escape import html_table
from mlis.evaluation.checks import checked
from mlis.evaluation.curve import SeenUnseenCurve, best_among, exact_curve
from mlis.evaluation.words import MEANING


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy of one class in per cent; None without test images."""

    name: str
    seen: bool
    images: int
    accuracy: float | None


@dataclass(frozen=True)
class Confusion:
    """`count` images of class `label`, `share` per cent of them, were classified as `predicted`."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of :func:`evaluate`; all metrics in per cent, None if undefined.

    `overall` is the accuracy over all images, regardless of class. `best_H` is the highest H over
    all calibration constants: **optimistic**, as it uses the test labels; in :meth:`to_dict` it is
    `best_H_optimistic`. `confusion_counts` is (C, C) int64 with true classes in rows and predicted
    ones in columns; `confusions` are its largest off-diagonal entries. Classes in `without_images`
    do not contribute to means, but are candidates.
    """

    U: float | None
    S: float | None
    H: float | None
    T1: float | None
    AUSUC: float | None
    best_H: float | None  # noqa: N815
    overall: float | None
    images: int
    per_class: tuple[ClassAccuracy, ...] = field(repr=False)
    confusions: tuple[Confusion, ...] = field(repr=False)
    without_images: tuple[str, ...]
    notes: tuple[str, ...]
    confusion_counts: np.ndarray = field(repr=False)
    curve: SeenUnseenCurve | None = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything except the confusion matrix and the curve, as strict JSON values (no NaN)."""
        return {
            **{name: getattr(self, name) for name in ("U", "S", "H", "T1", "AUSUC", "overall")},
            "best_H_optimistic": self.best_H,
            "images": self.images,
            "per_class": [asdict(row) for row in self.per_class],
            "confusions": [asdict(pair) for pair in self.confusions],
            "without_images": list(self.without_images),
            "notes": list(self.notes),
        }

    @property
    def measures(self) -> dict[str, float | None]:
        """By the symbols of :data:`mlis.evaluation.words.MEANING`."""
        shown = {name: getattr(self, name) for name in ("U", "S", "H", "T1", "AUSUC", "overall")}
        return {**shown, "best H": self.best_H}

    def __str__(self) -> str:
        values = {name: _shown(value) for name, value in self.measures.items()}
        values["best H (optimistic)"] = values.pop("best H")
        return "  ".join(f"{name} {value}" for name, value in values.items())

    def _repr_html_(self) -> str:
        """A table of the measures in plain words, for notebooks."""
        rows = [[MEANING[name], name, _shown(value)] for name, value in self.measures.items()]
        rows += [["note", "", note] for note in self.notes]
        return html_table(f"{self.images} test images, per cent", rows)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray,
    seen_mask: np.ndarray,
    class_names: Sequence[str],
    *,
    num_confusions: int = 10,
) -> Evaluation:
    """Evaluate scores of test images.

    Predictions are the argmax of `scores` (the lower index for ties), so pass calibrated scores for
    calibrated U, S and H; T1 and AUSUC do not depend on the constant.

    Args:
        scores: (N, C) real numbers; N may be 0.
        labels: (N,) int in 0..C-1.
        seen_mask: (C,) bool, True for seen classes.
        class_names: C names.
        num_confusions: maximum length of `Evaluation.confusions`.

    Raises:
        DataError: shapes disagree, a label is out of range, or a score is not finite (names row and
            class).

    >>> scores = np.array([[9, 1, 2], [4, 6, 5], [3, 1, 8], [8, 0, 6]], dtype=np.float32)
    >>> result = evaluate(scores, np.array([0, 1, 2, 2]), np.array([1, 1, 0], bool), "abc")
    >>> print(result)
    U 50.0  S 100.0  H 66.7  T1 100.0  AUSUC 75.0  overall 75.0  best H (optimistic) 66.7
    >>> result.confusions
    (Confusion(label='c', predicted='a', count=1, share=50.0),)
    """
    scores, labels, seen_mask = checked(scores, labels, seen_mask, no_images=True)
    names = tuple(class_names)
    if len(names) != len(seen_mask):
        raise DataError(
            f"expected {len(seen_mask)} class names (columns of scores), got {len(names)}"
        )
    predicted = scores.argmax(1)
    counts = confusion_counts(labels, predicted, len(names))
    images = counts.sum(1)
    accuracy = per_class_accuracy(counts)
    U = _mean_present(accuracy, ~seen_mask)
    S = _mean_present(accuracy, seen_mask)
    H = None if U is None or S is None else harmonic_mean(U, S)
    curve = None if H is None else exact_curve(scores, labels, seen_mask)
    return Evaluation(
        U=U,
        S=S,
        H=H,
        T1=_zero_shot_accuracy(scores, labels, seen_mask),
        AUSUC=None if curve is None else curve.area,
        # max: for margins of exactly 0, argmax may break ties like no constant does
        best_H=None if curve is None or H is None else max(H, float(curve.H.max())),
        overall=100 * float((predicted == labels).mean()) if len(labels) else None,
        images=len(labels),
        per_class=_classes(names, seen_mask, images, accuracy),
        confusions=_most_confused(counts, names, num_confusions),
        without_images=tuple(names[i] for i in np.flatnonzero(images == 0)),
        notes=_notes(U, S, seen_mask, len(labels)),
        confusion_counts=counts,
        curve=curve,
    )


def harmonic_mean(U: float, S: float) -> float:
    """H = 2US / (U + S), or 0 if both are 0."""
    return 2 * U * S / (U + S) if U + S > 0 else 0.0


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) int64: entry [i, j] counts images of class i classified as class j."""
    flat = np.asarray(labels) * num_classes + np.asarray(predicted)
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(counts: np.ndarray) -> np.ndarray:
    """(C,) float64 accuracy of each class in per cent from (C, C) counts; NaN without images."""
    images = counts.sum(1)
    accuracy = np.full(len(counts), np.nan)
    np.divide(100 * np.diagonal(counts), images, out=accuracy, where=images > 0)
    return accuracy


def _classes(
    names: tuple[str, ...], seen_mask: np.ndarray, images: np.ndarray, accuracy: np.ndarray
) -> tuple[ClassAccuracy, ...]:
    return tuple(
        ClassAccuracy(name, bool(seen), int(n), float(value) if n else None)
        for name, seen, n, value in zip(names, seen_mask, images, accuracy, strict=True)
    )


def _mean_present(accuracy: np.ndarray, mask: np.ndarray) -> float | None:
    present = accuracy[mask & ~np.isnan(accuracy)]
    return float(present.mean()) if len(present) else None


def _zero_shot_accuracy(
    scores: np.ndarray, labels: np.ndarray, seen_mask: np.ndarray
) -> float | None:
    rows = ~seen_mask[labels]
    if not rows.any():
        return None
    best, _ = best_among(scores[rows], ~seen_mask)
    counts = confusion_counts(labels[rows], best, len(seen_mask))
    return _mean_present(per_class_accuracy(counts), ~seen_mask)


def _most_confused(counts: np.ndarray, names: tuple[str, ...], n: int) -> tuple[Confusion, ...]:
    """The `n` largest off-diagonal counts; ties in class order."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: max(n, 0)]
    pairs = [divmod(int(i), len(names)) for i in order]
    images = counts.sum(1)
    return tuple(
        Confusion(names[i], names[j], int(wrong[i, j]), float(100 * wrong[i, j] / images[i]))
        for i, j in pairs
        if wrong[i, j] > 0
    )


def _notes(U: float | None, S: float | None, seen_mask: np.ndarray, images: int) -> tuple[str, ...]:
    notes: list[str] = [] if images else ["nothing was evaluated: there are no test images"]
    for value, missing, kind, classes in (
        (U, "U, T1, H, AUSUC", "unseen", ~seen_mask),
        (S, "S, H, AUSUC", "seen", seen_mask),
    ):
        if value is None:
            why = "has test images" if classes.any() else "exists"
            notes.append(f"{missing} are undefined: no {kind} class {why}")
    return tuple(notes)
