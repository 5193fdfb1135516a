"""Attributes as people write them: yes and no, numbers, per cent, gaps.

How a column becomes numbers from 0 to 1, one a class:

- yes/no, true/false, 0/1: 1 and 0;
- per cent (`35%` in some cell): divided by 100;
- other numbers: scaled so that the smallest class has 0 and the largest 1;
- categories (`hooked`, `cone`): one column a value, 1 where the class has it and else 0;
- several rows of a class: the mean of those that say something;
- missing (empty, ?, -, NA, n/a, NaN, none, null, unknown): the mean over the classes that have a
  value, so that the class is neither like nor unlike others by it;
- a column in which no class differs from another says nothing and is left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlis.data.io.csv_file import parse_number
from mlis.data.labels import normal, shorten, suggestion
from mlis.errors import DataError

_WORDS = {"yes": 1.0, "true": 1.0, "y": 1.0, "t": 1.0, "no": 0.0, "false": 0.0, "n": 0.0, "f": 0.0}
_MISSING = {"", "?", "-", "–", "na", "n/a", "nan", "none", "null", "unknown"}
_MISSING_CATEGORY = _MISSING - {"none"}  # a crest: tall, short, none
BINARY, PER_CENT, NUMBER, CATEGORY = "binary", "per cent", "number", "category"
_LONGEST_CATEGORY, _MOST_WORDS = 40, 4


@dataclass(frozen=True)
class Column:
    """How one attribute is read; enough to read the same of classes that come later.

    Attributes:
        name: of the column.
        kind: binary, per cent, number or category.
        low: value that becomes 0.
        high: value that becomes 1.
        mean: what a missing value becomes, after scaling.
        missing: classes without a value.
        value: of a category: the one that it stands for.
    """

    name: str
    kind: str
    low: float
    high: float
    mean: float
    missing: int
    value: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Column":
        """Read back what `dataclasses.asdict` gave; older ones know no categories."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    @property
    def label(self) -> str:
        """Its name, of a category with the value that it stands for."""
        return f"{self.name}={self.value}" if self.kind == CATEGORY else self.name

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """(C,) 0 to 1 of (C,) values as `read_cell` gives them, NaN where missing."""
        scaled = (values - self.low) / (self.high - self.low)
        return np.where(np.isnan(scaled), self.mean, scaled)


def read_cell(text: str) -> float | None:
    """The number a cell stands for, NaN where it is missing, None where it is no attribute.

    >>> read_cell("yes"), read_cell("35 %"), read_cell("1,5"), read_cell("?"), read_cell("red")
    (1.0, 35.0, 1.5, nan, None)
    """
    word = text.strip().casefold()
    if word in _MISSING:
        return math.nan
    if word in _WORDS:
        return _WORDS[word]
    value = parse_number(word.removesuffix("%"))
    return value if math.isfinite(value) else None


def looks_like_attribute(cells: Sequence[str]) -> bool:
    """Whether most cells that say something are numbers or yes and no."""
    values = [read_cell(cell) for cell in cells if cell.strip().casefold() not in _MISSING]
    return bool(values) and 2 * sum(value is not None for value in values) > len(values)


def category(cell: str) -> str:
    """The value of a category, without regard to case and spaces; empty where it is missing."""
    value = " ".join(normal(cell).casefold().split())
    return "" if value in _MISSING_CATEGORY else value


def looks_like_categories(cells: Sequence[str], owners: Sequence[int]) -> bool:
    """Whether all cells are a few words, and two classes have the same."""
    owner: dict[str, int] = {}
    shared = False
    for cell, of in zip(cells, owners, strict=True):
        if value := category(cell):
            if len(value) > _LONGEST_CATEGORY or len(value.split()) > _MOST_WORDS:
                return False
            if value.endswith((".", "!", "?")):
                return False
            shared |= owner.setdefault(value, of) != of
    return shared


def category_shares(
    what: str, cells: Sequence[str], owners: Sequence[int], names: Sequence[str], known: list[str]
) -> np.ndarray:
    """(C, len(known)) share of each class's rows that have each value; NaN where none says any.

    Args:
        what: file and column, for messages.
        cells: one a row of the table.
        owners: class of each row.
        names: C.
        known: values.

    Raises:
        DataError: a value that is not known.
    """
    counts = np.zeros((len(names), len(known)))
    for cell, owner in zip(cells, owners, strict=True):
        value = category(cell)
        if value and value not in known:
            raise DataError(
                f"{what}: class {names[owner]!r} has {cell!r}, but no class of the training had: "
                f"expected one of {shorten(known)}, or nothing.{suggestion(value, known)}"
            )
        if value:
            counts[owner, known.index(value)] += 1
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def fit_categories(
    what: str, name: str, cells: Sequence[str], owners: Sequence[int], names: Sequence[str]
) -> tuple[list[Column], list[np.ndarray]]:
    """A column for each value, and its (C,) shares; none where no class differs from another."""
    known = sorted({category(cell) for cell in cells} - {""})
    shares = category_shares(what, cells, owners, names, known)
    said = ~np.isnan(shares).any(axis=1)
    if not said.any() or (shares[said] == shares[said][0]).all():
        return [], []
    missing, means = int((~said).sum()), shares[said].mean(axis=0).tolist()
    columns = [
        Column(name, CATEGORY, 0.0, 1.0, mean, missing, value)
        for value, mean in zip(known, means, strict=True)
    ]
    return columns, list(shares.T)


def class_values(
    what: str, cells: Sequence[str], owners: Sequence[int], num_classes: int
) -> np.ndarray:
    """(C,) mean value of each class, NaN where none of its rows says anything.

    Args:
        what: file and column, for messages.
        cells: one a row of the table.
        owners: class of each row.
        num_classes: C.

    Raises:
        DataError: a cell is neither number, yes or no, nor missing.
    """
    total, count = np.zeros(num_classes), np.zeros(num_classes)
    for row, (cell, owner) in enumerate(zip(cells, owners, strict=True)):
        value = read_cell(cell)
        if value is None:
            raise DataError(
                f"{what}, row {row} (counting from 0 below the header) is {cell!r}: expected a "
                "number, yes or no, per cent, or nothing. If these are sentences or categories, "
                "name the column with --sentences or --categories."
            )
        if not math.isnan(value):
            total[owner] += value
            count[owner] += 1
    return np.divide(total, count, out=np.full(num_classes, np.nan), where=count > 0)


def fit_column(name: str, cells: Sequence[str], values: np.ndarray) -> Column | None:
    """How a column is read; None where no class differs from another.

    Args:
        name: of the column.
        cells: one a row of the table.
        values: (C,) of `class_values`.
    """
    said = values[~np.isnan(values)]
    if not said.size or (said == said[0]).all():
        return None
    if any(cell.rstrip().endswith("%") for cell in cells):
        kind, low, high = PER_CENT, 0.0, 100.0
    elif all(number in (0.0, 1.0) for number in map(read_cell, cells) if not _gap(number)):
        kind, low, high = BINARY, 0.0, 1.0
    else:
        kind, low, high = NUMBER, float(said.min()), float(said.max())
    mean = float(((said - low) / (high - low)).mean())
    return Column(name, kind, low, high, mean, int(np.isnan(values).sum()))


def _gap(number: float | None) -> bool:
    return number is None or math.isnan(number)


def describe_column(column: Column) -> dict[str, Any]:
    """For JSON."""
    return asdict(column)
