"""Errors of file readers, turned into one `DataError`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlis.errors import DataError

MAX_EXPANSION = 1100
"""Upper limit of the compression ratio of deflate (1032): larger declared sizes are not genuine."""


@contextmanager
def reading(path: Path, kind: str, remedy: str) -> Iterator[None]:
    """Raise `DataError` for anything that the block raises on a missing or damaged file.

    On damaged bytes the readers of NumPy, HDF5 and Arrow raise arbitrary exceptions (TypeError,
    zlib.error, TokenError, MemoryError). Their warnings are suppressed: the content is validated
    afterwards.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected {kind}, got a folder.") from None
    except MemoryError as error:  # a damaged header may request any amount
        raise DataError(
            f"{path}: out of memory ({_reason(error)}): the file is damaged, or too large for this "
            f"machine. {remedy}"
        ) from error
    except Exception as error:
        raise DataError(f"{path}: not {kind}, or damaged ({_reason(error)}). {remedy}") from error


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8. Raises `DataError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}. Give a text file in UTF-8.") from error


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
