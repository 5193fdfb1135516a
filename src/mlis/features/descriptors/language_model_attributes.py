"""Attributes of classes by any language model: the prompt for it, and its answer as columns.

As :mod:`mlis.features.descriptors.language_model` for sentences: no model is called.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.data.io.csv_file import DISPLAY, NAME, SPLIT
from mlis.data.io.reading import read_text
from mlis.data.labels import normal, suggestion
from mlis.errors import DataError
from mlis.features.descriptors.language_model import TEXT, Pairs, json_objects, of_every_class

ATTRIBUTES = 30
"""Attributes that the prompt asks for."""
_LONGEST = 30  # digits of a number
_TAKEN = (NAME, SPLIT, TEXT, DISPLAY)
_PROMPT = """\
Choose about {attributes} attributes by which {kind} can be told apart in photographs, and say which
value each of the {count} names below has. A classifier that has never seen some of them knows them
by these values alone.

- Choose attributes that a photograph shows: colours, shape, parts, pattern, texture, size,
  surroundings. Each should differ between some names, and have a value for every name.
- A value is "yes" or "no"; or a number, always in the unit that the attribute's name says ("height
  cm"), or per cent ("of the body that is white: 40%"); or one of a few short words that several
  names share ("bill shape": "hooked").
- Use the same kind of value for an attribute throughout. If you do not know one, write null.

Answer with one JSON object and nothing else. Its keys are the names, spelled exactly as below; each
value is an object of all attributes, spelled alike for every name:

{example}

Names:
{names}
"""


@dataclass(frozen=True)
class AttributeTable:
    """Attributes of classes, as cells of a table.

    Attributes:
        columns: names of the attributes, in the order of the answer.
        cells: by class, a cell for each column; empty where no value is known.
    """

    columns: tuple[str, ...]
    cells: dict[str, tuple[str, ...]]

    @property
    def unknown(self) -> int:
        """Empty cells."""
        return sum(not cell for row in self.cells.values() for cell in row)


def attribute_prompt(
    names: Sequence[str], *, kind: str = "these classes", attributes: int = ATTRIBUTES
) -> str:
    """A prompt that asks a language model for attributes of classes.

    Args:
        names: C class names.
        kind: what the classes are, in the plural: "flowers of gardens".
        attributes: about how many.
    """
    values = {"white": "40%", "has stripes": "yes", "height cm": 130, "bill shape": None}
    return _PROMPT.format(
        attributes=attributes,
        kind=kind,
        count=len(names),
        example=json.dumps(dict.fromkeys(names[:2], values), ensure_ascii=False, indent=2),
        names="\n".join(json.dumps(name, ensure_ascii=False) for name in names),
    )


def read_attributes(paths: Sequence[Path], names: Sequence[str] | None = None) -> AttributeTable:
    """The attributes of each class in the answers of a language model.

    An answer is a JSON object (name: an object of attributes and values), alone or in a fenced
    block. Classes may be spread over several answers, which then must spell attributes alike.

    Args:
        paths: files with the answers, each UTF-8.
        names: the classes; all must be there, and no other. None: whatever is there.

    Raises:
        DataError: names the file, and the class or the attribute.
    """
    rows = of_every_class([(path, dict(_read(path))) for path in paths], names)
    where = ", ".join(map(str, paths))
    count = Counter(column for row in rows.values() for column in row)
    for column in count:
        if len(rows) > 1 and count[column] == 1:
            (name,) = (name for name, row in rows.items() if column in row)
            near = suggestion(column, [one for one in count if one != column])
            raise DataError(
                f"{where}: class {name!r}, attribute {column!r}: expected an attribute of several "
                f"classes, got one of this class alone.{near} Spell it alike everywhere, or delete "
                "it."
            )
    cells = {name: tuple(row.get(column, "") for column in count) for name, row in rows.items()}
    return AttributeTable(tuple(count), cells)


def _read(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Cells by attribute of each class."""
    pairs = json_objects(path, read_text(path))
    if not pairs:
        raise DataError(
            f"{path}: expected a JSON object, whose keys are the classes, got none. Ask for the "
            "answer in that form."
        )
    for name, value in pairs:
        if not isinstance(value, Pairs) or not value:
            raise DataError(
                f"{path}: class {name!r}: expected an object of attributes and values, got "
                f"{value!r:.60}. Ask for the answer in that form."
            )
        row: dict[str, str] = {}
        for attribute, one in value:
            column = normal(attribute)
            if column in row or not column or column.casefold() in _TAKEN:
                reason = "once" if column in row else "a name that says what is seen"
                raise DataError(
                    f"{path}: class {name!r}, attribute {attribute!r}: expected {reason}. Rename "
                    "it."
                )
            row[column] = _cell(path, name, attribute, one)
        yield name, row


def _cell(path: Path, name: str, attribute: str, value: Any) -> str:
    """As `mlis data build` reads it: yes or no, a number, per cent, a word; empty for unknown."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        text = json.dumps(value)
        if len(text) <= _LONGEST and math.isfinite(value):
            return text
    if isinstance(value, str):
        return " ".join(value.split())
    raise DataError(
        f"{path}: class {name!r}, attribute {attribute!r}: expected yes, no, a number or a word, "
        f"got {value!r:.60}. Correct it."
    )
