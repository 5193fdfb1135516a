"""Exclusive use of a folder. The lock goes with the process, however it ends."""

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
_MARK = b"process "  # what a lock file of ours begins with


@contextlib.contextmanager
def held(folder: Path) -> Generator[None, None, None]:
    """Keep other processes out of `folder` while this lasts.

    Raises:
        SettingsError: the folder is in use by another process.
        OSError: the folder cannot be made or locked.
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
    """Hold `folder` (made if absent) until the returned handle is closed.

    Args:
        folder: gets a file `.mlis.lock`, which stays and says who held it last. A symbolic link
            of that name is refused; a file that says something else is left as it is.
        waiting: called with who holds the folder now, before waiting for that process; None: do
            not wait.

    Raises:
        BlockingIOError: another process holds it, and `waiting` is None.
        OSError: the folder cannot be made or locked.
    """
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _opened(path)
        try:
            _lock(handle, path, waiting)
            if _is_still(handle, path):
                _sign(handle)
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()  # the folder was deleted while we waited: the next one locks a new file


def _opened(path: Path) -> BinaryIO:
    """Open the lock file, for reading where it is not ours to write; no link is followed."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    there = os.path.lexists(path)
    if there and not stat.S_ISREG(path.lstat().st_mode):
        told = "expected a plain file for the lock. Remove it"
        raise FileExistsError(errno.EEXIST, told, str(path))
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644), "rb+")
    except OSError:  # a read-only disk or another user's file: reading is enough for a lock
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
    except OSError as error:  # a network file system without locks, say
        reason = f"the folder cannot be locked ({error.strerror}). Choose one on a local disk"
        raise OSError(error.errno, reason, str(path.parent)) from error
    raise BlockingIOError(errno.EWOULDBLOCK, _holder(handle), str(path))


def _holder(handle: BinaryIO) -> str:
    with contextlib.suppress(OSError):  # Windows lets nobody else read it
        text = handle.read(200)
        if text.startswith(_MARK):
            return text.decode(errors="replace").strip()
    return "unknown process"


def _is_still(handle: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _sign(handle: BinaryIO) -> None:
    """Say who holds the folder, in a file that is empty or said so before."""
    if not handle.writable() or handle.read(len(_MARK)) not in (b"", _MARK):
        return
    handle.seek(0)
    handle.truncate()
    handle.write(_MARK + f"{os.getpid()} on {platform.node()}\n".encode())
    handle.flush()
