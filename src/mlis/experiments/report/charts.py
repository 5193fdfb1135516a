"""Charts by matplotlib: curves of figures 3 and 4, losses, maps of features.

As SVG inside the page they take the page's colours, which differ on screen, in the dark and on
paper; as files they stand alone. The same numbers give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from mlis.data.dataset import GZSLDataset
from mlis.evaluation import Confidence, Rejection
from mlis.experiments.figures import Curve, describe, draw_curve
from mlis.model.recognizer import Recognizer
from mlis.pages import colours
from mlis.pages.projection import project
from mlis.storage.atomic import write_text

UNSEEN, OF_UNSEEN = 8, 30  # classes with a sign of their own, and images of each at most
SEEN, OF_SEEN = 20, 12
NAME = 48  # characters of a class's name
SIGNS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "P": "✚", "v": "▼", "X": "✖", "_": "▬"}
DASHES = ("-", "--", ":", "-.")
METHOD = (
    "Two dimensions by t-SNE of unit features "
    "(50 principal components, exact, perplexity 20, random_state 0)"
)
_COLOURS = colours()
_OF_PAGE = {value: f"var(--{name})" for name, value in _COLOURS.items()}
_OF_PAGE |= {"#000000": "var(--ink)", "#0072b2": "var(--c5)", "#d55e00": "var(--c0)"}


def _svg(figure: Figure, title: str) -> str:
    out = io.StringIO()
    about = {"Title": title, "Date": None, "Creator": None, "Format": None, "Type": None}
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class may be called "$x$"
    with rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}), warnings.catch_warnings():
        # text stays text: the reader needs the glyphs, matplotlib does not
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(out, format="svg", transparent=True, metadata=about)
    return out.getvalue()


def inline(figure: Figure, title: str) -> Markup:
    """A figure for the page; `title` says what it shows, and must not be there twice."""
    text = _svg(figure, title)
    head, body = text[text.index("<svg") :].split(">", 1)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    body = re.sub(r' id="[A-Za-z0-9.]+_\d+"|<metadata>.*?</metadata>', "", body, flags=re.S)
    body = re.sub(r"#[0-9a-f]{6}", lambda found: _OF_PAGE.get(found[0], found[0]), body)
    return Markup(f'<svg {box} role="img" xmlns:xlink="http://www.w3.org/1999/xlink">{body}')


def save(figure: Figure, title: str, path: Path) -> Path:
    """Write a figure to an SVG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_facecolor("white")
    write_text(path, _svg(figure, title))
    return path


def curve_panel(curve: Curve) -> Markup:
    """U, S and H against a setting."""
    figure = Figure(figsize=(5, 3.3), layout="constrained")
    draw_curve(figure.add_subplot(), curve)
    return inline(figure, describe([curve]))


def loss_panel(study: str, name: str, runs: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """One loss against steps, a line a run: name of the run → (step, value)."""
    figure = Figure(figsize=(3.6, 2.5), layout="constrained")
    axes = figure.add_subplot()
    for i, (run, points) in enumerate(runs.items()):
        colour, dash = _COLOURS[f"c{(5, 0, 3, 2, 6, 4)[i % 6]}"], DASHES[i % 4]
        mark = "o" if len(points) < 3 else ""
        axes.plot(*zip(*points, strict=True), color=colour, ls=dash, marker=mark, label=run)
    axes.set(title=name, xlabel="step", xlim=(0, None))
    axes.ticklabel_format(useOffset=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, framealpha=0)
    ends = ", ".join(f"{run} {points[-1][1]:.4g}" for run, points in runs.items())
    return inline(figure, f"{study}, {name} against steps; at the end: {ends}")


def reliability_panel(what: str, found: Confidence) -> Markup:
    """Accuracy against confidence, a line for images of seen and one for those of unseen classes.

    Args:
        what: the study and its method.
        found: of the test images.
    """
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot((0, 100), (0, 100), color=_COLOURS["soft"], lw=1, ls=":", label="perfect")
    said = []
    for name, part, colour in (("seen", found.seen, "c5"), ("unseen", found.unseen, "c0")):
        if part is not None:
            label = f"{name} classes: ECE {part.ece:.1f}"
            said.append(label)
            axes.plot(
                part.confidence, part.accuracy, color=_COLOURS[colour], marker="o", label=label
            )
    axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(0, 101), ylim=(-2, 102))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, framealpha=0)
    return inline(figure, f"{what}: reliability of probabilities; {', '.join(said)}")


