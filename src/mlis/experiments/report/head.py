"""The beginning of the page: what was measured, the protocol in words, the main numbers."""

from collections.abc import Sequence

from mlis.experiments.published import published
from mlis.experiments.report.html import escape, section
from mlis.experiments.report.studies import QUICK, Study
from mlis.experiments.source import FIVE
from mlis.experiments.store import STAND_IN, TEST_BEST
from mlis.experiments.tables import MEASURED, Line
from mlis.provenance import PROTOCOL

LABELS = {
    PROTOCOL: "every choice (steps, synthetic counts, loss settings, the constant that balances "
    "seen against unseen classes) was made on validation classes, held out of the training "
    "classes; then trained on all training rows and tested once, at the last step.",
    TEST_BEST: "the best of several steps, and of all constants that balance seen against unseen "
    "classes, on the test images themselves (of baselines the best constant alone). It looks at "
    "the answers, so it is too high for new images; it stands here to be compared with published "
    "figures, nearly all of which were found so, and not with H@val.",
    "as published": "copied from the paper that is named: nearly always the best epoch on the test "
    "set, with that paper's features.",
    STAND_IN: "features made up in a benchmark's format: its numbers mean nothing.",
    QUICK: "a few steps and small networks, to see that everything runs: no result.",
}


def title(studies: Sequence[Study]) -> str:
    """Heading, what this is, and the main numbers of each study."""
    rows = [row for study in studies for row in study.rows]
    names = list(dict.fromkeys(study.name for study in studies))
    protocols = sorted({row.protocol for row in rows})
    runs = f"{len(rows):,} run{'s' if len(rows) != 1 else ''}"
    days = sorted(row.finished[:10] for row in rows)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"""<header>
<p class="eyebrow">mlis report · generalized zero-shot recognition</p>
<h1>What was measured</h1>
<p class="lede">{runs} on {escape(shown)}, {escape(when)}, under
{escape(" and ".join(protocols))}, beside what is published.</p>
{"".join(_numbers(study) for study in studies[:6])}
</header>"""


def _numbers(study: Study) -> str:
    """U, S and H of the main series."""
    series = study.main
    line = Line(study.label, study.main_label, MEASURED, series.summary)
    seeds = f"{len(series.rows)} seeds" if len(series.rows) > 1 else f"seed {series.seeds[0]}"
    label = f"{study.label}: {line.method}, {series.protocol}, {seeds}"
    cells = "".join(
        f'<div class="{name}"><dt>{name}<span> {said}</span></dt><dd>{escape(line.cell(name))}'
        "<small> %</small></dd></div>"
        for name, said in (
            ("U", "unseen classes"),
            ("S", "seen classes"),
            ("H", "harmonic mean of both"),
        )
    )
    theirs = _published(study)
    beside = f'<p class="note">{escape(theirs)}</p>' if theirs else ""
    return f'<div class="numbers"><p>{escape(label)}</p><dl>{cells}</dl>{beside}</div>'


def _published(study: Study) -> str:
    """What the paper has for the same dataset, with its label."""
    if study.name not in FIVE:
        return ""
    ours = [
        one for one in published("table2") if (one.dataset, one.method) == (study.name, "MLIS-GZSL")
    ]
    return "".join(
        f"The paper: U {row.U:.1f}, S {row.S:.1f}, H {row.H:.1f} ({row.protocol}, with its own "
        "features)."
        for row in ours[:1]
    )


def protocol(studies: Sequence[Study], shown: str) -> str:
    """Every label that stands on the page, in words.

    Args:
        studies: what the page is about.
        shown: the rest of the page; labels that are not in it need no words.
    """
    terms = "".join(
        f"<dt>{escape(label)}</dt><dd>{escape(said)}</dd>"
        for label, said in LABELS.items()
        if escape(label) in shown
    )
    seeds = sorted({seed for study in studies for seed in study.seeds})
    listed = ", ".join(map(str, seeds[:20])) + (", …" if len(seeds) > 20 else "")
    return section(
        "protocol",
        "How it was measured",
        f"""<p>U and S are per cent: the mean over unseen and over seen classes of the share of test
images that are recognised, with all classes as candidates. H&nbsp;=&nbsp;2US/(U+S), computed for
each run. Mean&nbsp;± standard deviation over seeds (here {escape(listed)}); a single run has no
deviation.</p>
<dl class="labels">{terms}</dl>""",
    )
