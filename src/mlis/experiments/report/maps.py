"""Raw and refined features of test images in two dimensions, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from mlis.data.dataset import GZSLDataset
from mlis.experiments.report.svg import MARKS, drawing, mark, text
from mlis.model.recognizer import Recognizer
from mlis.pages import place

UNSEEN, OF_UNSEEN = 8, 30  # classes with a sign of their own, and images of each at most
SEEN, OF_SEEN = 20, 12
SIDE, GAP = 360, 20
NAME = 48  # letters of a class's name
METHOD = (
    "Two dimensions by t-SNE of unit features (50 principal components, exact, perplexity 20, "
    "random_state 0); distances between far groups mean nothing."
)


@dataclass(frozen=True, eq=False)
class Map:
    """Places of the same test images by two kinds of features.

    Attributes:
        raw, refined: (n, 2) in the unit square.
        labels: (n,) int64.
        classes: unseen classes that have a sign, at most `UNSEEN`.
        names: of all classes.
    """

    raw: np.ndarray
    refined: np.ndarray
    labels: np.ndarray
    classes: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: GZSLDataset, recognizer: Recognizer) -> "Map | None":
        """Place test images of the unseen classes with the most of them, and of seen ones.

        None where there are fewer than 5 images.
        """
        test = dataset.for_testing()
        rows, classes = chosen(test.labels, test.seen_mask)
        if len(rows) < 5:
            return None
        features = np.ascontiguousarray(np.asarray(test.features[rows]), dtype=np.float32)
        refined = recognizer.refine(features)
        names = test.class_names
        return cls(place(features), place(refined), test.labels[rows], classes, names)


def chosen(labels: np.ndarray, seen_mask: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Rows to show, at most `UNSEEN` × `OF_UNSEEN` + `SEEN` × `OF_SEEN`; the unseen classes."""
    counts = np.bincount(labels, minlength=len(seen_mask))
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    unseen = tuple(int(c) for c in order[~seen_mask[order]][:UNSEEN])
    seen = order[seen_mask[order]][:SEEN]
    rows = [np.flatnonzero(labels == c)[:OF_UNSEEN] for c in unseen]
    rows += [np.flatnonzero(labels == c)[:OF_SEEN] for c in seen]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64), unseen


def panel(places: np.ndarray, found: Map, what: str) -> str:
    """One of the two, as SVG."""
    points = 10 + places * (SIDE - 20)
    grey = ~np.isin(found.labels, found.classes)
    parts = [
        "".join(
            f'<circle class="ps" cx="{x:.1f}" cy="{y:.1f}" r="2"/>'
            for x, y in points[grey].tolist()
        )
    ]
    for i, c in enumerate(found.classes):
        parts.append(mark(points[found.labels == c].tolist(), _sign(i), f"c{i}"))
    label = (
        f"Scatter plot of {len(points)} test images by their {what} features: "
        f"{len(found.classes)} unseen classes and, in grey, seen ones"
    )
    return drawing(SIDE, SIDE, label, "".join(parts))


def legend(found: Map) -> str:
    """Signs of the unseen classes."""
    signs = [
        f'<span class="c{i}"><svg class="sign" viewBox="0 0 12 12" aria-hidden="true">'
        f"{mark([(6, 6)], _sign(i), f'c{i}')}</svg> {escape(found.names[c][:NAME])}</span>"
        for i, c in enumerate(found.classes)
    ]
    return f'<p class="legend">{"".join(signs)}</p>'


def sheet(found: Map, title: str, test: Mapping[str, Any]) -> str:
    """Both panels beside each other, with titles, numbers and signs, as one drawing.

    Args:
        found: the map.
        title: of the whole.
        test: a row's measures, or those of :class:`mlis.experiments.retrieval.UnseenImages`.
    """
    parts = [text(8, 18, title, "name ours")]
    for i, (which, places) in enumerate((("raw", found.raw), ("refined", found.refined))):
        x, said = i * (SIDE + GAP), retrieval(test, which)
        parts.append(text(x + 8, 40, f"{which.capitalize()} features{': ' + said if said else ''}"))
        inner = panel(places, found, which)
        parts.append(
            inner.replace("<svg", f'<svg x="{x}" y="50" width="{SIDE}" height="{SIDE}"', 1)
        )
    top = SIDE + 70
    for i, c in enumerate(found.classes):
        x, y = 14 + (i % 2) * (SIDE + GAP), top + 18 * (i // 2)
        parts.append(mark([(x, y - 4)], _sign(i), f"c{i}"))
        parts.append(text(x + 12, y, found.names[c][:NAME]))
    bottom = top + 18 * ((len(found.classes) + 1) // 2)
    parts.append(text(8, bottom + 4, METHOD[: METHOD.index(";")] + "."))
    label = f"{title}: raw and refined features of test images in two dimensions"
    return drawing(2 * SIDE + GAP, bottom + 16, label, "".join(parts))


def _sign(i: int) -> str:
    return list(MARKS)[i % len(MARKS)]


def retrieval(test: Mapping[str, Any], which: str) -> str:
    """Recall@1 and MAP@R of a row's raw or refined features, in words; empty without."""
    pairs = (("Recall@1", f"recall_at_1_{which}"), ("MAP@R", f"map_at_r_{which}"))
    known: Sequence[tuple[str, float]] = [
        (name, test[key]) for name, key in pairs if test.get(key) is not None
    ]
    return ", ".join(f"{name} {value:.1f}\u00a0%" for name, value in known)