def risk_panel(what: str, found: Rejection) -> Markup:
    """The share that is named wrong against the share that is answered at all.

    Args:
        what: the study and its method, or the model and the data.
        found: of the test images.
    """
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(found.coverage, found.risk, color=_COLOURS["c0"])
    axes.set(xlabel="images that are answered, %", ylabel="of these named wrong, %")
    axes.set(xlim=(0, 101), ylim=(-2, 102))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    ends = ", ".join(f"{risk:.1f} % at {at:.0f} %" for at, risk in found.at(50, 80, 100))
    return inline(figure, f"{what}: risk by coverage; {ends}")


# --- raw and refined features in two dimensions ---------------------------------------------------


@dataclass(frozen=True, eq=False)
class Map:
    """Places of the same test images by two kinds of features.

    Attributes:
        places: "raw" and "refined" → (n, 2) in the unit square.
        labels: (n,) int64.
        classes: unseen classes that have a sign, at most `UNSEEN`.
        names: theirs.
    """

    places: Mapping[str, np.ndarray]
    labels: np.ndarray
    classes: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: GZSLDataset, recognizer: Recognizer) -> "Map | None":
        """Place test images of the classes with the most of them; None of fewer than 5 images."""
        test = dataset.for_testing()
        rows, classes = chosen(test.labels, test.seen_mask)
        if len(rows) < 5:
            return None
        features = np.ascontiguousarray(np.asarray(test.features[rows]), dtype=np.float32)
        places = {"raw": project(features), "refined": project(recognizer.refine(features))}
        display = recognizer.display_names
        names = [test.class_names[c] for c in classes]
        names = tuple(shown(display.get(name, name)) for name in names)
        return cls(places, test.labels[rows], classes, names)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Sign and name of each unseen class."""
        return list(zip(SIGNS.values(), self.names, strict=False))


def shown(name: str) -> str:
    """A class's name as SVG can hold it: of one line, without control characters, not too long."""
    return "".join(c if c.isprintable() else "�" for c in name[:NAME])


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


def map_panel(found: Map, which: str, what: str) -> Markup:
    """The raw or the refined features, without a legend."""
    figure = Figure(figsize=(5, 5))
    _scatter(figure.add_axes((0, 0, 1, 1), frameon=False), found, which)
    count = (
        f"{len(found.labels)} test images, {len(found.classes)} unseen classes and, in grey, seen"
    )
    return inline(figure, f"{what}: {count} ones, by their {which} features")


def map_sheet(found: Map, title: str, test: Mapping[str, Any]) -> Figure:
    """Both panels beside each other, with titles, numbers and signs, as one figure.

    Args:
        found: the map.
        title: of the whole.
        test: a row's measures, or those of :func:`mlis.experiments.retrieval.retrieved`.
    """
    figure = Figure(figsize=(10, 6.8), layout="constrained")
    figure.suptitle(title, fontweight="bold")
    panels = figure.subplots(1, 2)
    signs = []
    for axes, which in zip(panels, found.places, strict=True):
        signs = _scatter(axes, found, which)
        said = retrieval(test, which)
        axes.set_title(f"{which.capitalize()} features{': ' + said if said else ''}", fontsize=10)
    figure.legend(
        *(signs, found.names),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        title=METHOD,
        title_fontsize=8,
    )
    return figure


def _scatter(axes: Axes, found: Map, which: str) -> list[Artist]:
    """The test images; returns the signs of the unseen classes."""
    places = found.places[which]
    grey = ~np.isin(found.labels, found.classes)
    axes.scatter(*places[grey].T, s=10, color=_COLOURS["seen"], linewidths=0)
    axes.set(xticks=(), yticks=(), xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    return [
        axes.scatter(
            *places[found.labels == c].T,
            s=44,
            marker=sign,
            color=_COLOURS[f"c{i}"],
            linewidths=2.5 if sign == "_" else 0,
        )
        for i, (c, sign) in enumerate(zip(found.classes, SIGNS, strict=False))
    ]


def retrieval(test: Mapping[str, Any], which: str) -> str:
    """Recall@1 and MAP@R of a row's raw or refined features, in words; empty without."""
    pairs = (("Recall@1", f"recall_at_1_{which}"), ("MAP@R", f"map_at_r_{which}"))
    known = [(name, test[key]) for name, key in pairs if test.get(key) is not None]
    return ", ".join(f"{name} {value:.1f}\u00a0%" for name, value in known)
