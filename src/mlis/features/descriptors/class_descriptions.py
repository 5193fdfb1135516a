"""Tables of class descriptions: names, sentences and attributes.

A class has one row or several. Unless columns are named explicitly, `name` is the class, `split` is
seen or unseen, `display_name` is what people read, columns of numbers, yes/no or percentages are
attributes, columns of a few words shared by several classes are categories, and all others are
sentences.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlis.data.io.csv_file import DISPLAY, NAME, SPLIT, parse_number
from mlis.data.io.text_table import Columns, find_column, read_table
from mlis.data.labels import normal, shorten
from mlis.errors import DataError
from mlis.features.descriptors.attributes import looks_like_attribute, looks_like_categories


@dataclass(frozen=True)
class ClassDescriptions:
    """Descriptions of C classes, in the order of their first row in the table.

    Attributes:
        path: of the table.
        names: C.
        split: C of seen or unseen; None without such a column.
        sentences: C tuples of sentences, all empty if there are no columns of sentences.
        owners: class of each row of the table.
        attributes: column name → cells, one per row of the table, including categories.
        sentence_columns: columns of the sentences.
        categories: columns of `attributes` that are categories.
        missing: cells that were read as missing, besides the usual ones.
        display: name → display name, the first in the column `display_name`.
    """

    path: Path
    names: tuple[str, ...]
    split: tuple[str, ...] | None
    sentences: tuple[tuple[str, ...], ...]
    owners: tuple[int, ...]
    attributes: dict[str, tuple[str, ...]]
    sentence_columns: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    display: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def has_sentences(self) -> bool:
        """Whether any class has a sentence."""
        return any(self.sentences)


def read_descriptions(
    path: Path,
    *,
    sentences: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    name_column: str = NAME,
    missing: Sequence[str] = (),
) -> ClassDescriptions:
    """Read a CSV, TSV or Parquet table of classes.

    Args:
        path: of the table.
        sentences: columns of sentences; may include `name`, to embed the class name.
        attributes: columns of numbers, yes/no, or percentages.
        categories: columns of categories. If any of the three is given, only the named columns are
            used; otherwise all are, by their content.
        name_column: column of the class names.
        missing: cells of attributes that mark missing values, such as "-1"; numbers are compared
            by value.

    Raises:
        DataError: a column is missing, a class has no name or no sentence although others have, or
            rows of one class disagree on the split.
    """
    columns = read_table(path)
    names_of_rows = [normal(name) for name in find_column(path, columns, name_column)]
    for row, name in enumerate(names_of_rows):
        if not name:
            raise DataError(
                f"{path}: row {row}, column {name_column!r}: expected a name, got an empty cell."
            )
    names = tuple(dict.fromkeys(names_of_rows))
    number = {name: i for i, name in enumerate(names)}
    owners = tuple(number[name] for name in names_of_rows)
    if sentences is None and attributes is None and categories is None:
        sentences, attributes, categories = _sort_columns(columns, owners, name_column)
    sentences, categories = list(sentences or ()), list(categories or ())
    attributes = [*(attributes or ()), *categories]
    if len(set(attributes)) < len(attributes):
        raise DataError(f"{path}: expected each column once, got {shorten(attributes)}.")
    if not sentences and not attributes:
        raise DataError(
            f"{path}: expected columns of sentences or attributes, got {shorten(list(columns))}. "
            f"Add one, or embed the names: --sentences {name_column}."
        )
    return ClassDescriptions(
        path,
        names,
        _split(path, columns, names, owners),
        _sentences(path, columns, sentences, names, owners),
        owners,
        {name: _without(find_column(path, columns, name), missing) for name in attributes},
        tuple(sentences),
        tuple(categories),
        tuple(missing),
        _display(columns, names_of_rows),
    )


def _display(columns: Columns, names: Sequence[str]) -> dict[str, str]:
    cells = columns.get(DISPLAY, ())
    rows = zip(reversed(names), reversed(cells), strict=False)
    return {name: normal(cell) for name, cell in rows if cell}


def _without(cells: Sequence[str], missing: Sequence[str]) -> tuple[str, ...]:
    """Cells with those in `missing` replaced by the empty string."""
    numbers = [number for number in map(parse_number, missing) if not math.isnan(number)]
    return tuple("" if c in missing or parse_number(c) in numbers else c for c in cells)


def _sort_columns(
    columns: Columns, owners: Sequence[int], name_column: str
) -> tuple[list[str], list[str], list[str]]:
    """Columns of sentences, of attributes and of categories, by their content."""
    sentences, attributes, categories = [], [], []
    for name, cells in columns.items():
        if name in (name_column, SPLIT, DISPLAY) or not any(cells):
            continue
        if looks_like_attribute(cells):
            attributes.append(name)
        elif looks_like_categories(cells, owners):
            categories.append(name)
        else:
            sentences.append(name)
    return sentences, attributes, categories


def _split(
    path: Path, columns: Columns, names: Sequence[str], owners: Sequence[int]
) -> tuple[str, ...] | None:
    if SPLIT not in columns:
        return None
    found: dict[int, str] = {}
    for row, (cell, owner) in enumerate(zip(columns[SPLIT], owners, strict=True)):
        word = cell.casefold()
        if word not in ("seen", "unseen"):
            raise DataError(
                f"{path}: row {row}, column {SPLIT!r}: expected seen or unseen, got {cell!r}."
            )
        if found.setdefault(owner, word) != word:
            raise DataError(
                f"{path}: class {names[owner]!r}: expected one value of {SPLIT!r}, got seen and "
                "unseen."
            )
    return tuple(found[i] for i in range(len(names)))


def _sentences(
    path: Path,
    columns: Columns,
    chosen: Sequence[str],
    names: Sequence[str],
    owners: Sequence[int],
) -> tuple[tuple[str, ...], ...]:
    said: list[dict[str, None]] = [{} for _ in names]  # repeated sentences count once
    for column in chosen:
        for cell, owner in zip(find_column(path, columns, column), owners, strict=True):
            if cell:
                said[owner][cell] = None
    silent = [name for name, texts in zip(names, said, strict=True) if chosen and not texts]
    if silent:
        raise DataError(
            f"{path}: expected a sentence for each class, got none for {len(silent)}: "
            f"{shorten(silent)}. Describe them, or remove them."
        )
    return tuple(tuple(texts) for texts in said)
