"""Attributes in tables: yes/no, numbers, percentages, categories, missing values.

A column becomes one number from 0 to 1 per class:

- yes/no, true/false, 0/1: 1 and 0;
- percentages (`35%` in some cell): divided by 100;
- other numbers: scaled linearly from 0 for the smallest class to 1 for the largest;
- categories (`hooked`, `cone`): one column per value, 1 for classes that have it, else 0;
- several rows per class: the mean of the values that are not missing;
- missing values (empty, ?, -, NA, n/a, NaN, none, null, unknown): the mean over the classes with a
  value, so that the class is neither similar nor dissimilar to others in it;
- a column that is equal for all classes is omitted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlis.data.io.csv_file import parse_number
from mlis.data.labels import normal, shorten, suggestion
from mlis.errors import DataError

_BOOLEANS = {
    **dict.fromkeys(("yes", "true", "y", "t"), 1.0),
    **dict.fromkeys(("no", "false", "n", "f"), 0.0),
}
_MISSING = {"", "?", "-", "–", "na", "n/a", "nan", "none", "null", "unknown"}
_MISSING_CATEGORY = _MISSING - {"none"}  # "none" may be a category: tall, short, none
BINARY, PER_CENT, NUMBER, CATEGORY = "binary", "per cent", "number", "category"
_LONGEST_CATEGORY, _MOST_WORDS = 40, 4


@dataclass(frozen=True)
class Column:
    """Fitted scaling of one attribute, which can be applied to new classes.

    Attributes:
        name: of the column.
        kind: binary, per cent, number or category.
        low: value that is mapped to 0.
        high: value that is mapped to 1.
        mean: replacement for a missing value, after scaling.
        missing: number of classes without a value.
        value: for a category, the value that the column indicates.
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
        """Inverse of `dataclasses.asdict`; earlier versions have no `value`."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    @property
    def label(self) -> str:
        """Name of the column, for a category followed by the value."""
        return f"{self.name}={self.value}" if self.kind == CATEGORY else self.name

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Scale (C,) values of `read_cell`, NaN if missing, to (C,) from 0 to 1."""
        scaled = (values - self.low) / (self.high - self.low)
        return np.where(np.isnan(scaled), self.mean, scaled)


def read_cell(text: str) -> float | None:
    """The value of a cell, NaN if missing, or None if it is not an attribute.

    >>> read_cell("yes"), read_cell("35 %"), read_cell("1,5"), read_cell("?"), read_cell("red")
    (1.0, 35.0, 1.5, nan, None)
    """
    word = text.strip().casefold()
    if word in _MISSING:
        return math.nan
    if word in _BOOLEANS:
        return _BOOLEANS[word]
    value = parse_number(word.removesuffix("%"))
    return value if math.isfinite(value) else None


def looks_like_attribute(cells: Sequence[str]) -> bool:
    """Whether most cells that are not missing are numbers or yes/no."""
    values = [read_cell(cell) for cell in cells if cell.strip().casefold() not in _MISSING]
    return bool(values) and 2 * sum(value is not None for value in values) > len(values)


def category(cell: str) -> str:
    """Normalised value of a category; empty if missing."""
    value = " ".join(normal(cell).casefold().split())
    return "" if value in _MISSING_CATEGORY else value


def looks_like_categories(cells: Sequence[str], owners: Sequence[int]) -> bool:
    """Whether all cells are short, and some value is shared by two classes."""
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
    """(C, len(known)) fraction of each class's rows with each value; NaN if all are missing.

    Args:
        what: file and column, for messages.
        cells: one per row of the table.
        owners: class of each row.
        names: C.
        known: values.

    Raises:
        DataError: a value is not in `known`.
    """
    counts = np.zeros((len(names), len(known)))
    for cell, owner in zip(cells, owners, strict=True):
        value = category(cell)
        if value and value not in known:
            raise DataError(
                f"{what}: class {names[owner]!r}: expected a value from training, one of "
                f"{shorten(known)}, or nothing, got {cell!r}.{suggestion(value, known)}"
            )
        if value:
            counts[owner, known.index(value)] += 1
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def fit_categories(
    what: str, name: str, cells: Sequence[str], owners: Sequence[int], names: Sequence[str]
) -> tuple[list[Column], list[np.ndarray]]:
    """A column per value, and its (C,) fractions; empty if equal for all classes."""
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
    """(C,) mean value of each class, NaN if all its rows are missing.

    Args:
        what: file and column, for messages.
        cells: one per row of the table.
        owners: class of each row.
        num_classes: C.

    Raises:
        DataError: a cell is neither a number, yes/no, nor missing.
    """
    total, count = np.zeros(num_classes), np.zeros(num_classes)
    for row, (cell, owner) in enumerate(zip(cells, owners, strict=True)):
        value = read_cell(cell)
        if value is None:
            raise DataError(
                f"{what}, row {row} (counted from 0 below the header): expected a number, yes or "
                f"no, a percentage, or nothing, got {cell!r}. For sentences or categories, name "
                "the column with --sentences or --categories."
            )
        if not math.isnan(value):
            total[owner] += value
            count[owner] += 1
    return np.divide(total, count, out=np.full(num_classes, np.nan), where=count > 0)


def fit_column(name: str, cells: Sequence[str], values: np.ndarray) -> Column | None:
    """Fit the scaling of a column; None if it is equal for all classes.

    Args:
        name: of the column.
        cells: one per row of the table.
        values: (C,) of `class_values`.
    """
    said = values[~np.isnan(values)]
    if not said.size or (said == said[0]).all():
        return None
    if any(cell.rstrip().endswith("%") for cell in cells):
        kind, low, high = PER_CENT, 0.0, 100.0
    elif all(number in (0.0, 1.0) for number in map(read_cell, cells) if not _is_missing(number)):
        kind, low, high = BINARY, 0.0, 1.0
    else:
        kind, low, high = NUMBER, float(said.min()), float(said.max())
    mean = float(((said - low) / (high - low)).mean())
    return Column(name, kind, low, high, mean, int(np.isnan(values).sum()))


def _is_missing(number: float | None) -> bool:
    return number is None or math.isnan(number)


def column_names(sources: Mapping[str, Any], size: int) -> list[str]:
    """Names of the columns of descriptors of `size` numbers; "" for those of an embedding.

    Args:
        sources: of :class:`~mlis.data.dataset.Provenance`, how the descriptors were made.
        size: Da.
    """
    made: Mapping[str, Any] = sources.get("descriptors") or {}
    names = [str(name) for name in made.get("columns") or ()]
    if not names:
        attributes: list[Mapping[str, Any]] = made.get("attributes") or []
        pairs = [(str(one["name"]), str(one.get("value", ""))) for one in attributes]
        names = [" ".join(filter(None, pair)) for pair in pairs]
        if made.get("text"):  # attributes come after the embedding of the sentences
            names = [""] * (size - len(names)) + names
    return names if len(names) == size else [""] * size
