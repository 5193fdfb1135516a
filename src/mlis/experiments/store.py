"""Append-only results store: JSON Lines, one line per run.

Why JSON lines and not a database: a row is appended under a lock and flushed to disk, so that it is
there whole or not at all; people and `grep` read it; two stores are merged by `cat`; it lies on any
disk and needs no server. A row's key is the hash of everything that its numbers depend on, and no
key is ever there twice. A last line that was cut short (a process killed while writing) is not a
row: readers pass it over, and the next writer removes it.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlis.errors import DataError
from mlis.evaluation import summarise
from mlis.provenance import PROTOCOL
from mlis.storage.atomic import CHECK, naming, strict_json, with_checksum, without_checksum
from mlis.storage.locks import lock_folder

SCHEMA = 1
TEST_BEST = "H@test-best (optimistic)"
PROTOCOLS = (PROTOCOL, TEST_BEST)
STAND_IN = "stand-in"
_BEGINNING = b'{"key": '  # of a line
_WORDS: dict[Any, str] = {str: "text", Mapping: "an object", Mapping | None: "an object or null"}
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("key", "finished"), str),
    **dict.fromkeys(("task", "test", "chosen", "cost", "provenance"), Mapping),
    "validation": Mapping | None,
}


@dataclass(frozen=True)
class Row:
    """One run and what it measured.

    Attributes:
        key: hash of everything that the numbers depend on (`Task.key`).
        protocol: one of `PROTOCOLS`; the label goes wherever the numbers go.
        task: all that is needed to do the run again (`Task.to_dict`).
        test: measures on the test rows, per cent (`Evaluation.to_dict`, and retrieval).
        validation: measures on the validation classes; None where nothing was chosen there.
        calibration: constant that is taken from seen scores.
        chosen: what validation chose beside it.
        cost: `seconds`, wall time in the process that finished the run, and whether a generator
            came from the cache (`reused`); earlier versions wrote more.
        provenance: data, machine, versions (:func:`mlis.provenance.provenance`).
        finished: UTC, ISO 8601.
        schema: of this row.
    """

    key: str
    protocol: str
    task: Mapping[str, Any]
    test: Mapping[str, Any]
    validation: Mapping[str, Any] | None
    calibration: float
    chosen: Mapping[str, Any]
    cost: Mapping[str, Any]
    provenance: Mapping[str, Any]
    finished: str
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise DataError(f"a row of schema {self.schema}: this version reads {SCHEMA}")
        if self.protocol not in PROTOCOLS:
            expected = " or ".join(map(repr, PROTOCOLS))
            raise DataError(f"protocol: expected {expected}, got {self.protocol!r}")
        for name, kind in _KINDS.items():
            if not isinstance(value := getattr(self, name), kind):
                raise DataError(f"{name}: expected {_WORDS[kind]}, got {value!r}")
        if self.provenance.get("stacked"):  # earlier versions could train seeds together
            raise DataError(
                f"provenance.stacked: expected none, got {self.provenance['stacked']!r}: seeds are "
                "no longer trained together"
            )
        summarise([self.test])  # its measures are numbers

    @property
    def stand_in(self) -> bool:
        """Whether the data were made up in a benchmark's format; then no number means anything."""
        return is_stand_in(self.provenance.get("notes", ()))

    def to_line(self) -> bytes:
        """Strict JSON and a newline."""
        values = with_checksum(dataclasses.asdict(self))
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def is_stand_in(notes: Any) -> bool:
    """Whether the notes of a dataset's provenance call it a stand-in.

    >>> is_stand_in(["stand-in: features made up"]), is_stand_in([])
    (True, False)
    """
    return any(str(note).startswith(STAND_IN) for note in notes)


