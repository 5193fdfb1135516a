"""Parts of the page with rendered letters: the worked example, answers, accuracies, confusions."""

from collections import Counter
from html import escape

import numpy as np
from PIL import Image

from mlis.data.letters.alphabet import Letter
from mlis.demo.findings import Findings
from mlis.demo.glyphs import describe, glyph
from mlis.pages import data_uri

_ANSWERS = 44  # test images of unseen letters, drawn at random
_CONFUSIONS = 9
_SHOWN_SEEN = 3  # seen letters that show a part, in the worked example


def shot(image: np.ndarray, alt: str) -> str:
    """An `<img>` of one rendered letter: black ink, as transparent as the image is dark."""
    ink = np.stack([np.zeros_like(image), image], axis=-1)
    source = data_uri(Image.fromarray(ink, "LA"), "png")
    return f'<img class="shot" alt="{escape(alt)}" src="{source}">'


def worked_example(findings: Findings) -> str:
    """Seen letters with the base + seen letters with the mark → the letter never seen."""
    letters, images = findings.data.letters, findings.data.images
    chosen = _example(findings)
    base, mark = _showing(findings, chosen)
    rng = np.random.default_rng(0)
    train = findings.data.dataset.split.trainval

    def picture(c: int, rows: np.ndarray) -> str:
        row = rng.choice(rows[findings.data.dataset.labels[rows] == c])
        return shot(images[row], describe(letters[c]))

    new = letters[chosen]
    right = round(findings.accuracy[chosen] / 100 * _images_of(findings, chosen))
    name = new.base if new.case == "capital" else new.base.lower()
    cell = '<div><div class="shots">{}</div><p>{}</p></div>'.format
    return "\n".join(
        [
            '<div class="sum">',
            cell("".join(picture(c, train) for c in base), f"seen: {name} with other marks"),
            '<span class="op" aria-label="plus">+</span>',
            cell(
                "".join(picture(c, train) for c in mark), f"seen: {new.marks[0]} on other letters"
            ),
            '<span class="op arrow" aria-label="gives">→</span>',
            f'<div class="new"><div class="shots">{picture(chosen, findings.rows)}</div>'
            f"<p>never seen: {describe(new)}<br>named right in {right} of "
            f"{_images_of(findings, chosen)} pictures</p></div>",
            "</div>",
        ]
    )


def _example(findings: Findings) -> int:
    """The best recognised unseen letter that seen ones show well: one mark, the most relatives."""
    letters, dataset = findings.data.letters, findings.data.dataset
    single = [c for c in dataset.unseen_classes if len(letters[c].marks) == 1]
    candidates = single or dataset.unseen_classes.tolist()

    def merit(c: int) -> tuple[bool, float, int]:
        small = letters[c].case == "small"
        return small, findings.accuracy[c], min(map(len, _relatives(findings, c)))

    return int(max(candidates, key=merit))


def _relatives(findings: Findings, c: int) -> tuple[list[int], list[int]]:
    """Seen letters with the same base and case, and seen letters with the same first mark."""
    letters = findings.data.letters
    seen = findings.data.dataset.seen_classes.tolist()
    single = [i for i in seen if len(letters[i].marks) == 1]
    base = [i for i in single if letters[i].ingredients[0] == letters[c].ingredients[0]]
    mark = [
        i
        for i in single
        if letters[i].marks == letters[c].marks[:1] and letters[i].case == letters[c].case
    ]
    return base, mark


def _showing(findings: Findings, c: int) -> tuple[list[int], list[int]]:
    base, mark = _relatives(findings, c)
    return base[:_SHOWN_SEEN], mark[:_SHOWN_SEEN]


def _images_of(findings: Findings, c: int) -> int:
    return int((findings.labels == c).sum())


def answers_section(findings: Findings) -> str:
    """Random test images of unseen letters, and what each was taken for."""
    letters = findings.data.letters
    unseen = np.flatnonzero(~findings.data.dataset.seen_mask[findings.labels])
    drawn = np.random.default_rng(1).permutation(unseen)[:_ANSWERS]
    items = []
    for i in drawn:
        true, said = int(findings.labels[i]), int(findings.predicted[i])
        picture = shot(findings.data.images[findings.rows[i]], describe(letters[true]))
        verdict = '<span class="mark" aria-label="right">✓</span>'
        note = ""
        if said != true:
            verdict = '<span class="mark" aria-label="wrong">✗</span>'
            note = f"<small>was {glyph(true, letters[true])}</small>"
        state = "ok" if said == true else "no"
        items.append(
            f'<li class="{state}">{picture}<span class="say">{glyph(said, letters[said])}{verdict}'
            f"</span>{note}</li>"
        )
    right = int((findings.labels[drawn] == findings.predicted[drawn]).sum())
    return f"""<section>
<h2>What it was shown, and what it said</h2>
<p>{len(drawn)} pictures of <em class="u">never-seen</em> letters, drawn at random from the
test. Under each picture is the answer, out of all {len(letters)} letters.
{right} of {len(drawn)} are right.</p>
<ul class="tiles">{"".join(items)}</ul>
</section>"""


