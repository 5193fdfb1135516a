"""Atomic replacement of several files in a folder.

The files are written to a temporary folder inside it, `.save.mlis-….tmp`, which is renamed to
`.mlis-save` when complete. This commits the save; the files are then moved to their places. If the
process is killed before the rename, the old files remain; if it is killed afterwards,
:func:`recover`, which is called before every read and write, moves the remaining files.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlis.errors import DataError
from mlis.storage.atomic import clear_leftovers, strict_json, temporary_name

PENDING = ".mlis-save"
_MAX_RECORD = 256 << 20  # bytes
_REMOVED = ".removed"  # suffix of an empty file that marks a file to delete


@contextmanager
def replaced_together(folder: Path, *, without: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder, whose files replace those of `folder` when the block ends.

    Args:
        folder: created if absent; its other files are kept.
        without: names of files in `folder` to delete with this save.

    Raises:
        OSError: the folder cannot be written; it is unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
    clear_leftovers(folder / "save")
    temporary = folder / temporary_name("save")
    temporary.mkdir()
    try:
        yield temporary
        for name in without:
            if (folder / name).exists():
                (temporary / f"{name}{_REMOVED}").touch()
        for path in temporary.iterdir():
            _complete(path, folder / path.name)
        _rename(temporary, folder / PENDING)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    recover(folder)


def _complete(path: Path, place: Path) -> None:
    """Flush the file `path` to disk, and check that it can replace `place`."""
    if place.is_dir() and not place.is_symlink():
        message = "expected a file to replace, got a folder. Rename it, or save to another folder"
        raise IsADirectoryError(errno.EISDIR, message, str(place))
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def _rename(temporary: Path, pending: Path) -> None:
    for _ in range(10):
        try:
            temporary.rename(pending)
            return
        except OSError:  # another process has committed a save
            if not pending.is_dir():
                raise
            recover(pending.parent)
    message = "another process is saving there. Wait for it, or save to another folder"
    raise OSError(errno.EBUSY, message, str(pending.parent))


def recover(folder: Path) -> None:
    """Complete an interrupted save, if there is a committed one; safe for concurrent processes.

    Raises:
        OSError: the folder cannot be written.
    """
    pending = folder / PENDING
    try:
        names = [path.name for path in pending.iterdir()]
    except (OSError, ValueError):  # usually there is none
        return
    try:
        for name in names:
            with suppress(FileNotFoundError):  # moved by another process
                _move(pending / name, folder)
    except OSError as error:
        message = f"an interrupted save cannot be completed ({error.strerror}). Make it writable"
        raise OSError(error.errno, message, str(folder)) from error
    with suppress(OSError):  # removed by another process, or saved again
        pending.rmdir()


def _move(path: Path, folder: Path) -> None:
    if path.name.endswith(_REMOVED):
        path.stat()  # raises if another process has done this
        (folder / path.name.removesuffix(_REMOVED)).unlink(missing_ok=True)
        path.unlink()
    else:
        path.replace(folder / path.name)


def read_versioned(path: Path, kind: str, version: int, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of a folder, after completing an interrupted save of the folder.

    Args:
        path: of the file.
        kind: its `format`.
        version: its `version`.
        remedy: last part of the messages.

    Raises:
        DataError: the file is missing, damaged, or of another format or version.
    """
    try:
        recover(path.parent)
        if path.stat().st_size > _MAX_RECORD:
            raise ValueError(f"expected at most {_MAX_RECORD} bytes, got more")
        record = strict_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file. Give a complete folder of the format {kind!r}."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: damaged, or cannot be read: {reason}. {remedy}") from error
    if not isinstance(record, dict) or record.get("format") != kind:
        raise DataError(f"{path}: expected the format {kind!r}. {remedy}")
    if record.get("version") != version:
        got = record.get("version")
        raise DataError(f"{path}: expected version {version}, got {got!r}. {remedy}")
    return record
