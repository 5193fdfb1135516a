"""Atomic writes, strict JSON, and records with a checksum."""

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
    """Yield a temporary path beside `path`, and rename it to `path` when the block succeeds.

    The data is flushed to disk before the rename, so that a power failure leaves either the old or
    the new file. If the block raises, the temporary file is removed and `path` is unchanged.

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
    """Name `path` in an `OSError` that names `temporary`, or no file (as for a full disk)."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def temporary_name(name: str) -> str:
    """Temporary name of `name`, which contains host and process."""
    return f".{name}.mlis-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def clear_leftovers(path: Path) -> None:
    """Delete temporary files of `path` left by killed processes of this machine."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.mlis-{_host()}-*.tmp"):
        found = _TEMPORARY.fullmatch(leftover.name)
        if found and not _is_alive(int(found["process"])):
            _delete(leftover)


def clear_all_leftovers(folder: Path) -> None:
    """Delete temporary files below `folder` left by killed processes of any machine.

    The caller must hold the lock of the folder (:mod:`mlis.storage.locks`).
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
    if sys.platform == "win32":  # there, signal 0 terminates the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN raises `ValueError`.

    Raises:
        DataError: a string is not valid Unicode, as some file names.
        OSError: the file cannot be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    check_unicode(text, Path(path).name)
    write_text(path, text)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_unicode(text: str, what: str) -> None:
    """Raise `DataError`, beginning with `what`, if `text` cannot be encoded in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        start, end = text.rfind('"', 0, error.start) + 1, text.find('"', error.end)
        near = text[max(start, error.start - 60) : end if end >= 0 else None]
        raise DataError(
            f"{what}: expected Unicode text, got {near[:80]!a}, which UTF-8 cannot encode. Rename "
            "it."
        ) from None


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with a checksum, for a record that must not be modified.

    >>> without_checksum(with_checksum({"H": 61.5}))
    {'H': 61.5}
    >>> without_checksum({**with_checksum({"H": 61.5}), "H": 67.5})
    Traceback (most recent call last):
    ValueError: its content does not match its checksum
    """
    return {**values, CHECK: _checksum(values)}


def without_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Verify and remove the checksum. Raises `ValueError` if a value was changed."""
    rest = {name: value for name, value in values.items() if name != CHECK}
    if values.get(CHECK) != _checksum(rest):
        raise ValueError("its content does not match its checksum")
    return rest


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def strict_json(text: str | bytes) -> Any:
    """Parse standard JSON.

    Raises:
        ValueError: invalid JSON, NaN, a number beyond float64, or too many nested levels.
    """
    try:
        return json.loads(
            text, parse_constant=_reject_constant, parse_int=_integer, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("too many nested levels") from None


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def _integer(text: str) -> int:
    number = int(text)
    _finite(text)
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} exceeds float64")
    return number


def cache_folder() -> Path:
    """The user's cache folder: `$MLIS_CACHE` if set, else the default of the system."""
    return Path(os.environ.get("MLIS_CACHE") or platformdirs.user_cache_dir("mlis"))