def parse(line: bytes) -> Row:
    """Read what `to_line` wrote.

    Raises:
        ValueError: it is not that (a DataError where it is a row, but a wrong one).
    """
    values = strict_json(line)
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    names = {field.name for field in dataclasses.fields(Row)}
    if missing := sorted(names - values.keys()):
        raise ValueError(f"{', '.join(missing)} missing")
    if unknown := sorted(values.keys() - names - {CHECK}):
        raise ValueError(f"{', '.join(unknown)} unknown")
    return Row(**(without_checksum(values) if CHECK in values else values))


class Store:
    """Rows in a file, for any number of processes.

    Args:
        path: the `.jsonl` file; made with its folder when the first row comes.
    """

    def __init__(self, path: Path):
        self.path = path
        self._rows: dict[str, Row] = {}
        self._read = 0  # bytes, up to the end of a line
        self._lines = 0

    def __iter__(self) -> Iterator[Row]:
        """All rows, oldest first; of a key that a merge brought twice the first."""
        self._refresh()
        return iter(tuple(self._rows.values()))

    def get(self, key: str) -> Row | None:
        """The row of a key, if any process has added it."""
        if key not in self._rows:
            self._refresh()
        return self._rows.get(key)

    def find(self, prefix: str) -> Row:
        """The one row whose key begins so.

        Raises:
            DataError: none does, or several do.
        """
        found = [row for row in self if row.key.startswith(prefix)]
        if len(found) != 1 or not prefix:
            count = len(found) if prefix else "many"
            raise DataError(
                f"expected the beginning of one row's key in {self.path}, got {prefix!r}, which "
                f"{count} have: give more, or other, letters"
            )
        return found[0]

    def append(self, row: Row) -> bool:
        """Add a row, on disk when this returns; False where its key is there already.

        Raises:
            OSError: the file cannot be written.
            DataError: a line of it is damaged.
        """
        with (
            naming(self.path),
            lock_folder(self.path.parent, waiting=lambda holder: None),
            self.path.open("ab") as handle,
        ):
            self._refresh()
            self._mend(handle)
            self._refresh()
            if row.key in self._rows:
                return False
            handle.write(row.to_line())
            handle.flush()
            os.fsync(handle.fileno())
        self._refresh()
        return True

    def _mend(self, handle: BinaryIO) -> None:
        """End a last line that lacks its newline; remove one that is cut short.

        Raises:
            DataError: it is whole, or not the beginning of a row: nothing of others is removed.
        """
        rest = self._after(self._read)
        whole = _whole(rest)
        if whole is not None:
            self._parse(rest[:whole], self._lines + 1)
        elif not _BEGINNING.startswith(rest[: len(_BEGINNING)]):
            raise DataError(
                f"{self.path}: its last line is not a result row: {rest[:40]!r}. Remove that line, "
                "or choose another folder."
            )
        handle.truncate(self._read + (whole or 0))
        if whole is not None:
            handle.write(b"\n")
        handle.flush()

    def _after(self, position: int) -> bytes:
        with self.path.open("rb") as handle:
            handle.seek(position)
            return handle.read()

    def _refresh(self) -> None:
        """Read the whole lines that have come since the last time."""
        try:
            if self.path.stat().st_size < self._read:  # another file by now
                self._rows, self._read, self._lines = {}, 0, 0
            new = self._after(self._read)
        except FileNotFoundError:
            return
        for line in new[: new.rfind(b"\n") + 1].splitlines(keepends=True):
            row = self._parse(line, self._lines + 1)
            self._lines += 1
            self._rows.setdefault(row.key, row)
            self._read += len(line)

    def _parse(self, line: bytes, number: int) -> Row:
        try:
            return parse(line)
        except ValueError as error:
            raise DataError(
                f"{self.path}, line {number}: no result row ({error}): remove that line, "
                f"and its run is done again"
            ) from None


def _whole(rest: bytes) -> int | None:
    """Bytes of the JSON object that `rest` begins with; None where it is cut short.

    What follows a whole object is its newline, damaged.
    """
    text = rest.decode("utf-8", "surrogateescape")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return len(text[:end].encode("utf-8", "surrogateescape"))
