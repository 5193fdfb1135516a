"""Content of the demo's page, for the template `page.html`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mlis.config import Config
from mlis.data.letters.alphabet import Letter
from mlis.data.letters.dataset import LetterData
from mlis.evaluation import Evaluation
from mlis.pages import data_uri, render
from mlis.pages.projection import project, same_class_nearest

ANSWERS = 44  # test images of unseen letters, drawn at random
CONFUSIONS = 9
RELATIVES = 3  # seen letters per part in the worked example
COLOURED = 8  # unseen letters with their own colour in the plot, as many as in the stylesheet


@dataclass(frozen=True, eq=False)
class Findings:
    """Test results of the recognizer, the data, and the metrics of the other methods.

    Attributes:
        data: letters, images, split.
        rows: (n,) int64, row of each test image in `data`, in the order of `for_testing`.
        predicted: (n,) int64, class predicted for each.
        refined: (n, Dh) refined features of the test images.
        evaluation: of the recognizer on them.
        methods: name → U, S, H, T1 in per cent; the recognizer is last.
        config: its settings.
        seconds: wall time of rendering, training and testing.
        provenance: of data, versions and machine.
    """

    data: LetterData
    rows: np.ndarray
    predicted: np.ndarray
    refined: np.ndarray
    evaluation: Evaluation
    methods: Mapping[str, Mapping[str, float]]
    config: Config
    seconds: float
    provenance: Mapping[str, Any]

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, the true class of each test image."""
        return self.data.dataset.labels[self.rows]

    @property
    def letters(self) -> Sequence[Letter]:
        """All classes."""
        return self.data.letters


def render_page(found: Findings) -> str:
    """The page as HTML."""
    split, dataset = found.data.dataset.split, found.data.dataset
    return render(
        "demo/page.html",
        found=found,
        dataset=dataset,
        held_out=len(set(dataset.labels[split.val_unseen].tolist())),
        example=_example(found),
        answers=list(_answers(found)),
        letters=list(_letters(found)),
        confusions=_confusions(found),
        maps=_maps(found),
    )


def shot(image: np.ndarray) -> str:
    """A rendered letter as a data URI: black, with the image as its alpha channel."""
    ink = np.stack([np.zeros_like(image), image], axis=-1)
    return data_uri(Image.fromarray(ink, "LA"), "png")


def _answers(found: Findings) -> Iterator[dict[str, Any]]:
    """Random test images of unseen letters, with predictions."""
    unseen = np.flatnonzero(~found.data.dataset.seen_mask[found.labels])
    for i in np.random.default_rng(1).permutation(unseen)[:ANSWERS]:
        yield _answer(found, i)


def _answer(found: Findings, i: int) -> dict[str, Any]:
    true, said = found.letters[found.labels[i]], found.letters[found.predicted[i]]
    picture = shot(found.data.images[found.rows[i]])
    return {"true": true, "said": said, "right": true == said, "picture": picture}


def _letters(found: Findings) -> Iterator[dict[str, Any]]:
    """Accuracy of each letter, and its most frequent wrong prediction."""
    for c, row in enumerate(found.evaluation.per_class):
        wrong = Counter(found.predicted[found.labels == c].tolist())
        wrong.pop(c, None)
        yield {
            "letter": found.letters[c],
            "seen": bool(found.data.dataset.seen_mask[c]),
            "images": row.images,
            "accuracy": row.accuracy,
            "mistaken_for": found.letters[wrong.most_common(1)[0][0]] if wrong else None,
        }


# --- the worked example ---------------------------------------------------------------------------


def _example(found: Findings) -> dict[str, Any]:
    """Seen letters with the base letter or the mark of an unseen letter."""
    chosen = _best_example(found)
    rng = np.random.default_rng(0)
    train, letters = found.data.dataset.split.trainval, found.letters

    def picture(c: int, rows: np.ndarray) -> dict[str, Any]:
        row = rng.choice(rows[found.data.dataset.labels[rows] == c])
        return {"picture": shot(found.data.images[row]), "letter": letters[c]}

    base, mark = (
        [picture(c, train) for c in relatives[:RELATIVES]]
        for relatives in _relatives(found, chosen)
    )
    answers = found.predicted[found.labels == chosen]
    return {
        "base": base,
        "mark": mark,
        "new": picture(chosen, found.rows),
        "right": int((answers == chosen).sum()),
        "images": len(answers),
    }


