"""Holding a folder against other processes. The lock goes with the process, however it ends."""

import contextlib
import os
import platform
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

from mlis.errors import SettingsError

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows: no lock, so no protection from a second process)
    fcntl = None


@contextlib.contextmanager
def held(folder: Path) -> Generator[None, None, None]:
    """Keep a second process out of `folder` while this lasts.

    Raises:
        SettingsError: another process works there.
        OSError: the folder cannot be made or locked.
    """
    try:
        handle = lock_folder(folder)
    except BlockingIOError:
        raise SettingsError(
            f"another process works in {folder}: wait for it, or choose another folder"
        ) from None
    with handle:
        yield


def lock_folder(folder: Path, waiting: Callable[[str], None] | None = None) -> BinaryIO:
    """Hold `folder` (made if absent) until the returned handle is closed.

    Args:
        folder: gets a file `.lock`, which stays and says who held it last.
        waiting: called with who holds the folder now, before waiting for that process; None: do
            not wait.

    Raises:
        BlockingIOError: another process holds it, and `waiting` is None.
        OSError: the folder cannot be made or locked.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _opened(folder / ".lock")
        try:
            _flock(handle, waiting)
            if _is_still(handle, folder / ".lock"):
                _sign(handle)
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()  # the folder was deleted while we waited: whoever comes now locks a new one


def _opened(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "rb+")
    except OSError:
        if not path.exists():
            raise
        return path.open("rb")  # read-only, and enough for a lock


def _flock(handle: BinaryIO, waiting: Callable[[str], None] | None) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            raise
        waiting(handle.read().decode(errors="replace").strip() or "another process")
        fcntl.flock(handle, fcntl.LOCK_EX)


def _is_still(handle: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sign(handle: BinaryIO) -> None:
    if handle.writable():
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        handle.flush()
