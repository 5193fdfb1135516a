"""A table of described classes: their names, sentences and attributes.

One row a class, or several. Which columns are which, where they are not named: `name` is the
class, `split` says seen or unseen, columns of numbers, yes and no, or per cent are attributes,
columns of a few words that several classes share are categories, and all others are sentences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlis.data.io.csv_file import parse_number
from mlis.data.labels import normal, shorten
from mlis.errors import DataError
from mlis.features.descriptors.attributes import looks_like_attribute, looks_like_categories
from mlis.features.descriptors.text_tables import Columns, find_column, read_table

NAME, SPLIT = "name", "split"


@dataclass(frozen=True)
class Words:
    """What a table says of C classes, in the order in which it first names them.

    Attributes:
        path: of the table.
        names: C.
        split: C of seen or unseen; None where the table does not say.
        sentences: C tuples of one sentence or more; C empty ones where none are asked for.
        owners: class of each row of the table.
        attributes: name of a column → its cells, one a row of the table; categories too.
        said_in: columns of the sentences.
        categories: those of `attributes` that are categories.
        missing: what was read as a missing attribute, besides empty cells and the like.
    """

    path: Path
    names: tuple[str, ...]
    split: tuple[str, ...] | None
    sentences: tuple[tuple[str, ...], ...]
    owners: tuple[int, ...]
    attributes: dict[str, tuple[str, ...]]
    said_in: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def has_sentences(self) -> bool:
        """Whether any class has a sentence."""
        return any(self.sentences)


def read_words(
    path: Path,
    *,
    sentences: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    name_column: str = NAME,
    missing: Sequence[str] = (),
) -> Words:
    """Read a CSV, TSV or Parquet table of classes.

    Args:
        path: of the table.
        sentences: columns of sentences; `name` may be one: then the class's name is embedded.
        attributes: columns of numbers, yes and no, or per cent.
        categories: columns of categories. Where any of the three is given, the columns named are
            used and no others; where none is, all are, by what they hold.
        name_column: column of the class names.
        missing: cells of attributes that stand for nothing, such as "-1"; numbers by their value.

    Raises:
        DataError: a column is not there, a class has no name, no sentence although others have, or
            rows of one class disagree on the split.
    """
    columns = read_table(path)
    names_of_rows = [normal(name) for name in find_column(path, columns, name_column)]
    for row, name in enumerate(names_of_rows):
        if not name:
            raise DataError(f"{path}: row {row} has no name. Give each class one.")
    names = tuple(dict.fromkeys(names_of_rows))
    number = {name: i for i, name in enumerate(names)}
    owners = tuple(number[name] for name in names_of_rows)
    if sentences is None and attributes is None and categories is None:
        sentences, attributes, categories = _sort_columns(columns, owners, name_column)
    sentences, categories = list(sentences or ()), list(categories or ())
    attributes = [*(attributes or ()), *categories]
    if len(set(attributes)) < len(attributes):
        raise DataError(f"{path}: a column is named twice: {shorten(attributes)}. Name it once.")
    if not sentences and not attributes:
        raise DataError(
            f"{path}: nothing describes the classes: the columns are {shorten(list(columns))}. Add "
            f"a column of sentences or attributes, or embed the names: --sentences {name_column}."
        )
    return Words(
        path,
        names,
        _split(path, columns, names, owners),
        _sentences(path, columns, sentences, names, owners),
        owners,
        {name: _without(find_column(path, columns, name), missing) for name in attributes},
        tuple(sentences),
        tuple(categories),
        tuple(missing),
    )


def _without(cells: Sequence[str], missing: Sequence[str]) -> tuple[str, ...]:
    """Cells of attributes, those that stand for nothing empty."""
    numbers = [number for number in map(parse_number, missing) if not math.isnan(number)]
    return tuple("" if c in missing or parse_number(c) in numbers else c for c in cells)


def _sort_columns(
    columns: Columns, owners: Sequence[int], name_column: str
) -> tuple[list[str], list[str], list[str]]:
    """Columns of sentences, of attributes and of categories, by what they hold."""
    sentences, attributes, categories = [], [], []
    for name, cells in columns.items():
        if name in (name_column, SPLIT) or not any(cells):
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
                f"{path}: row {row}, column {SPLIT!r}: expected seen or unseen, but got {cell!r}."
            )
        if found.setdefault(owner, word) != word:
            raise DataError(
                f"{path}: class {names[owner]!r} is seen in one row, unseen in another."
            )
    return tuple(found[i] for i in range(len(names)))


def _sentences(
    path: Path,
    columns: Columns,
    chosen: Sequence[str],
    names: Sequence[str],
    owners: Sequence[int],
) -> tuple[tuple[str, ...], ...]:
    said: list[dict[str, None]] = [{} for _ in names]  # a sentence that is repeated counts once
    for column in chosen:
        for cell, owner in zip(find_column(path, columns, column), owners, strict=True):
            if cell:
                said[owner][cell] = None
    silent = [name for name, texts in zip(names, said, strict=True) if chosen and not texts]
    if silent:
        raise DataError(
            f"{path}: no sentence for {len(silent)} classes: {shorten(silent)}. Describe them, or "
            "take them out."
        )
    return tuple(tuple(texts) for texts in said)