def _best_example(found: Findings) -> int:
    """The unseen letter with the best accuracy, then the most relatives; with one mark if any."""
    unseen = found.data.dataset.unseen_classes.tolist()
    single = [c for c in unseen if len(found.letters[c].marks) == 1]

    def merit(c: int) -> tuple[bool, float, int]:
        accuracy = found.evaluation.per_class[c].accuracy or 0.0
        return found.letters[c].case == "small", accuracy, min(map(len, _relatives(found, c)))

    return max(single or unseen, key=merit)


def _relatives(found: Findings, c: int) -> tuple[list[int], list[int]]:
    """Seen letters with the same base and case, and seen letters with the same first mark."""
    letters, own = found.letters, found.letters[c]
    seen = [i for i in found.data.dataset.seen_classes.tolist() if len(letters[i].marks) == 1]
    base = [i for i in seen if letters[i].ingredients[0] == own.ingredients[0]]
    mark = [i for i in seen if letters[i].marks == own.marks[:1] and letters[i].case == own.case]
    return base, mark


# --- confusions -----------------------------------------------------------------------------------


def _confusions(found: Findings) -> dict[str, Any] | None:
    """The most frequent errors on unseen letters, and the parts that differ."""
    unseen = ~found.data.dataset.seen_mask[found.labels]
    wrong = np.flatnonzero(unseen & (found.labels != found.predicted))
    if not len(wrong):
        return None
    mistakes = [(int(found.labels[i]), int(found.predicted[i])) for i in wrong]
    first = dict(zip(reversed(mistakes), reversed(wrong.tolist()), strict=True))
    both = [(found.letters[a], found.letters[b]) for a, b in mistakes]
    pairs = [
        {
            **_answer(found, first[pair]),
            "difference": difference(*(found.letters[c] for c in pair)),
            "count": count,
            "images": int((found.labels == pair[0]).sum()),
        }
        for pair, count in Counter(mistakes).most_common(CONFUSIONS)
    ]
    return {
        "pairs": pairs,
        "same_base": 100 * np.mean([a.ingredients[0] == b.ingredients[0] for a, b in both]),
        "one_off": 100 * np.mean([_parts_off(a, b) == 1 for a, b in both]),
    }


def difference(true: Letter, said: Letter) -> str:
    """The difference between two letters, in words.

    >>> a, b = Letter("ǔ", "small", "U", ("caron",)), Letter("ŭ", "small", "U", ("breve",))
    >>> difference(a, b)
    'caron read as breve'
    """
    if true.ingredients[0] != said.ingredients[0]:
        return f"{true.description} read as {said.description}"
    missing = " and ".join(mark for mark in true.marks if mark not in said.marks)
    extra = " and ".join(mark for mark in said.marks if mark not in true.marks)
    if missing and extra:
        return f"{missing} read as {extra}"
    return f"{missing} missed" if missing else f"{extra} added"


def _parts_off(true: Letter, said: Letter) -> int:
    """Number of parts to replace, add or remove."""
    missing, extra = set(true.parts) - set(said.parts), set(said.parts) - set(true.parts)
    return max(len(missing), len(extra))


# --- raw and refined features ---------------------------------------------------------------------


def _maps(found: Findings) -> dict[str, Any] | None:
    """Test images of the base letter and case with the most unseen letters, in 2-D."""
    dataset, labels = found.data.dataset, found.labels
    families: dict[str, list[int]] = {}
    for c, letter in enumerate(found.letters):
        families.setdefault(letter.ingredients[0], []).append(c)
    family = max(families.values(), key=lambda members: (~dataset.seen_mask[members]).sum())
    shown = np.flatnonzero(np.isin(labels, family))
    if len(shown) < 5:
        return None
    styles = dict.fromkeys(family, "seen")
    coloured = [c for c in family if not dataset.seen_mask[c]][:COLOURED]
    styles |= {c: f"c{i}" for i, c in enumerate(coloured)}
    shown = shown[
        np.argsort(np.isin(labels[shown], coloured), kind="stable")
    ]  # coloured points on top
    panels = []
    for kind, features in (("Raw", dataset.features[found.rows]), ("Refined", found.refined)):
        nearest = same_class_nearest(features, labels)[~dataset.seen_mask[labels]]
        places = zip(project(features[shown]).tolist(), labels[shown].tolist(), strict=True)
        points = [(x, y, found.letters[c].character, styles[c]) for (x, y), c in places]
        panels.append({"kind": kind, "points": points, "nearest": 100 * nearest.mean()})
    legend = [(styles[c], found.letters[c]) for c in coloured]
    return {"panels": panels, "legend": legend, "first": found.letters[family[0]]}
