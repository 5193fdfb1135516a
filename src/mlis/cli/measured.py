"""What `mlis evaluate` finds of one model: computed, as a table in plain words, as a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mlis.cli.output import number

if TYPE_CHECKING:
    import numpy as np

    from mlis.data.dataset import TestSplit
    from mlis.evaluation import Confidence, Evaluation, Rejection
    from mlis.experiments.report.pictures import Pictures
    from mlis.explanation import Examples
    from mlis.incremental.exemplar_buffer import ExemplarBuffer
    from mlis.model.recognizer import Recognizer

COVERAGES = (50, 80, 90)  # per cent of images that are answered


@dataclass(frozen=True, eq=False)
class Measured:
    """A model's measures on test rows.

    Attributes:
        recognizer: the model.
        test: the rows.
        predicted: (n,) int64.
        result, confidence: of its scores.
        nearest: Recall@1 and MAP@R, raw and refined, where there are images of unseen classes.
        rejection: None without a row.
        turned_away: shares that are answered "unknown" at the usual rate.
    """

    recognizer: "Recognizer"
    test: "TestSplit"
    predicted: "np.ndarray"
    result: "Evaluation"
    confidence: "Confidence"
    nearest: dict[str, float | None]
    rejection: "Rejection | None"
    turned_away: dict[str, float]

    @classmethod
    def of(
        cls, recognizer: "Recognizer", test: "TestSplit", unknown: "np.ndarray | None" = None
    ) -> Self:
        """Measure a model.

        Args:
            recognizer: the model.
            test: rows of its classes.
            unknown: (M, Dx) features of things that are none of them.
        """
        from mlis.evaluation import evaluate, evaluate_confidence, evaluate_rejection
        from mlis.experiments.retrieval import retrieved
        from mlis.model.rejection import turned_away

        scores = recognizer.scores(test.features)
        predicted, of = scores.argmax(axis=1), (test.labels, test.seen_mask)
        confidence = evaluate_confidence(scores, *of, temperature=recognizer.temperature)
        rejection, away = None, dict[str, float]()
        if len(scores):
            known = recognizer.known_scores(test.features)
            others = None if unknown is None else recognizer.known_scores(unknown)
            rejection = evaluate_rejection(known, predicted == test.labels, others)
            is_seen = test.seen_mask[test.labels]
            away = turned_away(recognizer.metadata.rejection, known, is_seen, others)
        return cls(
            *(recognizer, test, predicted, evaluate(scores, *of, test.class_names), confidence),
            *(retrieved(recognizer, test), rejection, away),
        )

    def to_dict(self) -> dict[str, Any]:
        """Measures of one model, for JSON, which are averaged over seeds."""
        return self.result.to_dict() | self.confidence.to_dict() | self.nearest

    def curves(self) -> dict[str, Any]:
        """What is of this model alone, for JSON."""
        if self.rejection is None:
            return {}
        return self.rejection.to_dict() | {"turned_away_at_5": self.turned_away}

    def table(self) -> list[tuple[str, str, str]]:
        """Each measure in plain words, its symbol, and its value in per cent."""
        from mlis.evaluation.words import MEANING

        rows = [
            (MEANING[name], name, number(value)) for name, value in self.result.measures.items()
        ]
        words = {"ECE": "", "ECE_seen": ", of seen classes", "ECE_unseen": ", of unseen classes"}
        rows += [
            (MEANING["ECE"] + words[name], "ECE", number(value))
            for name, value in self.confidence.to_dict().items()
        ]
        for name, key in (("Recall@1", "recall_at_1"), ("MAP@R", "map_at_r")):
            if (raw := self.nearest.get(f"{key}_raw")) is not None:
                text = f"{MEANING[name]}, of unseen classes: raw → refined features"
                values = f"{number(raw)} → {number(self.nearest[f'{key}_refined'])}"
                rows.append((text, name, values))
        return rows + self._of_rejection()

    def lines(self) -> list[str]:
        """The table as text: value, symbol, words."""
        rows = self.table()
        wide = [max(len(row[i]) for row in rows) for i in range(3)]
        return [f"{value:>{wide[2]}}  {name:<{wide[1]}}  {words}" for words, name, value in rows]

    def _of_rejection(self) -> list[tuple[str, str, str]]:
        from mlis.evaluation.words import MEANING

        if (found := self.rejection) is None:
            return []
        rows = [
            (MEANING["risk"].replace("those", f"the {at:.0f} %"), "risk", number(risk))
            for at, risk in found.at(*COVERAGES)
        ]
        rows.append((MEANING["AURC"], "AURC", number(found.area)))
        if found.auroc is not None:
            rows.append((MEANING["AUROC"], "AUROC", number(found.auroc)))
        return rows + [
            (f"photographs of {kind} classes that --reject 5% turns away", "", number(share))
            for kind, share in self.turned_away.items()
        ]

    def write_page(
        self,
        output: Path,
        facts: dict[str, str],
        pictures: "Pictures",
        compared: "Examples | ExemplarBuffer | None",
        warning: str,
    ) -> None:
        """Write the page of `--html`.

        Args:
            output: the file.
            facts: model, data and protocol.
            pictures: of the test rows, as far as they are known.
            compared: training images, to explain mistakes with.
            warning: what must be said beside every number; empty without.
        """
        from mlis.experiments.report.evaluated import write_evaluation
        from mlis.experiments.report.material import Tested

        answers = Tested(
            *(self.recognizer, self.test, self.predicted, self.confidence, self.rejection),
            *(self.turned_away, pictures, compared),
        )
        write_evaluation(output, self.result, answers, self.table(), facts, warning)
