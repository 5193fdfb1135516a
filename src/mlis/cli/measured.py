"""What `mlis evaluate` finds of one model: computed, and as a table in plain words."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mlis.cli.output import number

if TYPE_CHECKING:
    import numpy as np

    from mlis.data.dataset import TestSplit
    from mlis.experiments.tested import Tested
    from mlis.model.recognizer import Recognizer

COVERAGES = (50, 80, 90)  # per cent of images that are answered


@dataclass(frozen=True, eq=False)
class Measured:
    """A model's measures on test rows.

    Attributes:
        tested: its answers.
        nearest: Recall@1 and MAP@R, raw and refined, where there are images of unseen classes.
    """

    tested: "Tested"
    nearest: dict[str, float | None]

    @classmethod
    def of(
        cls, recognizer: "Recognizer", test: "TestSplit", unknown: "np.ndarray | None" = None
    ) -> Self:
        """Measure a model; arguments are those of `Tested.of`."""
        from mlis.experiments.retrieval import retrieved
        from mlis.experiments.tested import Tested

        return cls(Tested.of(recognizer, test, unknown), retrieved(recognizer, test))

    def to_dict(self) -> dict[str, Any]:
        """Measures of one model, for JSON, which are averaged over seeds."""
        return self.tested.result.to_dict() | self.tested.confidence.to_dict() | self.nearest

    def curves(self) -> dict[str, Any]:
        """What is of this model alone, for JSON."""
        if self.tested.rejection is None:
            return {}
        return self.tested.rejection.to_dict() | {"turned_away_at_5": dict(self.tested.turned_away)}

    def table(self) -> list[tuple[str, str, str]]:
        """Each measure in plain words, its symbol, and its value in per cent."""
        from mlis.evaluation.words import MEANING

        rows = [
            (MEANING[name], name, number(value))
            for name, value in self.tested.result.measures.items()
        ]
        words = {"ECE": "", "ECE_seen": ", of seen classes", "ECE_unseen": ", of unseen classes"}
        rows += [
            (MEANING["ECE"] + words[name], "ECE", number(value))
            for name, value in self.tested.confidence.to_dict().items()
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

        if (found := self.tested.rejection) is None:
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
            for kind, share in self.tested.turned_away.items()
        ]
