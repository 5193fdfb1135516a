"""Figures 3 and 4: U, S and H against one setting, with their spread over seeds."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlis.data.io.csv_file import write_csv
from mlis.evaluation import summarise
from mlis.experiments.budget import Budget
from mlis.experiments.plans import Entry
from mlis.experiments.store import Row, Store
from mlis.experiments.tables import rows_of, titled
from mlis.storage.atomic import atomic_write

TITLES = {
    "figure3": "Figure 3: synthetic samples",
    "figure4": "Figure 4: m and γ of the circle loss",
}
# Colours that the colour-blind tell apart (Okabe and Ito), and a mark for each in grey print.
STYLES = {"U": ("#0072B2", "o"), "S": ("#D55E00", "s"), "H": ("#000000", "D")}


@dataclass(frozen=True)
class Curve:
    """Measures of one dataset against one setting.

    Attributes:
        dataset: with "(stand-in)" where that is so.
        label: of the setting.
        points: (value, rows over seeds), only those that were run.
        protocol: of all of them.
    """

    dataset: str
    label: str
    points: tuple[tuple[float, tuple[Row, ...]], ...]

    @property
    def protocol(self) -> str:
        """The label that goes with the numbers."""
        return ", ".join(sorted({row.protocol for _, rows in self.points for row in rows}))

    @functools.cached_property
    def summaries(self) -> list[Mapping[str, Any]]:
        """Means and deviations at each point."""
        return [summarise([row.test for row in rows]) for _, rows in self.points]


def curves(entries: Sequence[Entry], store: Store) -> list[Curve]:
    """Curves of a figure's entries from what the store has; none of what is not there at all."""
    grouped: dict[tuple[str, str, str], list[tuple[float, tuple[Row, ...]]]] = {}
    for entry in entries:
        rows = tuple(rows_of(entry, store))
        if rows and entry.x is not None:
            names = (entry.source.label, entry.label, rows[0].protocol)
            grouped.setdefault(names, []).append((entry.x, rows))
    return [Curve(data, label, tuple(points)) for (data, label, _), points in grouped.items()]


def write(name: str, found: Sequence[Curve], budget: Budget, folder: Path) -> list[Path]:
    """Write NAME.svg, NAME.png and NAME.csv; without a single curve nothing."""
    if not found:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("svg", "png", "csv")]
    title = titled(TITLES[name], budget)
    # the same bytes for the same numbers, and text that can be searched
    with rc_context({"svg.hashsalt": "mlis", "svg.fonttype": "none"}):
        figure = draw(title, found)
        about = {"Title": title, "Description": describe(found)}
        with atomic_write(paths[0]) as temporary:
            figure.savefig(temporary, format="svg", metadata={**about, "Date": None})
    with atomic_write(paths[1]) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata=about)
    _write_csv(paths[2], found, budget)
    return paths


def draw(title: str, found: Sequence[Curve]) -> Figure:
    """One panel a curve, two in a line."""
    lines = -(-len(found) // 2)
    figure = Figure(figsize=(9, 0.6 + 3.4 * lines), layout="constrained")
    figure.suptitle(title)
    for index, curve in enumerate(found):
        draw_curve(figure.add_subplot(lines, min(2, len(found)), index + 1), curve)
    return figure


def draw_curve(axes: Axes, curve: Curve) -> None:
    """U, S and H against the setting: means, a band of one deviation, each seed as a small dot."""
    places = range(len(curve.points))  # evenly spaced: 0 has no place on a logarithmic axis
    summaries = curve.summaries
    for name, (colour, mark) in STYLES.items():
        means = [float("nan") if (m := s[f"{name}_mean"]) is None else m for s in summaries]
        spread = [s[f"{name}_std"] or 0.0 for s in summaries]
        axes.plot(places, means, color=colour, marker=mark, label=name)
        low = [m - d for m, d in zip(means, spread, strict=True)]
        high = [m + d for m, d in zip(means, spread, strict=True)]
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        seeds = np.array([(x, r.test[name]) for x in places for r in curve.points[x][1]], float)
        axes.plot(*seeds.T, ".", color=colour, alpha=0.6, markersize=3)
    axes.set_xticks(list(places), [f"{value:g}" for value, _ in curve.points])
    runs = max(len(rows) for _, rows in curve.points)
    spread_of = f"mean ± std of {runs} seeds" if runs > 1 else "1 seed"
    axes.set_title(f"{curve.dataset}, {curve.protocol}, {spread_of}", fontsize=9, parse_math=False)
    axes.set_xlabel(curve.label)
    axes.set_ylabel("per cent")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)


def describe(found: Sequence[Curve]) -> str:
    """What a figure shows, in words, for those who do not see it."""
    said = []
    for curve in found:
        points = zip(curve.points, curve.summaries, strict=True)
        shown = [f"{x:g}: {s['H_mean']:.1f}" for (x, _), s in points if s["H_mean"] is not None]
        said.append(
            f"{curve.dataset}, {curve.protocol}, H against {curve.label}: {', '.join(shown)}"
        )
    return ". ".join(said)


def _write_csv(path: Path, found: Sequence[Curve], budget: Budget) -> None:
    """One line a point, with protocol and budget."""
    measures = [f"{name}_{part}" for name in STYLES for part in ("mean", "std")]
    rows = [
        [
            *(curve.dataset, curve.label, value, curve.protocol, budget.name, len(rows)),
            *(summary[name] for name in measures),
        ]
        for curve in found
        for (value, rows), summary in zip(curve.points, curve.summaries, strict=True)
    ]
    columns = ("dataset", "setting", "value", "protocol", "budget", "runs")
    write_csv(path, [*columns, *measures], rows)
