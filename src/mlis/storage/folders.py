"""Folders whose files belong together: a save replaces all of them, or none.

A save writes its files to a new folder inside, `.save.mlis-….tmp`. When they are complete, that
folder is renamed to `.mlis-save`: from then on the save is done, and its files only have to be
moved to their places. A process that is killed before the rename leaves the old files; one that is
killed after it leaves the rest to :func:`recover`, which every reader and writer calls first.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlis.storage.atomic import clear_leftovers, temporary_name

PENDING = ".mlis-save"
_REMOVED = ".removed"  # ending of an empty file that says: its namesake goes


@contextmanager
def replaced_together(folder: Path, *, without: Sequence[str] = ()) -> Iterator[Path]:
    """Give a new folder to write files to, which replace those of `folder` when the block ends.

    Args:
        folder: made if absent; its other files stay.
        without: names of files in it that go, as they belong to what is replaced.

    Raises:
        OSError: the folder cannot be written; it stays as it was.
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
    """Have the file `path` on disk; it must be able to replace `place`."""
    if place.is_dir() and not place.is_symlink():
        told = "expected a file to replace, got a folder. Rename it, or save to another folder"
        raise IsADirectoryError(errno.EISDIR, told, str(place))
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def _rename(temporary: Path, pending: Path) -> None:
    for _ in range(10):
        try:
            temporary.rename(pending)
            return
        except OSError:  # another process has just saved there, and is about to move its files
            if not pending.is_dir():
                raise
            recover(pending.parent)
    told = "is saved to by another process. Wait for it, or save to another folder"
    raise OSError(errno.EBUSY, told, str(pending.parent))


def recover(folder: Path) -> None:
    """Complete a save that was interrupted when its files were complete, if there is one.

    Several processes may do so at the same time.

    Raises:
        OSError: the folder cannot be written.
    """
    pending = folder / PENDING
    try:
        names = [path.name for path in pending.iterdir()]
    except (OSError, ValueError):  # as good as always, there is none
        return
    try:
        for name in names:
            with suppress(FileNotFoundError):  # moved by another process meanwhile
                _put(pending / name, folder)
    except OSError as error:
        told = f"an interrupted save cannot be completed ({error.strerror}). Make it writable"
        raise OSError(error.errno, told, str(folder)) from error
    with suppress(OSError):  # another process has removed it, or has saved again
        pending.rmdir()


def _put(path: Path, folder: Path) -> None:
    if path.name.endswith(_REMOVED):
        path.stat()  # raises where another process was here
        (folder / path.name.removesuffix(_REMOVED)).unlink(missing_ok=True)
        path.unlink()
    else:
        path.replace(folder / path.name)
