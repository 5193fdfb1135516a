"""Details of a study's main series: losses, map of features, classes, confusions."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlis.data.dataset import DISPLAYED
from mlis.errors import MlisError
from mlis.experiments.report import charts
from mlis.experiments.report.material import Answers, Loader, losses_of, tested
from mlis.experiments.report.pictures import Pictures
from mlis.experiments.report.series import Study
from mlis.experiments.tasks import METHOD
from mlis.explanation import Explanation

BARS, CONFUSIONS = 40, 9  # classes of each kind that are drawn; pairs
NAME = 60  # characters of a class's name


def look(folder: Path, study: Study, load: Loader, anchor: str, with_maps: bool) -> dict[str, Any]:
    """What the page shows of one study; a part that is missing says why.

    Args:
        folder: the results.
        study: which.
        load: gives its data.
        anchor: of its section.
        with_maps: whether features are placed in two dimensions, the slowest part.
    """
    series, data, answers, found, problem = study.main, None, None, None, ""
    what = f"{study.label}, {study.main_label}, {series.protocol}"
    try:
        data = load(study)
        answers = tested(folder, study, data)
        found = charts.Map.of(data.dataset, answers.recognizer) if with_maps else None
    except (MlisError, OSError) as error:  # the page says why a part is not there
        problem = str(error)
    unmapped = problem or "fewer than 5 test images" if with_maps else "it was not asked for"
    losses, without = losses_of(folder, study)
    shown = data.dataset.provenance.sources.get(DISPLAYED, {}) if data else {}
    said = {which: charts.retrieval(series.first.test, which) for which in ("raw", "refined")}
    return {
        **{"anchor": anchor, "label": study.label, "what": what, "seed": series.seeds[0]},
        **{"dataset": data.dataset if data else None, "data_problem": "" if data else problem},
        "config": series.config if series.method == METHOD else None,
        "losses": [charts.loss_panel(study.label, *one) for one in losses.items()],
        "without_losses": without,
        "map": found,
        "map_problem": "" if found else unmapped,
        "panels": {which: charts.map_panel(found, which, what) for which in said} if found else {},
        "retrieval": said,
        **parts(what, [row.test for row in series.rows], answers, shown, problem),
        "picture_problem": problem or (data.pictures.problem if data else ""),
    }


def parts(
    what: str,
    tests: Sequence[Mapping[str, Any]],
    answers: Answers | None,
    shown: Mapping[str, str],
    problem: str = "",
) -> dict[str, Any]:
    """What `parts.html` shows: probabilities, what is left unanswered, classes, mistakes.

    Args:
        what: the study and its method, or the model and the data.
        tests: measures of each seed, as :meth:`mlis.evaluation.Evaluation.to_dict` gives them.
        answers: of the lowest seed's model.
        shown: display names of classes.
        problem: why there are no answers, or empty.
    """
    classes = list(_classes(tests, shown))
    confidence, rejection = (answers.confidence, answers.rejection) if answers else (None, None)
    reliable = confidence if confidence and confidence.all else None
    return {
        "confidence": confidence,
        "reliability": charts.reliability_panel(what, reliable) if reliable else None,
        "confidence_problem": problem or "there are no test images",
        "rejection": rejection,
        "turned_away": answers.turned_away if answers else {},
        "risk": charts.risk_panel(what, rejection) if rejection else None,
        "classes": classes,
        "class_bars": [_bars(classes, seen) for seen in (False, True)],
        "confusions": list(_confusions(tests[0], answers, shown)),
    }


def problems(found: Mapping[str, Any]) -> list[str]:
    """What could not be shown of a study."""
    said = [f"no map: {found['map_problem']}" if found["map_problem"] else ""]
    said += ["" if found["data_problem"] else found["picture_problem"]]
    said += ["" if found["losses"] else "no losses in runs/"]
    return [f"{found['label']}: {one}" for one in dict.fromkeys(said) if one]


def _classes(
    tests: Sequence[Mapping[str, Any]], shown: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Accuracy of each class with test images over seeds, in the order of the first one."""
    found: dict[str, tuple[Mapping[str, Any], list[float]]] = {}
    for test in tests:
        for one in test.get("per_class", ()):
            if one["accuracy"] is not None:
                found.setdefault(str(one["name"]), (one, []))[1].append(float(one["accuracy"]))
    for name, (one, values) in found.items():
        mean = float(np.mean(values))
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        yield {
            **{"name": shown.get(name, name)[:NAME], "seen": one["seen"], "images": one["images"]},
            **{"mean": mean, "cell": f"{mean:.1f}{spread}"},
        }