def bars_section(findings: Findings) -> str:
    """Accuracy of each unseen letter, best first; all letters in a table below."""
    letters, accuracy = findings.data.letters, findings.accuracy
    unseen = findings.data.dataset.unseen_classes
    order = unseen[np.argsort(-accuracy[unseen], kind="stable")]
    bars = "".join(
        f'<li>{glyph(c, letters[c])}<i><b style="width:{accuracy[c]:.0f}%"></b></i>'
        f"<span>{accuracy[c]:.0f}</span></li>"
        for c in order
    )
    perfect = int((accuracy[unseen] >= 99.99).sum())
    weak = int((accuracy[unseen] < 50).sum())
    return f"""<section>
<h2>Letter by letter</h2>
<p>Per cent of test pictures named right, for each of the {len(unseen)}
<em class="u">never-seen</em> letters. Never missed: {perfect}. Missed more often than not:
{weak}.</p>
<ul class="bars">{bars}</ul>
{_all_letters(findings)}
</section>"""


def _all_letters(findings: Findings) -> str:
    letters = findings.data.letters
    seen_mask = findings.data.dataset.seen_mask
    rows = []
    for c, row in enumerate(findings.evaluation.per_class):
        wrong = Counter(findings.predicted[findings.labels == c].tolist())
        wrong.pop(c, None)
        most = wrong.most_common(1)
        taken = glyph(most[0][0], letters[most[0][0]]) if most else ""
        rows.append(
            f"<tr><th>{letters[c].character} {escape(describe(letters[c]))}</th>"
            f"<td>{'seen' if seen_mask[c] else 'never seen'}</td>"
            f"<td>{row.images}</td><td>{row.accuracy:.0f}</td><td>{taken}</td></tr>"
        )
    return f"""<details><summary>All {len(rows)} letters as a table</summary>
<div class="scroll"><table><thead><tr><th>letter</th><th>in training</th><th>test pictures</th>
<th>named right, %</th><th>most often taken for</th></tr></thead>
<tbody>{"".join(rows)}</tbody></table></div></details>"""


def confusions_section(findings: Findings) -> str:
    """The most frequent mistakes on unseen letters, and which part was mistaken."""
    letters = findings.data.letters
    unseen = ~findings.data.dataset.seen_mask[findings.labels]
    wrong = np.flatnonzero(unseen & (findings.labels != findings.predicted))
    if not len(wrong):
        return ""
    pairs = Counter(
        (int(a), int(b))
        for a, b in zip(findings.labels[wrong], findings.predicted[wrong], strict=True)
    )
    items = [_pair(findings, a, b, count) for (a, b), count in pairs.most_common(_CONFUSIONS)]
    same_base = _share(
        letters[a].ingredients[0] == letters[b].ingredients[0] for a, b in pairs.elements()
    )
    one_off = _share(_parts_off(letters[a], letters[b]) == 1 for a, b in pairs.elements())
    return f"""<section>
<h2>Where it goes wrong</h2>
<p>Of the wrong answers for <em class="u">never-seen</em> letters, {same_base:.0f}&nbsp;% have the
base letter and its case right and only the marks wrong; {one_off:.0f}&nbsp;% differ from the truth
in a single part. The most frequent mistakes:</p>
<ul class="pairs">{"".join(items)}</ul>
</section>"""


def _pair(findings: Findings, true: int, said: int, count: int) -> str:
    letters = findings.data.letters
    hit = np.flatnonzero((findings.labels == true) & (findings.predicted == said))[0]
    picture = shot(findings.data.images[findings.rows[hit]], describe(letters[true]))
    return (
        f'<li>{picture}<span class="arrow" aria-label="was taken for">→</span>'
        f'<span class="to">{glyph(said, letters[said])}</span>'
        f"<p><b>{_difference(letters[true], letters[said])}</b><br>"
        f"{count} of {_images_of(findings, true)} pictures</p></li>"
    )


def _difference(true: Letter, said: Letter) -> str:
    if true.ingredients[0] != said.ingredients[0]:
        return f"{describe(true)} read as {describe(said)}"
    missing = " and ".join(mark for mark in true.marks if mark not in said.marks)
    extra = " and ".join(mark for mark in said.marks if mark not in true.marks)
    if missing and extra:
        return f"{missing} read as {extra}"
    return f"{missing} missed" if missing else f"{extra} added"


def _parts_off(true: Letter, said: Letter) -> int:
    """Parts to change: replacing one, adding one and dropping one count the same."""
    missing, extra = set(true.parts) - set(said.parts), set(said.parts) - set(true.parts)
    return max(len(missing), len(extra))


def _share(flags) -> float:
    values = list(flags)
    return 100 * sum(values) / len(values)
