"""Descriptions of classes by any language model: the prompt for it, and its answer read.

No model is called: the prompt is text to paste, and the answer is a file. Menon, Vondrick: "Visual
Classification via Description from Large Language Models", ICLR 2023; Pratt et al.: "What does a
platypus look like?", ICCV 2023.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlis.data.io.csv_file import NAME, write_csv
from mlis.data.io.reading import read_text
from mlis.data.labels import normal, shorten, suggestion
from mlis.errors import DataError

Value = TypeVar("Value")
TEXT = "text"
TEXTS = 5
"""Sentences per class that the prompt asks for."""
_BEGIN = re.compile(r"^[ \t]*(?=\{)", re.MULTILINE)
_BULLET = re.compile(r"^(?:[-*•]\s+|\d+[.)]\s+)")
_PROMPT = """\
Describe what {kind} look like in photographs, for a classifier that has never seen some of them
and knows them by your words alone.

For each of the {count} names below write {texts} short sentences in English:
- Describe only what a photograph shows: colours, shape, parts and their form, pattern, texture,
  size beside other things, posture, surroundings. Nothing that cannot be seen, such as history,
  use, taste or sound.
- Make each sentence about one aspect, in the same order for every name, and use the same words for
  the same things.
- Say what tells a name from those in this list that look similar.
- Do not repeat the name, and do not guess: leave out what you do not know.

Answer with one JSON object and nothing else. Its keys are the names, spelled exactly as below; each
value is a list of {texts} strings:

{example}

Names:
{names}
"""


def prompt(names: Sequence[str], *, kind: str = "these classes", texts: int = TEXTS) -> str:
    """A prompt that asks a language model to describe classes.

    Args:
        names: C class names.
        kind: what the classes are, in the plural: "flowers of gardens".
        texts: sentences per class.
    """
    example = {name: ["…"] for name in names[:2]}
    return _PROMPT.format(
        kind=kind,
        count=len(names),
        texts=texts,
        example=json.dumps(example, ensure_ascii=False, indent=2),
        names="\n".join(json.dumps(name, ensure_ascii=False) for name in names),
    )


def read_answers(
    paths: Sequence[Path], names: Sequence[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """The texts of each class in the answers of a language model.

    An answer is a JSON object (name: a text, a list of texts, or an object of aspects and texts),
    alone or in a fenced block; or lines `name: text`, of which a class may have several. Classes
    may be spread over several answers.

    Args:
        paths: files with the answers, each UTF-8.
        names: the classes; all must be described, and no other. None: whatever is there.

    Returns:
        Texts by name, in the order of `names`.

    Raises:
        DataError: names the file, and the line or the class.
    """
    return of_every_class([(path, _read(path)) for path in paths], names)


def of_every_class(
    answers: Sequence[tuple[Path, Mapping[str, Value]]], names: Sequence[str] | None
) -> dict[str, Value]:
    """What the answers say of each class, in the order of `names`.

    Raises:
        DataError: a class is in two answers, is not of `names`, or is missing.
    """
    found: dict[str, Value] = {}
    for path, answer in answers:
        for name, value in answer.items():
            if name in found:
                raise DataError(
                    f"{path}: class {name!r}: is described in an earlier answer, too. Keep one."
                )
            if names is not None and name not in names:
                raise DataError(
                    f"{path}: class {name!r}: expected one of the {len(names)} classes."
                    f"{suggestion(name, names)} Correct or delete it."
                )
            found[name] = value
    if names is None:
        return found
    if missing := [name for name in names if name not in found]:
        where = ", ".join(str(path) for path, _ in answers)
        raise DataError(
            f"{where}: expected each of the {len(names)} classes, got none of "
            f"{len(missing)}: {shorten(missing)}. Ask for the rest, and give both answers."
        )
    return {name: found[name] for name in names}


def write_answers(
    path: Path,
    texts: Mapping[str, Sequence[str]],
    columns: Sequence[str] = (),
    cells: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a table with a column `name`, `text` if there are texts, and those of attributes.

    One row per text, each with the attributes of its class.

    Args:
        path: of a .csv file.
        texts: by class.
        columns: names of attributes.
        cells: of each class, one for each column; of all classes that have texts.
    """
    cells = cells or {}
    header = (NAME, *([TEXT] if texts else []), *columns)
    rows = [
        (name, *([one] if texts else []), *cells.get(name, ()))
        for name in texts or cells
        for one in texts.get(name, [""])
    ]
    write_csv(path, header, rows)


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    answer = read_text(path)
    in_json = [(name, _texts(path, name, value)) for name, value in json_objects(path, answer)]
    found: dict[str, tuple[str, ...]] = {}
    for name, texts in in_json or _of_lines(path, answer):
        found[name] = (*found.get(name, ()), *texts)
    if not found:
        raise DataError(f"{path}: expected descriptions of classes, got none.")
    return found


def json_objects(path: Path, answer: str) -> list[tuple[str, Any]]:
    """Name and value of each class of the JSON objects, whatever is written around them.

    Objects are lists of pairs. Empty if there is none.

    Raises:
        DataError: the JSON is damaged or a list, or a class is there twice.
    """
    if answer.lstrip().startswith("["):
        raise DataError(
            f"{path}: expected a JSON object, whose keys are the classes, got a list. Ask for the "
            "answer in that form."
        )
    found: dict[str, Any] = {}
    decoder, end = json.JSONDecoder(object_pairs_hook=Pairs), 0
    while begin := _BEGIN.search(answer, end):
        try:
            value, end = decoder.raw_decode(answer, begin.end())
        except RecursionError:
            raise DataError(f"{path}: expected a JSON object, got too many levels.") from None
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}: line {error.lineno}, column {error.colno}: expected JSON: {error.msg}. "
                "Correct it, or ask for the answer again: it may have been cut off."
            ) from error
        for key, one in value:
            if (name := normal(key)) in found:
                raise DataError(f"{path}: class {name!r}: is described twice. Keep one.")
            found[name] = one
    return list(found.items())


class Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, with those of equal keys."""


def _texts(path: Path, name: str, value: Any) -> tuple[str, ...]:
    """Texts of one class: its text, its list, or `aspect: text` of its object."""
    texts: list[str] = []
    if isinstance(value, str):
        value = [value]
    pairs: Iterable[tuple[str, Any]] = value if isinstance(value, Pairs) else [("", value)]
    for aspect, one in pairs:
        for text in one if isinstance(one, list) and not isinstance(one, Pairs) else [one]:
            if not isinstance(text, str) or not text.strip():
                raise DataError(
                    f"{path}: class {name!r}{f', {aspect!r}' if aspect else ''}: expected a text "
                    f"or a list of texts, got {text!r:.60}. Correct it."
                )
            texts.append(" ".join(f"{aspect}: {text}".split() if aspect else text.split()))
    if not texts:
        raise DataError(f"{path}: class {name!r}: expected texts, got none. Describe it.")
    return tuple(dict.fromkeys(texts))


def _of_lines(path: Path, answer: str) -> list[tuple[str, tuple[str, ...]]]:
    """Name and text of each line `name: text`, which may be an item of a list."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for number, line in enumerate(answer.splitlines(), 1):
        if not line.strip() or line.strip().startswith("```"):
            continue
        bare = _BULLET.sub("", line.strip())
        name, colon, text = bare.partition(":")
        name, text = normal(name.strip('*_`" ')), text.strip("*_ ")
        if not (colon and name and text):
            raise DataError(
                f"{path}: line {number}: expected `name: text`, or an answer in JSON, got "
                f"{line.strip()!r:.60}. Correct or delete the line."
            )
        found.append((name, (text,)))
    return found