def _bars(classes: Sequence[Mapping[str, Any]], seen: bool) -> dict[str, Any]:
    """Bars of all seen or unseen classes, or of the best and the worst."""
    kind = "seen" if seen else "unseen"
    means = [one["mean"] for one in classes if one["seen"] == seen]
    bars = [
        {"name": one["name"], "title": one["name"], "value": f"{one['mean']:.0f}", "kind": kind}
        | {"percent": one["mean"], "spread": None}
        for one in sorted(classes, key=lambda one: -one["mean"])
        if one["seen"] == seen
    ]
    half = BARS // 2
    parts = {"": bars}
    if len(bars) > BARS:
        parts = {f"The best {half}:": bars[:half], f"The worst {half}:": bars[-half:]}
    mean, median = (np.mean(means), np.median(means)) if means else (0.0, 0.0)
    said = f"{kind.capitalize()} classes, {len(bars)}: mean {mean:.1f}, median {median:.1f}"
    return {"said": said, "parts": parts if bars else {}}


def _confusions(
    test: Mapping[str, Any], answers: Answers | None, shown: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The most frequent mistakes of a run, with a mistaken image and one of the other class."""
    seen = {one["name"]: one["seen"] for one in test.get("per_class", ())}
    pairs = [one for one in test.get("confusions", ()) if isinstance(one, Mapping)][:CONFUSIONS]
    reasons = _reasons(pairs, answers)
    for number, one in enumerate(pairs):
        names = [str(one.get("label")), str(one.get("predicted"))]
        texts, pictures = [shown.get(name, name)[:NAME] for name in names], []
        if answers:
            rows = answers.rows_of(*names), answers.rows_of(names[1])
            alts = (f"{texts[0]}, taken for {texts[1]}", f"an image of {texts[1]}")
            found = [_thumbnail(answers.pictures, wanted) for wanted in rows]
            pictures = [pair for pair in zip(found, alts, strict=True) if pair[0]]
        kinds = ["" if name not in seen else "seen" if seen[name] else "unseen" for name in names]
        yield {
            "classes": list(zip(texts, kinds, strict=True)),
            "count": one.get("count"),
            "share": float(one.get("share", 0)),
            "pictures": pictures,
            "reason": _said(reasons[number], shown) if number in reasons else None,
        }


def _reasons(pairs: Sequence[Mapping[str, Any]], answers: Answers | None) -> dict[int, Explanation]:
    """Why the image that is shown of each mistake was taken for the other class, by number."""
    if not answers:
        return {}
    rows: dict[int, int] = {}
    for number, one in enumerate(pairs):
        mistaken = answers.rows_of(str(one.get("label")), str(one.get("predicted")))
        if len(mistaken):
            shown = mistaken[answers.pictures.has[mistaken]]
            rows[number] = int((shown if len(shown) else mistaken)[0])
    try:
        found = answers.explained(list(rows.values())) if rows else []
    except MlisError:  # a head that has neither attributes nor images to compare with
        return {}
    return dict(zip(rows, found, strict=True))


def _said(reason: Explanation, shown: Mapping[str, str]) -> dict[str, str]:
    near = Counter(shown.get(one.class_name, one.class_name)[:NAME] for one in reason.nearest)
    nearest = [f"{count} of {name}" for name, count in near.items()]
    against = shown.get(reason.runner_up, reason.runner_up)[:NAME]
    return {"against": against, "because": reason.because, "nearest": ", ".join(nearest)}


def _thumbnail(pictures: Pictures, rows: np.ndarray) -> str | None:
    there = rows[pictures.has[rows]][:3]
    return next(filter(None, (pictures.thumbnail(int(row)) for row in there)), None)
