"""The page of `mlis evaluate --html`: one model, measured on one set of test rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlis.evaluation.words import MEANING
from mlis.experiments.report.closer import parts
from mlis.experiments.report.material import Answers
from mlis.pages import render
from mlis.storage.atomic import write_text


def write_evaluation(
    output: Path,
    answers: Answers,
    measures: Sequence[Sequence[str]],
    facts: Mapping[str, str],
    warning: str = "",
) -> None:
    """Write the page.

    Args:
        output: a `.html` file.
        answers: the model's answers on them.
        measures: what else to show of each: words, symbol, value.
        facts: where they come from; `model` and `data` are the page's title.
        warning: what must be said beside every number; empty without.

    Raises:
        OSError: the file cannot be written.
    """
    result, what = answers.result, f"{facts['model']} on {facts['data']}"
    shown = answers.recognizer.display_names
    look = parts(what, [result.to_dict()], answers, shown)
    text = render(
        "experiments/report/evaluation.html",
        what=what,
        images=result.images,
        candidates=len(answers.recognizer.class_names),
        main=[(name, MEANING[name], getattr(result, name)) for name in ("U", "S", "H")],
        notes=result.notes,
        measures=measures,
        look=look,
        facts=facts,
        warning=warning,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text)
