"""Accuracy class by class, unseen and seen apart, and the most frequent confusions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlis.experiments.report.closer import Look
from mlis.experiments.report.html import cells, escape, missing, section, table
from mlis.experiments.report.material import Tested
from mlis.experiments.report.pictures import Pictures
from mlis.experiments.report.studies import Study
from mlis.experiments.store import Row

BARS, NAMED, CONFUSIONS = 40, 1500, 9  # classes drawn of each kind, in the table, pairs
NAME = 60  # letters of a class's name


@dataclass(frozen=True)
class OfClass:
    """Accuracy of a class over seeds, per cent."""

    name: str
    seen: bool
    images: int
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.values))

    @property
    def cell(self) -> str:
        """Mean ± standard deviation."""
        if len(self.values) < 2:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {np.std(self.values, ddof=1):.1f}"


def of_classes(rows: Sequence[Row]) -> list[OfClass]:
    """Classes with test images, in the order of the first row."""
    found: dict[str, tuple[Mapping[str, Any], list[float]]] = {}
    for row in rows:
        for one in row.test.get("per_class", ()):
            if one["accuracy"] is not None:
                found.setdefault(str(one["name"]), (one, []))[1].append(float(one["accuracy"]))
    return [
        OfClass(name, bool(one["seen"]), int(one["images"]), tuple(values))
        for name, (one, values) in found.items()
    ]


def classes_section(look: Look) -> str:
    """Bars of unseen and of seen classes, and all of them as a table."""
    found = of_classes(look.study.main.rows)
    if not found:
        return section(
            f"{look.anchor}-classes",
            "Class by class",
            missing("The rows hold no accuracies of single classes"),
            level=3,
        )
    parts = [f"<p>{escape(look.what)}: per cent of each class's test images, mean over seeds.</p>"]
    for seen in (False, True):
        group = sorted((one for one in found if one.seen == seen), key=lambda one: -one.mean)
        parts.append(_group(group, seen=seen) if group else "")
    parts.append(_table(look.study, found))
    return section(f"{look.anchor}-classes", "Class by class", "".join(parts), level=3)


def _group(group: Sequence[OfClass], *, seen: bool) -> str:
    kind, look = ("Seen", "s") if seen else ("Unseen", "u")
    values = np.array([one.mean for one in group])
    mean = f"{kind} classes, {len(group)}: mean {values.mean():.1f}, median {np.median(values):.1f}"
    if len(group) <= BARS:
        return f"<h4>{mean}</h4>{_bars(group, look)}"
    half = BARS // 2
    return (
        f"<h4>{mean}</h4><p>The best {half}:</p>{_bars(group[:half], look)}"
        f"<p>The worst {half}:</p>{_bars(group[-half:], look)}"
    )


def _bars(group: Sequence[OfClass], look: str) -> str:
    items = "".join(
        f'<li><span class="name">{escape(one.name[:NAME])}</span><span class="value">'
        f'{one.mean:.0f}</span><i><b class="{look}" style="width:{one.mean:.0f}%"></b></i></li>'
        for one in group
    )
    return f'<ul class="classes">{items}</ul>'


def _table(study: Study, found: Sequence[OfClass]) -> str:
    rows = [
        cells(
            escape(one.name[:NAME]),
            ["seen" if one.seen else "unseen", str(one.images), one.cell],
        )
        for one in found[:NAMED]
    ]
    title = f"Classes of {study.label}, {study.main.protocol}"
    shown = table(title, ("class", "in training", "test images", "right, %"), [_tbody(rows)])
    left = missing(f"{len(found) - NAMED} more are in results.jsonl") if found[NAMED:] else ""
    return (
        f"<details><summary>All {len(found):,} classes as a table</summary>{shown}{left}</details>"
    )


def _tbody(rows: Sequence[str]) -> str:
    return f"<tbody>{''.join(rows)}</tbody>"


def confusions_section(look: Look) -> str:
    """The most frequent mistakes of the lowest seed's run, with a picture of each class."""
    row = look.study.main.first
    pairs = [one for one in row.test.get("confusions", ()) if isinstance(one, Mapping)][:CONFUSIONS]
    if not pairs:
        return ""
    seen = {one["name"]: one["seen"] for one in row.test.get("per_class", ())}
    shown = _Shown(look)
    items = "".join(_pair(one, seen, shown) for one in pairs)
    what = f"{look.what}, seed {row.task['seed']}"
    said = f"<p>{escape(what)}: the largest entries of the confusion matrix.</p>"
    why = "" if shown.any else missing(f"No pictures: {shown.problem}")
    body = f'{said}<ul class="pairs">{items}</ul>{why}'
    return section(f"{look.anchor}-confusions", "Where it goes wrong", body, level=3)


def _pair(one: Mapping[str, Any], seen: Mapping[str, bool], shown: "_Shown") -> str:
    label, predicted = str(one.get("label")), str(one.get("predicted"))
    pictures = shown.wrong(label, predicted), shown.example(predicted)

    def named(name: str) -> str:
        kind = ("seen" if seen[name] else "unseen") if name in seen else ""
        return f"<b>{escape(name[:NAME])}</b> <small>{kind}</small>"

    images = "".join(
        f'<img src="{source}" width="96" height="96" alt="{escape(alt)}">'
        for source, alt in zip(
            pictures,
            (f"{label[:NAME]}, taken for {predicted[:NAME]}", f"an image of {predicted[:NAME]}"),
            strict=True,
        )
        if source
    )
    count = f"{one.get('count')} images, {float(one.get('share', 0)):.0f}\u00a0% of the class"
    return (
        f"<li>{f'<div>{images}</div>' if images else ''}<p>{named(label)} was taken for "
        f"{named(predicted)}<br>{escape(count)}</p></li>"
    )


class _Shown:
    """Pictures for confusions: an image that the saved model gets wrong, and one of the other."""

    def __init__(self, look: Look):
        self._tested: Tested | str = look.tested
        self._pictures: Pictures = look.pictures
        self.any = False
        self.problem = look.data_problem or look.pictures.problem
        if isinstance(look.tested, str):
            self.problem = self.problem or look.tested

    def wrong(self, label: str, predicted: str) -> str | None:
        """An image of `label` that was taken for `predicted`."""
        if isinstance(self._tested, str):
            return None
        names = {name: i for i, name in enumerate(self._tested.recognizer.class_names)}
        a, b = names.get(label), names.get(predicted)
        hit = (self._tested.labels == a) & (self._tested.predicted == b)
        return self._first(self._tested.rows[hit])

    def example(self, name: str) -> str | None:
        """A test image of a class."""
        if isinstance(self._tested, str):
            return None
        names = self._tested.recognizer.class_names
        wanted = names.index(name) if name in names else -1
        return self._first(self._tested.rows[self._tested.labels == wanted])

    def _first(self, rows: np.ndarray) -> str | None:
        has = self._pictures.has
        for row in rows[has[rows]][:3] if has is not None else ():
            if (source := self._pictures.thumbnail(int(row))) is not None:
                self.any = True
                return source
        return None
