"""Writing files so that no reader ever sees half of one."""

import contextlib
import glob
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from mlis.errors import DataError

CHECK = "check"
_TEMPORARY = re.compile(
    r"\..+\.mlis-(?P<host>[0-9a-f]{8})-(?P<process>[0-9]{1,10})-[0-9a-f]{8}\.tmp", re.DOTALL
)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well.

    The data is flushed to disk before the rename, so that a power cut leaves either the old
    file or the new one. When the block raises, the temporary file is removed and `path` stays
    as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text(), len(list(Path(folder).iterdir()))
    ('whole', 1)
    """
    path = Path(path)
    clear_leftovers(path)
    temporary = path.with_name(temporary_name(path.name))
    try:
        with naming(path, temporary):
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name `path` in an `OSError` that names no file, as of a full disk, or its temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def temporary_name(name: str) -> str:
    """A name for what becomes `name` when it is complete; says which process writes it."""
    return f".{name}.mlis-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def clear_leftovers(path: Path) -> None:
    """Delete what killed processes of this machine left half written of `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.mlis-{_host()}-*.tmp"):
        found = _TEMPORARY.fullmatch(leftover.name)
        if found and not _is_alive(int(found["process"])):
            _delete(leftover)


def clear_all_leftovers(folder: Path) -> None:
    """Delete what killed processes of any machine left half written below `folder`.

    The caller holds the folder (:mod:`mlis.storage.locks`): nobody else writes there.
    """
    for path in list(folder.rglob(".*.tmp")):
        if _TEMPORARY.fullmatch(path.name):
            _delete(path)


def _delete(leftover: Path) -> None:
    with contextlib.suppress(OSError):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: it is not JSON.

    Raises:
        DataError: a text in it is not Unicode, as names of files may be.
        OSError: the file cannot be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    check_unicode(text, Path(path).name)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_unicode(text: str, what: str) -> None:
    """Raise `DataError`, beginning with `what`, where UTF-8 cannot hold `text`."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        start, end = text.rfind('"', 0, error.start) + 1, text.find('"', error.end)
        near = text[max(start, error.start - 60) : end if end >= 0 else None]
        raise DataError(
            f"{what}: expected Unicode text, got {near[:80]!a}, which UTF-8 cannot hold. "
            "Rename what is named so."
        ) from None


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with check digits over all of them, for a record whose numbers must not change.

    >>> unsealed(sealed({"H": 61.5}))
    {'H': 61.5}
    >>> unsealed({**sealed({"H": 61.5}), "H": 67.5})
    Traceback (most recent call last):
    ValueError: its content does not match its check digits
    """
    return {**values, CHECK: _check_digits(values)}


def unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `sealed`. Raises `ValueError` where a value has changed since."""
    rest = {name: value for name, value in values.items() if name != CHECK}
    if values.get(CHECK) != _check_digits(rest):
        raise ValueError("its content does not match its check digits")
    return rest


def _check_digits(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def strict_json(text: str | bytes) -> Any:
    """JSON as the standard has it, of numbers that fit a float64.

    Raises:
        ValueError: NaN, a number beyond 1e308, or it nests too deep.
    """
    try:
        return json.loads(
            text, parse_constant=_no_number, parse_int=_whole, parse_float=_fractional
        )
    except RecursionError:
        raise ValueError("it nests too deep") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _whole(text: str) -> int:
    number = int(text)
    _fractional(text)
    return number


def _fractional(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def cache_folder() -> Path:
    """The user's cache folder: `$MLIS_CACHE` where it is set, else the system's usual place."""
    return Path(os.environ.get("MLIS_CACHE") or platformdirs.user_cache_dir("mlis"))
