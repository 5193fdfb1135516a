"""A closer look at a study's main series: what was trained, its losses, a map of features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlis.experiments.report import charts, maps
from mlis.experiments.report.html import escape, figure, missing, section
from mlis.experiments.report.material import Losses, Tested
from mlis.experiments.report.pictures import Pictures
from mlis.experiments.report.studies import Study
from mlis.model.recognizer import Recognizer


@dataclass(frozen=True, eq=False)
class Look:
    """All that is known of a study's main series beside its rows.

    Attributes:
        anchor: of its section.
        study: which.
        data_problem: why there is no dataset; empty where there is one.
        model: the saved one, or why there is none.
        tested: its answers, or why there are none.
        map: places of test images; None where something is missing or none was asked for.
        map_problem: why not, if so.
        drawing: SVG of `diagram`.
        losses: of the seeds that have them.
        without_losses: the other seeds.
        pictures: of the dataset's rows.
    """

    anchor: str
    study: Study
    data_problem: str
    model: Recognizer | str
    tested: Tested | str
    map: maps.Map | None
    map_problem: str
    drawing: str
    losses: Losses
    without_losses: Sequence[int]
    pictures: Pictures

    @property
    def what(self) -> str:
        """The series, with its labels."""
        series = self.study.main
        return f"{self.study.label}, {self.study.main_label}, {series.protocol}"


def trained_section(look: Look) -> str:
    """Figure 2, and the losses."""
    if look.study.main.method != "mlis":
        drawn = missing("No run of MLIS itself is in this store")
    else:
        caption = f"<b>{escape(look.what)}.</b> The networks with their sizes and what trains them."
        caption += " Dashed: off."
        drawn = figure(look.drawing, caption)
    body = f'<div class="trained">{drawn}<div>{_losses(look)}</div></div>'
    return section(f"{look.anchor}-trained", "What was trained", body, level=3)


def _losses(look: Look) -> str:
    if not look.losses:
        return missing("No losses: runs/ holds none of this series")
    names = list(dict.fromkeys(seed for runs in look.losses.values() for seed in runs))
    panels = []
    for name, runs in look.losses.items():
        ordered = {seed: runs[seed] for seed in names if seed in runs}
        panels.append(figure(charts.loss_panel(name, ordered), ""))
    left = ", ".join(map(str, look.without_losses))
    return (
        "<h4>Training curves</h4><p>Of the training on all training rows, as they were recorded; "
        f"no test image takes part.</p>{charts.legend_of_runs(names)}"
        f'<div class="charts small">{"".join(panels)}</div>'
        + missing(f"Seeds {left} have no losses in runs/" if left else "")
    )


def map_section(look: Look) -> str:
    """Raw beside refined features."""
    test = look.study.main.first.test
    if look.map is None:
        said = [maps.retrieval(test, which) for which in ("raw", "refined")]
        both = f"<p>Images of unseen classes among each other, by cosine: raw {escape(said[0])}; "
        body = f"{both}refined {escape(said[1])}.</p>" if all(said) else ""
        body += missing(f"No map: {look.map_problem}")
    else:
        body = drawn_map(look.map, test, f"{look.what}, seed {look.study.main.seeds[0]}")
    return section(f"{look.anchor}-map", "What refining does", body, level=3)


def drawn_map(found: maps.Map, test: Mapping[str, Any], what: str) -> str:
    """Both panels with their captions."""
    panels = []
    for which, places in (("raw", found.raw), ("refined", found.refined)):
        said = maps.retrieval(test, which)
        numbers = f" {escape(said)}, over all test images of unseen classes." if said else ""
        caption = f"<b>{which.capitalize()} features.</b>{numbers}"
        panels.append(figure(maps.panel(places, found, which), caption))
    return (
        f"<p>{escape(what)}. Test images that lie close together look alike to the features. "
        "Unseen classes have a sign each, seen ones are small grey dots.</p>"
        f'{maps.legend(found)}<div class="maps">{"".join(panels)}</div>'
        f'<p class="note">{escape(maps.METHOD)} Shown are up to {maps.OF_UNSEEN} images of the '
        f"{len(found.classes)} unseen classes with the most of them, and up to {maps.OF_SEEN} of "
        f"{maps.SEEN} seen ones; it was not chosen by how it looks.</p>"
    )
