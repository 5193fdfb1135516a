"""Published results of other methods, as rows, for comparison.

`table2`, `table3` and `table4` are those of the paper that this package implements (its Table 1 is
:data:`mlis.data.io.benchmarks.TABLE_1`), `others` holds related and later methods on the same
splits. A row is one method on one dataset, in per cent. Their protocol is "as published": nearly
always the best epoch on the test set, so that no figure measured here under H@val may stand beside
one without that label.

`others` was compiled from several places and not read again in each paper: its source says which
paper the method is from. Look a figure up there before citing it.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from mlis.errors import DataError
from mlis.evaluation import harmonic_mean

Name = Literal["table2", "table3", "table4", "others"]
NAMES: tuple[Name, ...] = ("table2", "table3", "table4", "others")
DATASETS = ("CUB", "AWA2", "SUN", "FLO", "aPY")
PROTOCOL = "as published"
_WORDS = {  # what a cell may say
    "protocol": (PROTOCOL,),
    "setting": ("inductive", "transductive", "not known"),
    "selection": ("test rows", "last step", "not known"),
}
DIGIT = 0.05  # figures have one digit after the point


@dataclass(frozen=True)
class Published:
    """One method on one dataset.

    Attributes:
        method: as the paper calls it; in table 3 components ("ML+IS"), in table 4 the loss, with
            or without "+IS".
        venue: where the method appeared.
        year: None where that is not known.
        dataset: one of `DATASETS`.
        U, S, H: per cent; U and S are None where only H is recorded.
        protocol: "as published".
        features: the backbone, and whether it was frozen or fine-tuned on the seen classes.
        setting: "inductive", "transductive" (unlabelled test rows took part), or "not known".
        selection: of steps and settings, as far as the authors' program shows: by the result on
            "test rows", the "last step", or "not known".
        source: where the figures stand.
        note: runs, descriptors, or what is odd about them; may be empty.
    """

    method: str
    venue: str
    year: int | None
    dataset: str
    U: float | None
    S: float | None
    H: float
    protocol: str
    features: str
    setting: str
    selection: str
    source: str
    note: str

    @property
    def consistent(self) -> bool:
        """Whether some U and S that round to these have a harmonic mean that rounds to this H."""
        if self.U is None or self.S is None:
            return True
        low = harmonic_mean(max(self.U - DIGIT, 0.0), max(self.S - DIGIT, 0.0)) - DIGIT
        high = harmonic_mean(self.U + DIGIT, self.S + DIGIT) + DIGIT
        return low - 1e-9 <= self.H <= high + 1e-9


def published(name: Name) -> tuple[Published, ...]:
    """Rows of one of the files, in its order.

    Raises:
        DataError: there is no such file, or a row of it is not as it must be.

    >>> [row.H for row in published("table3") if row.dataset == "FLO"]
    [70.1, 69.0, 72.0]
    """
    if name not in NAMES:
        raise DataError(f"unknown published table {name!r}: expected one of {', '.join(NAMES)}")
    place = resources.files("mlis.experiments").joinpath("published", f"{name}.csv")
    return parse(place.read_text(encoding="utf-8"), place.name)


def parse(text: str, name: str) -> tuple[Published, ...]:
    """Rows of CSV text with a header, every cell checked; errors call it `name`.

    Raises:
        DataError: a row is not as it must be, or is there twice; names the line.
    """
    reader = csv.DictReader(text.splitlines(), strict=True)
    rows = []
    try:
        for cells in reader:
            if None in cells or None in cells.values():
                raise ValueError(f"expected {len(reader.fieldnames or ())} cells")
            rows.append(_row(cells))
    except (ValueError, KeyError, csv.Error) as error:
        raise DataError(f"{name}, line {reader.line_num}: {error}") from None
    places: dict[tuple[str, str], int] = {}
    for line, row in enumerate(rows, 2):
        first = places.setdefault((row.method, row.dataset), line)
        if first != line:
            raise DataError(f"{name}, lines {first} and {line}: both are {row.method}")
    return tuple(rows)


def _row(cells: Mapping[str, str]) -> Published:
    """Check one line of cells; ValueError or KeyError says what is wrong."""
    for name in ("method", "venue", "features", "source"):
        if not cells[name].strip():
            raise ValueError(f"{name} is empty")
    for name, known in _WORDS.items():
        if cells[name] not in known:
            expected = " or ".join(map(repr, known))
            raise ValueError(f"expected the {name} {expected}, got {cells[name]!r}")
    if not cells["U"] == cells["S"] == "":
        U, S = _per_cent(cells, "U"), _per_cent(cells, "S")
    else:
        U = S = None
    return Published(
        method=cells["method"],
        venue=cells["venue"],
        year=int(cells["year"]) if cells["year"] else None,
        dataset=_dataset(cells),
        U=U,
        S=S,
        H=_per_cent(cells, "H"),
        **{name: cells[name] for name in (*_WORDS, "features", "source", "note")},
    )


def _dataset(cells: Mapping[str, str]) -> str:
    if cells["dataset"] not in DATASETS:
        raise ValueError(f"expected a dataset of {', '.join(DATASETS)}, got {cells['dataset']!r}")
    return cells["dataset"]


def _per_cent(cells: Mapping[str, str], name: str) -> float:
    value = float(cells[name])
    if not 0 <= value <= 100:
        raise ValueError(f"expected {name} in per cent, got {cells[name]}")
    return value
