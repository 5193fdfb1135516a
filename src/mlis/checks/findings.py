"""What a check found, and what to do about it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MOST = 200
"""Most findings of one check that are kept, the worst first."""

REMEDIES = {
    "test-duplicates": "Remove one of each pair, or move both to the same part of the split: "
    "test photographs that are known from training make the result too good.",
    "label-conflicts": "Look at both photographs, and correct or remove the wrong one.",
    "mislabelled": "Look at these photographs, and correct their class or remove them.",
    "few-rows": "Add photographs, or treat the class as unseen.",
    "alike": "Describe what sets the two apart, in both descriptions.",
    "says-little": "Describe what sets the class apart from the others.",
    "no-visual-words": "Describe what photographs show: colours, shapes, patterns, sizes, parts.",
    "attracts": "Describe what sets the class apart: photographs of other classes may be taken for "
    "it.",
    "constant-column": "Remove the column, or fill it in: training learns nothing from a value "
    "that all seen classes share.",
    "uninformative-column": "Replace the attribute by one that can be seen in photographs.",
    "likely-to-fail": "Describe the class more precisely, add seen classes that are like it, or "
    "bring photographs of it.",
}
"""What each check looks for, in the order of the report: its name and what to do."""


@dataclass(frozen=True)
class Finding:
    """One thing that is likely wrong.

    Attributes:
        check: a name of `REMEDIES`.
        message: what was found, without the rows.
        value: the number that findings of this check are ranked by.
        rows: row numbers in the dataset, if it is about photographs.
        classes: names of the classes that it is about.
        column: of the descriptors, counted from 0, if it is about one.
    """

    check: str
    message: str
    value: float
    rows: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    column: int | None = None

    @property
    def remedy(self) -> str:
        """What to do."""
        return REMEDIES[self.check]


@dataclass(frozen=True)
class Report:
    """Everything that :func:`check` found.

    Attributes:
        name: of the dataset or model.
        findings: check by check in the order of `REMEDIES`, the worst first; at most `MOST` each.
        counts: check → number of findings, with those that were not kept.
        notes: what was not checked, and why; which rows were compared.
    """

    name: str
    findings: tuple[Finding, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, findings: Sequence[Finding], notes: Sequence[str]) -> "Report":
        """Rank findings and keep the worst."""
        counts = Counter(finding.check for finding in findings)
        kept: list[Finding] = []
        for check in REMEDIES:
            own = [finding for finding in findings if finding.check == check]
            kept += sorted(own, key=lambda one: -one.value)[:MOST]
        return cls(name, tuple(kept), {c: counts[c] for c in REMEDIES if c in counts}, tuple(notes))

    def of_check(self, check: str) -> tuple[Finding, ...]:
        """The findings of one check."""
        return tuple(finding for finding in self.findings if finding.check == check)

    def to_dict(self, row_name: Callable[[int], str] = str) -> dict[str, Any]:
        """Strict JSON values.

        Args:
            row_name: the photograph of a row.
        """
        findings = [
            {
                "check": one.check,
                "message": one.message,
                "value": round(one.value, 6),
                "rows": list(one.rows),
                "photographs": [row_name(row) for row in one.rows],
                "classes": list(one.classes),
                "column": one.column,
                "remedy": one.remedy,
            }
            for one in self.findings
        ]
        return {
            "name": self.name,
            "findings": findings,
            "counts": self.counts,
            "notes": list(self.notes),
        }
