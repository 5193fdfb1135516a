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
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from mlis.errors import DataError

Name = Literal["table2", "table3", "table4", "others"]
NAMES: tuple[Name, ...] = ("table2", "table3", "table4", "others")
PROTOCOL = "as published"


@dataclass(frozen=True)
class Published:
    """One method on one dataset.

    Attributes:
        method: as the paper calls it; in table 3 components ("ML+IS"), in table 4 the loss, with
            or without "+IS".
        venue: where the method appeared.
        year: None where that is not known.
        dataset: CUB, AWA2, SUN, FLO or aPY.
        U, S, H: per cent; U and S are None where only H is recorded.
        protocol: "as published".
        features: the backbone, and whether it was frozen or fine-tuned on the seen classes.
        descriptors: their kind and, where that differs between papers, their size; or "not known".
        split: "proposed split v1" or "v2", or "not known".
        setting: "inductive", "transductive" (unlabelled test rows took part), or "not known".
        selection: of steps and settings, as far as the authors' program shows: by the result on
            "test rows", the "last step", or "not known".
        source: where the figures stand.
        note: runs, or what is odd about the figures; may be empty.
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
    descriptors: str
    split: str
    setting: str
    selection: str
    source: str
    note: str


def published(name: Name) -> tuple[Published, ...]:
    """Rows of one of the files, in its order.

    Raises:
        DataError: there is no such file.

    >>> [row.H for row in published("table3") if row.dataset == "FLO"]
    [70.1, 69.0, 72.0]
    """
    if name not in NAMES:
        raise DataError(f"unknown published table {name!r}: expected one of {', '.join(NAMES)}")
    place = resources.files("mlis.experiments").joinpath("published", f"{name}.csv")
    rows = csv.DictReader(place.read_text(encoding="utf-8").splitlines(), strict=True)
    return tuple(_row(cells) for cells in rows)


def _row(cells: dict[str, Any]) -> Published:
    numbers = {name: float(cells[name]) if cells[name] else None for name in ("U", "S", "H")}
    year = int(cells["year"]) if cells["year"] else None
    return Published(**{**cells, **numbers, "year": year})
