"""Test images of one family of letters in two dimensions: raw features beside refined ones."""

import numpy as np

from mlis.demo.findings import Findings
from mlis.demo.glyphs import describe, glyph
from mlis.pages import place, same_class_nearest

_COLOURS = 8  # unseen letters with a colour of their own; the style has as many
_SIDE, _MARK = 480, 22  # units of a panel's side and of a letter in it


def maps_section(findings: Findings) -> str:
    """Two panels, each test image a small letter where t-SNE puts its features."""
    letters, labels = findings.data.letters, findings.labels
    dataset = findings.data.dataset
    family = _family(findings)
    shown = np.flatnonzero(np.isin(labels, family))
    if len(shown) < 5:
        return ""
    coloured = [c for c in family if not dataset.seen_mask[c]][:_COLOURS]
    raw = dataset.features[findings.rows]
    unseen = ~dataset.seen_mask[labels]
    panels = [
        _panel(findings, raw[shown], labels[shown], coloured, "raw"),
        _panel(findings, findings.refined[shown], labels[shown], coloured, "refined"),
    ]
    alone = [same_class_nearest(x, labels)[unseen].mean() * 100 for x in (raw, findings.refined)]
    legend = "".join(
        f'<span class="c{i}">{glyph(c, letters[c])} {describe(letters[c])}</span>'
        for i, c in enumerate(coloured)
    )
    first = letters[family[0]]
    name = f"{first.case} {first.base if first.case == 'capital' else first.base.lower()}"
    return f"""<section>
<h2>What refining does</h2>
<p>Every test picture of a {name} with marks, drawn as its letter. Pictures whose features are
alike lie close together. Refining is meant to bring pictures of one letter together, in
whatever typeface, also of letters <em class="u">never seen</em> (in colour; seen ones are
grey).</p>
<div class="maps">
<figure><div class="panel">{panels[0]}</div>
<figcaption><b>Raw features.</b> {alone[0]:.0f}&nbsp;% of all pictures of never-seen letters have a
nearest neighbour of the same letter.</figcaption></figure>
<figure><div class="panel">{panels[1]}</div>
<figcaption><b>Refined features.</b> {alone[1]:.0f}&nbsp;% have one.</figcaption></figure>
</div>
<p class="legend">{legend}</p>
<p class="note">Two dimensions by t-SNE of the cosine geometry; distances between far groups mean
nothing. The letters were chosen for having the most never-seen members.</p>
</section>"""


def _family(findings: Findings) -> list[int]:
    """The letters of one base and case: those with the most unseen members."""
    letters = findings.data.letters
    families: dict[str, list[int]] = {}
    for c, letter in enumerate(letters):
        families.setdefault(letter.ingredients[0], []).append(c)
    mask = findings.data.dataset.seen_mask
    return max(families.values(), key=lambda family: (~mask[family]).sum())


def _panel(
    findings: Findings, features: np.ndarray, labels: np.ndarray, coloured: list[int], what: str
) -> str:
    points = place(features)
    order = np.argsort(np.isin(labels, coloured), kind="stable")  # colours on top
    marks = []
    for i in order:
        c = int(labels[i])
        x, y = points[i] * (_SIDE - _MARK)
        style = f"c{coloured.index(c)}" if c in coloured else "ps"
        marks.append(
            f'<use href="#g{c}" class="{style}" x="{x:.1f}" y="{y:.1f}" width="{_MARK}" '
            f'height="{_MARK}"/>'
        )
    label = f"Scatter plot of {len(labels)} test pictures by their {what} features"
    return (
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="{label}">{"".join(marks)}</svg>'
    )
