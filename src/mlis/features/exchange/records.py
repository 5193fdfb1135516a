"""Annotated images, and checked access to JSON records that anyone may have written."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from mlis.errors import DataError, MlisError
from mlis.features.decode import ImageError, upright_size
from mlis.features.images.boxes import Box
from mlis.features.images.files import Bad, ImageFile, inside_path
from mlis.storage.atomic import strict_json

Kind = TypeVar("Kind")
_LONGEST = 200  # bytes of a file's or folder's name
_NAMES = {str: "text", dict: "an object", list: "a list", int: "a whole number"}


@dataclass(frozen=True)
class Annotated(ImageFile):
    """An image, or a box in one, as another tool labelled it; or what a model says of it.

    Attributes:
        data: content of the file, where it lies inside another file; `source` is then that file.
        size: (width, height) of the upright picture that the record names.
        scores: class names with probabilities, best first: a prediction, whose `class_name` nobody
            has confirmed.
        where: file and record, for messages.
    """

    data: bytes | None = None
    size: tuple[int, int] | None = None
    scores: tuple[tuple[str, float], ...] = ()
    where: str = ""


Rows = Iterator[Annotated | Bad]


class RecordError(Exception):
    """A record that gives no image; the message is the reason."""


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises `DataError`."""
    try:
        return strict_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected JSON: {error}.") from error


def each(records: Iterable[tuple[str, Any]], read: Callable[[Any, str], Rows]) -> Rows:
    """What `read` gives of each record and its place; bad ones with the reason."""
    for place, record in records:
        try:
            yield from read(record, place)
        except MlisError:
            raise
        except RecordError as error:
            yield Bad(place, _text(str(error)))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            yield Bad(place, _text(f"not a record of this format ({error})"))


def _text(text: str) -> str:
    """Without halves of surrogate pairs, which JSON may have and no file can."""
    return text.encode("utf-8", "backslashreplace").decode()


def numbered(where: str, records: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Records and their places, `where[number]`."""
    for number, record in enumerate(records):
        yield f"{where}[{number}]", record


def field(record: Any, name: str, kind: type[Kind]) -> Kind:
    """A value of a JSON object. Raises `RecordError` unless it is there and of this kind."""
    if not isinstance(record, dict):
        raise RecordError(f"expected an object, got {str(record)[:40]!r}")
    value: Any = cast(dict[str, Any], record).get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise RecordError(f"{name}: expected {_NAMES[kind]}, got {str(value)[:40]!r}")
    return value


def box_of(numbers: Any, *, relative: bool = False) -> Box:
    """A box of four JSON numbers. Raises `RecordError`."""
    values = cast(list[Any], numbers) if isinstance(numbers, list) else []
    if len(values) != 4 or not all(isinstance(one, int | float) for one in values):
        raise RecordError(f"box: expected four numbers, got {str(numbers)[:60]}")
    try:
        return Box(*map(float, values), relative=relative)
    except (ValueError, OverflowError) as error:
        raise RecordError(str(error)) from None


def checked_path(path: str) -> str:
    """A path inside the folder of images. Raises `RecordError`."""
    inside = inside_path(path)
    if inside is None:
        raise RecordError(f"expected a path inside the folder of images, got {path[:80]!r}")
    if max(len(part.encode()) for part in Path(inside).parts) > _LONGEST:
        raise RecordError(f"expected a shorter path, got {path[:40]!r}…")
    return Path(inside).as_posix()


def size_of(record: Any, width: str, height: str) -> tuple[int, int] | None:
    """The size of the picture, if the record has it. Raises `RecordError`."""
    if record.get(width) is None:
        return None
    size = field(record, width, int), field(record, height, int)
    if min(size) < 1:
        raise RecordError(f"{width}, {height}: expected positive numbers, got {size}")
    return size


def picture_size(row: Annotated) -> tuple[int, int]:
    """(width, height) of an upright picture. Raises `DataError`."""
    try:
        return row.size or upright_size(row.source)
    except ImageError as error:
        raise DataError(f"{row.source}: {error}. Leave it out.") from None
