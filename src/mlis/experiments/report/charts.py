"""Bars of H beside published figures; U, S and H against a setting; losses against steps."""

from collections.abc import Mapping, Sequence

from mlis.escape import html as escape
from mlis.experiments.figures import Curve, describe
from mlis.experiments.report.svg import Axes, band, drawing, line, mark, text, ticks
from mlis.experiments.tables import MEASURED, Line

KINDS = {"U": "disc", "S": "square", "H": "diamond"}  # as in the figures' files
WIDTH, ROW = 360, 34


def bars(title: str, lines: Sequence[Line]) -> str:
    """H of each line, highest first, a whisker of one deviation; published ones are outlines."""
    known = [line for line in lines if line.summary.get("H_mean") is not None]
    known.sort(key=lambda one: -one.summary["H_mean"])
    if not known:
        return ""
    parts = [_bar(one, 6 + i * ROW) for i, one in enumerate(known)]
    said = ", ".join(f"{one.method} {one.cell('H')} ({one.protocol})" for one in known)
    return drawing(WIDTH, 6 + len(known) * ROW, f"{title}, H in per cent: {said}", "".join(parts))


def _bar(one: Line, top: float) -> str:
    mean, std = one.summary["H_mean"], one.summary.get("H_std")
    full = WIDTH - 8
    measured = one.kind == MEASURED
    words = one.method if len(one.method) < 34 else one.method[:32] + "…"
    value = f"{one.cell('H')} · {one.protocol}"
    style = "bar" if measured else "bar published"
    parts = [
        text(4, top + 11, words, "name ours" if measured else "name"),
        text(WIDTH - 4, top + 11, value, anchor="end"),
        _rect("rail", top + 16, full),
        _rect(style, top + 16, full * mean / 100),
    ]
    if std is not None:
        low, high = (4 + full * min(max(mean + d, 0), 100) / 100 for d in (-std, std))
        at = top + 21
        parts.append(f'<path class="whisker" d="M{low:.1f} {at}H{high:.1f}"/>')
        parts.append(f'<path class="whisker" d="M{low:.1f} {at - 4}v8M{high:.1f} {at - 4}v8"/>')
    return "".join(parts)


def _rect(style: str, top: float, width: float) -> str:
    return f'<rect class="{style}" x="4" y="{top:g}" width="{width:.1f}" height="10"/>'


def curve_panel(curve: Curve) -> str:
    """Means with a band of one deviation, and each seed as a small dot."""
    places = range(len(curve.points))  # evenly spaced: 0 has no place on a logarithmic axis
    found = [v for _, rows in curve.points for row in rows for v in _values(row.test).values()]
    edge = (-0.25, *places, len(places) - 0.75)
    axes = Axes(
        xs=edge,
        ys=tuple(ticks(min(found, default=0.0), max(found, default=100.0))),
        x_labels=("", *(f"{value:g}" for value, _ in curve.points), ""),
    )
    parts = [axes.grid(curve.label, "per cent")]
    for name, kind in KINDS.items():
        means, low, high, dots = _of_measure(curve, name, axes)
        parts.append(band(low, high, f"band {name}"))
        parts += [
            f'<circle class="seed {name}" cx="{x:.1f}" cy="{y:.1f}" r="1.6"/>' for x, y in dots
        ]
        parts.append(line(means, f"line {name}"))
        parts.append(mark(means, kind, f"dot {name}"))
    return drawing(axes.width, axes.height, describe([curve]), "".join(parts))


def _of_measure(curve: Curve, name: str, axes: Axes) -> tuple[list[tuple[float, float]], ...]:
    means, low, high, dots = [], [], [], []
    summaries = curve.summaries()
    for x, ((_, rows), summary) in enumerate(zip(curve.points, summaries, strict=True)):
        values = [row.test[name] for row in rows if row.test[name] is not None]
        dots += [axes.at(x, value) for value in values]
        mean, std = summary[f"{name}_mean"], summary[f"{name}_std"] or 0.0
        if mean is not None:
            means.append(axes.at(x, mean))
            low.append(axes.at(x, max(mean - std, axes.ys[0])))
            high.append(axes.at(x, min(mean + std, axes.ys[-1])))
    return means, low, high, dots


def _values(test: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name in KINDS if (value := test[name]) is not None}


def loss_panel(title: str, runs: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One loss against steps, a line a run: title of the run → (step, value)."""
    points = [point for run in runs.values() for point in run]
    xs = tuple(ticks(0, max(x for x, _ in points)))
    ys = tuple(ticks(min(y for _, y in points), max(y for _, y in points)))
    axes = Axes(xs=xs, ys=ys, x_labels=tuple(f"{x:,g}" for x in xs), height=220, left=54)
    parts = [axes.grid("step", title)]
    for i, run in enumerate(runs.values()):
        places = [axes.at(*point) for point in run]
        parts.append(line(places, f"line run r{i % 6}"))
        if len(places) < 3:
            parts.append(mark(places, "disc", f"dot r{i % 6}"))
    ends = ", ".join(
        f"{name} {run[-1][1]:.4g} at step {run[-1][0]:,g}" for name, run in runs.items()
    )
    return drawing(
        axes.width, axes.height, f"{title} against steps; at the end: {ends}", "".join(parts)
    )


def legend_of_measures() -> str:
    """What the signs of U, S and H are."""
    signs = [
        f'<span><svg class="sign" viewBox="0 0 12 12" aria-hidden="true">'
        f"{mark([(6, 6)], kind, f'dot {name}')}</svg> {name}</span>"
        for name, kind in KINDS.items()
    ]
    return f'<p class="legend">{"".join(signs)}</p>'


def legend_of_runs(names: Sequence[str]) -> str:
    """Lines of `loss_panel`, in its order."""
    signs = [
        f'<span><svg class="sign" viewBox="0 0 24 12" aria-hidden="true">'
        f'<path class="line run r{i % 6}" d="M1 6h22"/></svg> {escape(name)}</span>'
        for i, name in enumerate(names)
    ]
    return f'<p class="legend">{"".join(signs)}</p>'
