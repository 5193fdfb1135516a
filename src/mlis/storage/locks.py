"""Exclusive locks of folders, released when the process ends in any way."""

import contextlib
import errno
import os
import platform
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor

from mlis.errors import SettingsError

LOCK = ".mlis.lock"
_MARK = b"process "  # start of a lock file written by mlis


@contextlib.contextmanager
def held(folder: Path) -> Generator[None, None, None]:
    """Lock `folder` for the block.

    Raises:
        SettingsError: the folder is in use by another process.
        OSError: the folder cannot be created or locked.
    """
    try:
        handle = lock_folder(folder)
    except BlockingIOError as error:
        raise SettingsError(
            f"{folder} is in use by another process ({error.strerror}). Wait for it, or choose "
            "another folder."
        ) from None
    with handle:
        yield


def lock_folder(folder: Path, waiting: Callable[[str], None] | None = None) -> BinaryIO:
    """Lock `folder` (created if absent) until the returned handle is closed.

    Args:
        folder: its file `.mlis.lock` is kept and names the last holder. A symbolic link of that
            name raises an error; a file with other content is not modified.
        waiting: called with the current holder before waiting for it; None: do not wait.

    Raises:
        BlockingIOError: another process holds the lock, and `waiting` is None.
        OSError: the folder cannot be created or locked.
    """
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _opened(path)
        try:
            _lock(handle, path, waiting)
            if _is_current(handle, path):
                _write_holder(handle)
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()  # the folder was deleted meanwhile: lock a new file


def _opened(path: Path) -> BinaryIO:
    """Open the lock file without following links, for reading only if it is not writable."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    there = os.path.lexists(path)
    if there and not stat.S_ISREG(path.lstat().st_mode):
        message = "expected a regular file for the lock. Remove it"
        raise FileExistsError(errno.EEXIST, message, str(path))
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644), "rb+")
    except OSError:  # read-only disk, or file of another user: reading is sufficient for a lock
        if not there:
            raise
        return os.fdopen(os.open(path, os.O_RDONLY | flags), "rb")


def _lock(handle: BinaryIO, path: Path, waiting: Callable[[str], None] | None) -> None:
    try:
        if lock_descriptor(handle.fileno(), blocking=False):
            return
        if waiting is not None:
            waiting(_holder(handle))
            lock_descriptor(handle.fileno())
            return
    except OSError as error:  # such as a network file system without locks
        reason = f"the folder cannot be locked ({error.strerror}). Choose one on a local disk"
        raise OSError(error.errno, reason, str(path.parent)) from error
    raise BlockingIOError(errno.EWOULDBLOCK, _holder(handle), str(path))


def _holder(handle: BinaryIO) -> str:
    with contextlib.suppress(OSError):  # on Windows, a locked file cannot be read
        text = handle.read(200)
        if text.startswith(_MARK):
            return text.decode(errors="replace").strip()
    return "unknown process"


def _is_current(handle: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _write_holder(handle: BinaryIO) -> None:
    """Write the holder to the file, if it is empty or written by mlis."""
    if not handle.writable() or handle.read(len(_MARK)) not in (b"", _MARK):
        return
    handle.seek(0)
    handle.truncate()
    handle.write(_MARK + f"{os.getpid()} on {platform.node()}\n".encode())
    handle.flush()
